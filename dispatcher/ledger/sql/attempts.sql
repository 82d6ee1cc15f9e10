-- name: attempts_of_endpoint
-- Read a page of an endpoint's requests, newest first; rows without a request are left out. Types, outcomes and tests
-- are filtered within the rows scanned; what was scanned, and up to where, is told in every row, and there is always one.
-- Index: attempt_endpoint. $1 endpoint, $2..$4 only before this place, $5 not begun before, $6 rows to scan, $7 types,
-- $8 outcomes and $9 whether tests, each or NULL, $10 rows.
WITH stretch AS (
  SELECT started_at, delivery_id, attempt_no, event_id, event_type, subject, client_reference, duration_ms, status, outcome,
         verdict, next_at, detail
  FROM attempt
  WHERE endpoint_id = $1 AND outcome IS NOT NULL AND started_at <= $2::timestamptz AND started_at >= $5::timestamptz
    AND started_at <= now() + interval '1 day'
    AND (started_at, delivery_id, attempt_no) < ($2, $3::bigint, $4::smallint)
  ORDER BY started_at DESC, delivery_id DESC, attempt_no DESC LIMIT $6),
wanted AS (
  SELECT * FROM stretch
  WHERE ($7::text[] IS NULL OR event_type = ANY($7)) AND ($8::text[] IS NULL OR outcome = ANY($8))
    AND ($9::boolean IS NULL OR (octet_length(event_id) = 16) = $9)
  ORDER BY started_at DESC, delivery_id DESC, attempt_no DESC LIMIT $10)
SELECT n.n_scanned, b.*, w.*
FROM (SELECT count(*) AS n_scanned FROM stretch) n
LEFT JOIN (SELECT started_at AS scanned_to_at, delivery_id AS scanned_to_id, attempt_no AS scanned_to_no FROM stretch
           ORDER BY started_at, delivery_id, attempt_no LIMIT 1) b ON true
LEFT JOIN wanted w ON true
ORDER BY w.started_at DESC, w.delivery_id DESC, w.attempt_no DESC

-- name: attempts_of_events
-- Read a page of the requests to an endpoint about one event, or about the newest $12 events with one subject or one of
-- the customer's references, and as many tests. Indexes: the event's key, event_reference, event_subject, those of
-- trial_event, attempt_event. $1 account, $2 environment, $3 endpoint, $4 event, $5 subject and $15 reference, each or NULL, $6..$8 only before this place, $9 not
-- begun before, $10 types, $11 outcomes, $13 whether tests, each or NULL, $14 rows.
WITH introduced AS MATERIALIZED (
  SELECT subject FROM event
  WHERE $4::bytea IS NULL AND $5::text IS NULL AND account_id = $1 AND environment = $2 AND client_reference = $15::text
    AND introduces
  ORDER BY ingested_at DESC LIMIT $12),
sought AS MATERIALIZED (
  SELECT e.event_id FROM (SELECT $5 AS subject WHERE $4 IS NULL UNION SELECT subject FROM introduced) n
  CROSS JOIN LATERAL (
    SELECT event_id, ingested_at FROM event e
    WHERE e.account_id = $1 AND e.environment = $2 AND e.subject = n.subject
      AND ($15 IS NULL OR e.client_reference = $15)
    ORDER BY ingested_at DESC LIMIT $12) e
  ORDER BY e.ingested_at DESC LIMIT $12)
SELECT a.* FROM (SELECT event_id FROM sought
                 UNION ALL SELECT event_id FROM trials_of($1, $2, $5, $15, $12) WHERE $4 IS NULL
                 UNION ALL SELECT $4 WHERE $4 IS NOT NULL) n
CROSS JOIN LATERAL (
  SELECT started_at, delivery_id, attempt_no, event_id, event_type, subject, client_reference, duration_ms, status, outcome,
         verdict, next_at, detail
  FROM attempt a
  WHERE a.event_id = n.event_id AND a.endpoint_id = $3 AND a.outcome IS NOT NULL OFFSET 0) a
WHERE (a.started_at, a.delivery_id, a.attempt_no) < ($6::timestamptz, $7::bigint, $8::smallint)
  AND a.started_at >= $9::timestamptz AND ($5 IS NULL OR a.subject = $5)
  AND ($15 IS NULL OR a.client_reference = $15)
  AND ($10::text[] IS NULL OR a.event_type = ANY($10)) AND ($11::text[] IS NULL OR a.outcome = ANY($11))
  AND ($13::boolean IS NULL OR (octet_length(a.event_id) = 16) = $13)
ORDER BY a.started_at DESC, a.delivery_id DESC, a.attempt_no DESC LIMIT $14

-- name: whole_attempt
-- Read one request of one account with its endpoint, its event's body and what was kept of the answer; the latest,
-- should an interrupted attempt bear the same number. Indexes: attempt_delivery, the event's key or the test's,
-- response_delivery.
-- $1 account, $2 environment, $3 delivery, $4 attempt.
SELECT a.started_at, a.delivery_id, a.attempt_no, a.event_id, a.event_type, a.subject, a.client_reference, a.duration_ms,
       a.status, a.outcome, a.verdict, a.next_at, a.detail, p.endpoint_id, p.public_id AS endpoint, p.url, p.header_names, p.settings_at,
       COALESCE(e.body, t.body) AS event_body, r.headers, r.body, r.is_cut
FROM attempt a
JOIN endpoint p USING (endpoint_id)
LEFT JOIN LATERAL (
  SELECT e.body FROM event e
  WHERE e.event_id = a.event_id AND e.account_id + 0 = a.account_id AND e.environment = a.environment LIMIT 1) e ON true
LEFT JOIN trial_event t ON t.event_id = a.event_id AND t.account_id = a.account_id AND t.environment = a.environment
LEFT JOIN LATERAL (
  SELECT r.headers, r.body, r.is_cut FROM response r
  WHERE r.delivery_id = a.delivery_id AND r.attempt_no = a.attempt_no AND r.started_at = a.started_at LIMIT 1) r ON true
WHERE a.delivery_id = $3 AND a.account_id = $1 AND a.environment = $2 AND a.attempt_no = $4 AND a.outcome IS NOT NULL
ORDER BY a.started_at DESC LIMIT 1

-- name: secrets_of_attempt
-- Read those of the given secrets of an endpoint that are still there. Index: primary key.
SELECT secret_id, sealed_key FROM endpoint_secret WHERE endpoint_id = $1 AND secret_id = ANY($2::bigint[])
