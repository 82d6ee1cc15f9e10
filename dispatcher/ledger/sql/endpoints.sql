-- name: count_endpoints
-- Count what the account has in one environment. Index: endpoint_list.
SELECT count(*) AS n FROM endpoint WHERE account_id = $1 AND environment = $2 AND status <> 'deleted'

-- name: find_host
-- Read the number of a host. Index: the unique key.
SELECT host_id FROM host WHERE authority = $1

-- name: hold_host
-- Read the number of a host that an endpoint comes to, and keep it from being forgotten meanwhile. Waits for who forgets it
-- just now, then there is no row. Locks: KEY SHARE, as the endpoint's foreign key does. Index: the unique key.
SELECT host_id FROM host WHERE authority = $1 FOR KEY SHARE

-- name: leave_host
-- Note that an endpoint leaves a host: it is idle a day later at the soonest.
UPDATE host SET changed_at = now() WHERE host_id = $1

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
                      api_version, payload_mode, sealed_headers, header_names, schedule, rate_limit, metadata)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
RETURNING endpoint_id, created_at

-- name: change_endpoint
-- Give an endpoint new settings; at another host it has to prove itself again. `settings_at` only grows: it is the
-- version that entity tags name. The row is locked by `lock_endpoint`.
UPDATE endpoint SET host_id = $2, url = $3, description = $4, events = $5, outcomes = $6, workflows = $7, api_version = $8,
  payload_mode = $9, sealed_headers = $10, header_names = $11, schedule = $12, rate_limit = $13, metadata = $14,
  verified_at = CASE WHEN host_id = $2 THEN verified_at END, moved_at = CASE WHEN host_id = $2 THEN moved_at ELSE now() END,
  changed_at = GREATEST(now(), changed_at + interval '1 microsecond'),
  settings_at = GREATEST(now(), settings_at + interval '1 microsecond')
WHERE endpoint_id = $1

-- name: forget_pauses
-- Forget the pauses of an endpoint that moved to another host. Index: primary key.
UPDATE endpoint_pace SET paused_until = 'epoch', opens = 0 WHERE endpoint_id = $1

-- name: forget_failures
-- Forget the failures in a row of an endpoint that moved to another host: they were the former one's, and none of them
-- may disable it at the new one. Index: primary key.
UPDATE endpoint_health SET failures = 0, failing_since = NULL, announced_at = NULL, is_past = false WHERE endpoint_id = $1

-- name: move_waiting
-- Put up to $1 waiting deliveries of endpoints that moved within the hour under the host that they have now. What a
-- process holds comes back under the old host and is moved then. Locks the rows, SKIP LOCKED.
-- Indexes: endpoint_moved, delivery_endpoint.
WITH moved AS (
  SELECT endpoint_id, host_id FROM endpoint WHERE moved_at > now() - interval '1 hour'),
picked AS (
  SELECT d.delivery_id, m.host_id FROM moved m JOIN delivery d USING (endpoint_id)
  WHERE d.owner IS NULL AND d.host_id <> m.host_id
  LIMIT $1 FOR UPDATE OF d SKIP LOCKED)
UPDATE delivery d SET host_id = picked.host_id FROM picked WHERE d.delivery_id = picked.delivery_id

-- name: create_secret
-- Insert a sealed signing secret under the number it was sealed for.
INSERT INTO endpoint_secret (secret_id, endpoint_id, sealed_key, last4) VALUES ($1, $2, $3, $4)

-- name: list_endpoints
-- Read a page of one account's endpoints, newest first, deleted ones left out. Indexes: endpoint_list, attempt_endpoint.
-- The latest success is the latest attempt, mostly; else it stands right before the failures in a row.
-- $3 only below this number, $4 rows.
WITH page AS (
  SELECT * FROM endpoint
  WHERE account_id = $1 AND environment = $2 AND status <> 'deleted' AND ($3::int IS NULL OR endpoint_id < $3)
  ORDER BY endpoint_id DESC LIMIT $4)
