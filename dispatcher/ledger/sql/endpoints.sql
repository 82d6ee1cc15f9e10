-- name: lock_account
-- Serialize the makers of endpoints of one account; nothing else waits for this lock. First in the transaction.
SELECT account_id FROM account WHERE account_id = $1 FOR NO KEY UPDATE

-- name: count_endpoints
-- Count what the account has in one environment. Index: endpoint_list.
SELECT count(*) AS n FROM endpoint WHERE account_id = $1 AND environment = $2 AND status <> 'deleted'

-- name: find_host
-- Read the number of a host. Index: the unique key.
SELECT host_id FROM host WHERE authority = $1

-- name: create_host
-- Make a host with the default limits; no row when another process made it meanwhile.
INSERT INTO host (authority, rate, burst, in_flight, interval_us, grant_burst) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING RETURNING host_id

-- name: next_secret_id
-- Take the number of a new secret before it is sealed: the seal names it.
SELECT nextval(pg_get_serial_sequence('endpoint_secret', 'secret_id')) AS secret_id

-- name: create_endpoint
-- Insert an endpoint, enabled.
INSERT INTO endpoint (public_id, account_id, environment, host_id, url, description, events, outcomes, workflows,
                      api_version, payload_mode, sealed_headers, header_names, schedule, metadata)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
RETURNING endpoint_id, created_at

-- name: create_secret
-- Insert a sealed signing secret under the number it was sealed for.
INSERT INTO endpoint_secret (secret_id, endpoint_id, sealed_key, last4) VALUES ($1, $2, $3, $4)

-- name: list_endpoints
-- Read a page of one account's endpoints, newest first, deleted ones left out. Indexes: endpoint_list, attempt_endpoint.
-- The latest success stands right before the failures in a row: it is looked for among the hundred attempts there.
-- $3 only below this number, $4 rows.
WITH page AS (
  SELECT * FROM endpoint
  WHERE account_id = $1 AND environment = $2 AND status <> 'deleted' AND ($3::int IS NULL OR endpoint_id < $3)
  ORDER BY endpoint_id DESC LIMIT $4)
SELECT e.endpoint_id, e.public_id, e.environment, e.url, e.description, e.events, e.outcomes, e.workflows, e.api_version,
       e.payload_mode, e.header_names, e.schedule, e.metadata, e.status, e.disabled_reason, e.held_since, e.verified_at,
       e.created_at, e.changed_at, s.last4, p.expires_at AS previous_expires_at,
       l.started_at AS last_attempt_at, l.status AS last_status, l.outcome AS last_outcome,
       COALESCE(h.failures, 0) AS failures, f.failing_since, w.started_at AS last_success_at
FROM page e
LEFT JOIN LATERAL (SELECT last4 FROM endpoint_secret WHERE endpoint_id = e.endpoint_id AND expires_at IS NULL
                   ORDER BY secret_id DESC LIMIT 1) s ON true
LEFT JOIN LATERAL (SELECT expires_at FROM endpoint_secret WHERE endpoint_id = e.endpoint_id AND expires_at > now()
                   ORDER BY secret_id DESC LIMIT 1) p ON true
LEFT JOIN LATERAL (SELECT started_at, status, outcome FROM attempt
                   WHERE endpoint_id = e.endpoint_id AND outcome IS NOT NULL
                   ORDER BY started_at DESC LIMIT 1) l ON true
LEFT JOIN endpoint_health h USING (endpoint_id)
LEFT JOIN failing_endpoint f USING (endpoint_id)
LEFT JOIN LATERAL (SELECT x.started_at FROM (
                     SELECT started_at, outcome FROM attempt
                     WHERE endpoint_id = e.endpoint_id AND e.verified_at IS NOT NULL
                       AND started_at < COALESCE(h.failing_since, 'infinity')
                     ORDER BY started_at DESC LIMIT 100) x
                   WHERE x.outcome = 'delivered' ORDER BY x.started_at DESC LIMIT 1) w ON true
ORDER BY e.endpoint_id DESC

-- name: find_endpoint
-- Read one endpoint of one account; a deleted one is not there. Indexes: the unique key, attempt_endpoint.
-- The latest success as in `list_endpoints`.
SELECT e.endpoint_id, e.public_id, e.environment, e.url, e.description, e.events, e.outcomes, e.workflows, e.api_version,
       e.payload_mode, e.header_names, e.schedule, e.metadata, e.status, e.disabled_reason, e.held_since, e.verified_at,
       e.created_at, e.changed_at, s.last4, p.expires_at AS previous_expires_at,
       l.started_at AS last_attempt_at, l.status AS last_status, l.outcome AS last_outcome,
       COALESCE(h.failures, 0) AS failures, f.failing_since, w.started_at AS last_success_at
FROM endpoint e
LEFT JOIN LATERAL (SELECT last4 FROM endpoint_secret WHERE endpoint_id = e.endpoint_id AND expires_at IS NULL
                   ORDER BY secret_id DESC LIMIT 1) s ON true
LEFT JOIN LATERAL (SELECT expires_at FROM endpoint_secret WHERE endpoint_id = e.endpoint_id AND expires_at > now()
                   ORDER BY secret_id DESC LIMIT 1) p ON true
LEFT JOIN LATERAL (SELECT started_at, status, outcome FROM attempt
                   WHERE endpoint_id = e.endpoint_id AND outcome IS NOT NULL
                   ORDER BY started_at DESC LIMIT 1) l ON true
LEFT JOIN endpoint_health h USING (endpoint_id)
LEFT JOIN failing_endpoint f USING (endpoint_id)
LEFT JOIN LATERAL (SELECT x.started_at FROM (
                     SELECT started_at, outcome FROM attempt
                     WHERE endpoint_id = e.endpoint_id AND e.verified_at IS NOT NULL
                       AND started_at < COALESCE(h.failing_since, 'infinity')
                     ORDER BY started_at DESC LIMIT 100) x
                   WHERE x.outcome = 'delivered' ORDER BY x.started_at DESC LIMIT 1) w ON true
WHERE e.public_id = $3 AND e.account_id = $1 AND e.environment = $2 AND e.status <> 'deleted'

-- name: mark_deleted
-- End an endpoint; its row stays for its history. No row when it is not there or not this account's.
UPDATE endpoint SET status = 'deleted', sealed_headers = NULL, changed_at = now()
WHERE public_id = $3 AND account_id = $1 AND environment = $2 AND status <> 'deleted'
RETURNING endpoint_id

-- name: delete_secrets
-- Destroy the secrets of an endpoint. Index: endpoint_secret_endpoint.
DELETE FROM endpoint_secret WHERE endpoint_id = $1

-- name: find_answer
-- Read the kept answer to an idempotency key not older than a day. Index: primary key.
SELECT request_sha256, status, response FROM idempotency_key
WHERE account_id = $1 AND environment = $2 AND idempotency_key = $3 AND created_at > now() - interval '24 hours'

-- name: keep_answer
-- Keep an answer under its idempotency key for a day; replaces one that is older.
INSERT INTO idempotency_key AS k (account_id, environment, idempotency_key, request_sha256, status, response)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (account_id, environment, idempotency_key) DO UPDATE
SET request_sha256 = EXCLUDED.request_sha256, status = EXCLUDED.status, response = EXCLUDED.response, created_at = now()
WHERE k.created_at <= now() - interval '24 hours'

-- name: forget_answers
-- Drop the account's answers that are older than a day. Index: primary key, by its first two columns.
DELETE FROM idempotency_key
WHERE account_id = $1 AND environment = $2 AND created_at <= now() - interval '24 hours'