SELECT e.endpoint_id, e.public_id, e.environment, e.url, e.description, e.events, e.outcomes, e.workflows, e.api_version,
       e.payload_mode, e.header_names, e.schedule, e.rate_limit::numeric::float8 AS rate_limit,
       e.metadata, e.status, e.disabled_reason, e.held_since, e.verified_at, e.created_at, e.settings_at,
       s.last4, p.expires_at AS previous_expires_at,
       l.started_at AS last_attempt_at, l.status AS last_status, l.outcome AS last_outcome,
       COALESCE(h.failures, 0) AS failures, f.failing_since,
       CASE WHEN l.outcome = 'delivered' AND l.started_at < COALESCE(h.failing_since, 'infinity') AND e.verified_at IS NOT NULL
            THEN l.started_at
            ELSE last_success(CASE WHEN e.verified_at IS NOT NULL THEN e.endpoint_id END, COALESCE(h.failing_since, 'infinity'))
       END AS last_success_at
FROM page e
LEFT JOIN LATERAL (SELECT last4 FROM endpoint_secret WHERE endpoint_id = e.endpoint_id AND expires_at IS NULL
                   ORDER BY secret_id DESC LIMIT 1) s ON true
LEFT JOIN LATERAL (SELECT expires_at FROM endpoint_secret WHERE endpoint_id = e.endpoint_id AND expires_at > now()
                   ORDER BY secret_id DESC LIMIT 1) p ON true
LEFT JOIN LATERAL (SELECT started_at, status, outcome FROM attempt
                   WHERE endpoint_id = e.endpoint_id AND outcome IS NOT NULL AND started_at <= now() + interval '1 day'
                   ORDER BY started_at DESC LIMIT 1) l ON true
LEFT JOIN endpoint_health h USING (endpoint_id)
LEFT JOIN failing_endpoint f USING (endpoint_id)
ORDER BY e.endpoint_id DESC

-- name: find_endpoint
-- Read one endpoint of one account; a deleted one is not there. Indexes: the unique key, attempt_endpoint.
-- The latest success as in `list_endpoints`.
SELECT e.endpoint_id, e.public_id, e.environment, e.url, e.description, e.events, e.outcomes, e.workflows, e.api_version,
       e.payload_mode, e.header_names, e.schedule, e.rate_limit::numeric::float8 AS rate_limit,
       e.metadata, e.status, e.disabled_reason, e.held_since, e.verified_at, e.created_at, e.settings_at,
       s.last4, p.expires_at AS previous_expires_at,
       l.started_at AS last_attempt_at, l.status AS last_status, l.outcome AS last_outcome,
       COALESCE(h.failures, 0) AS failures, f.failing_since,
       CASE WHEN l.outcome = 'delivered' AND l.started_at < COALESCE(h.failing_since, 'infinity') AND e.verified_at IS NOT NULL
            THEN l.started_at
            ELSE last_success(CASE WHEN e.verified_at IS NOT NULL THEN e.endpoint_id END, COALESCE(h.failing_since, 'infinity'))
       END AS last_success_at
FROM endpoint e
LEFT JOIN LATERAL (SELECT last4 FROM endpoint_secret WHERE endpoint_id = e.endpoint_id AND expires_at IS NULL
                   ORDER BY secret_id DESC LIMIT 1) s ON true
LEFT JOIN LATERAL (SELECT expires_at FROM endpoint_secret WHERE endpoint_id = e.endpoint_id AND expires_at > now()
                   ORDER BY secret_id DESC LIMIT 1) p ON true
LEFT JOIN LATERAL (SELECT started_at, status, outcome FROM attempt
                   WHERE endpoint_id = e.endpoint_id AND outcome IS NOT NULL AND started_at <= now() + interval '1 day'
                   ORDER BY started_at DESC LIMIT 1) l ON true
LEFT JOIN endpoint_health h USING (endpoint_id)
LEFT JOIN failing_endpoint f USING (endpoint_id)
WHERE e.public_id = $3 AND e.account_id = $1 AND e.environment = $2 AND e.status <> 'deleted'

-- name: find_headers
-- Read the sealed custom headers of one endpoint of one account. Index: the unique key.
SELECT sealed_headers FROM endpoint
WHERE public_id = $3 AND account_id = $1 AND environment = $2 AND status <> 'deleted'

-- name: mark_deleted
-- End an endpoint; its row stays for its history. The row is locked by `lock_endpoint`.
UPDATE endpoint SET status = 'deleted', sealed_headers = NULL,
  changed_at = GREATEST(now(), changed_at + interval '1 microsecond')
WHERE endpoint_id = $1

-- name: delete_secrets
-- Destroy the secrets of an endpoint. Index: endpoint_secret_endpoint.
DELETE FROM endpoint_secret WHERE endpoint_id = $1
