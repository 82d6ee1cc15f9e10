-- name: delivery_standing
-- Read of which endpoint a delivery of one account is, and whether it is open, held, or a test's, told by the length of its
-- event's id. Indexes: primary key, attempt_delivery.
SELECT endpoint_id, true AS is_open, held, false AS is_test FROM delivery WHERE delivery_id = $3 AND account_id = $1 AND environment = $2
UNION ALL
SELECT endpoint_id, false, false, octet_length(event_id) = 16 FROM attempt WHERE delivery_id = $3 AND account_id = $1 AND environment = $2
ORDER BY is_open DESC LIMIT 1

-- name: lock_endpoint_number
-- Lock an endpoint for this transaction, as `lock_endpoint` does, by its number.
SELECT status FROM endpoint WHERE endpoint_id = $1 FOR NO KEY UPDATE

-- name: resend
-- Open a delivery that ended once more, due now; it goes on counting attempts. Called under its endpoint's lock. Tells
-- what was there: an open row, a final verdict, attempts left to count, the event. Indexes: attempt_delivery, the
-- event's key. A wish to cancel it was for the time before.
WITH last AS MATERIALIZED (
  SELECT a.event_id, a.account_id, a.environment, a.endpoint_id, a.delivery_created_at,
         CASE WHEN a.outcome IS NULL THEN a.attempt_no - 1 ELSE a.attempt_no END AS attempts
  FROM attempt a
  WHERE a.delivery_id = $3 AND a.account_id = $1 AND a.environment = $2
    AND a.verdict IN ('delivered', 'exhausted', 'canceled')
  ORDER BY a.started_at DESC LIMIT 1),
source AS MATERIALIZED (
  SELECT e.event_day FROM last l JOIN event e
    ON e.event_id = l.event_id AND e.account_id + 0 = l.account_id AND e.environment = l.environment LIMIT 1),
open AS MATERIALIZED (SELECT FROM delivery WHERE delivery_id = $3),
made AS (
  INSERT INTO delivery (delivery_id, event_day, event_id, account_id, environment, endpoint_id, host_id, attempts,
                        attempts_before, due_at, created_at)
  SELECT $3, s.event_day, l.event_id, l.account_id, l.environment, l.endpoint_id, p.host_id, l.attempts, l.attempts, now(),
         l.delivery_created_at
  FROM last l JOIN endpoint p USING (endpoint_id), source s
  WHERE l.attempts < 30000 AND NOT EXISTS (SELECT FROM open)
  RETURNING 1),
wish AS (DELETE FROM cancellation WHERE delivery_id IN (SELECT $3 FROM made))
SELECT EXISTS (SELECT FROM open) AS is_open, EXISTS (SELECT FROM last WHERE attempts < 30000) AS may_go_on,
       EXISTS (SELECT FROM source) AS has_event, EXISTS (SELECT FROM made) AS is_made

-- name: retry_now
-- Let a delivery that waits fall due now; one that is held or in a process's hands stays as it is. Index: primary key.
UPDATE delivery SET due_at = now()
WHERE delivery_id = $3 AND account_id = $1 AND environment = $2 AND owner IS NULL AND NOT held

-- name: wish_canceled
-- Ask that a delivery be canceled as soon as no process has it. Its row stays untouched: its owner would lose it.
INSERT INTO cancellation (delivery_id)
SELECT delivery_id FROM delivery WHERE delivery_id = $3 AND account_id = $1 AND environment = $2
ON CONFLICT DO NOTHING

-- name: wished_canceled
-- Lock the deliveries that are to be canceled and that no process has, a hundred at a time. Index: primary key.
SELECT d.delivery_id FROM cancellation c JOIN delivery d USING (delivery_id)
WHERE d.owner IS NULL LIMIT 100 FOR UPDATE OF d SKIP LOCKED

-- name: forget_wishes
-- Drop wishes whose delivery is finished. Index: primary key.
DELETE FROM cancellation c WHERE NOT EXISTS (SELECT FROM delivery d WHERE d.delivery_id = c.delivery_id)

-- name: waiting_of_endpoint
-- Lock up to $2 deliveries of an endpoint that wait in Postgres; only held ones when $3 says so. Rows owned by a process
-- are its own to end; rows that a claim holds just now become so, hence SKIP LOCKED. Held rows first: the others come to
-- a process when they fall due, held ones never do. Index: delivery_endpoint.
SELECT delivery_id FROM delivery WHERE endpoint_id = $1 AND owner IS NULL AND (held OR NOT $3)
ORDER BY endpoint_id DESC, held DESC LIMIT $2 FOR UPDATE SKIP LOCKED

-- name: cancel_deliveries
-- Cancel the given deliveries of one account or ($2 null) of any, as far as no process has them: an attempt row without
-- a request, the row gone. Index: primary key. The event may be past its retention: then its type comes from an earlier
-- attempt.
WITH ended AS (
  DELETE FROM delivery d WHERE d.delivery_id = ANY($1::bigint[]) AND d.owner IS NULL
    AND ($2::int IS NULL OR (d.account_id = $2 AND d.environment = $3))
  RETURNING d.delivery_id, d.created_at, d.endpoint_id, d.account_id, d.environment, d.event_id, d.event_day, d.attempts)
INSERT INTO attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment, event_id,
                     event_type, subject, client_reference, attempt_no, duration_ms, outcome, verdict, replica_id)
SELECT now(), d.delivery_id, d.created_at, d.endpoint_id, d.account_id, d.environment, d.event_id,
       COALESCE(e.event_type, l.event_type, 'unknown'), e.subject, e.client_reference, d.attempts + 1, 0, NULL,
       'canceled', 0
FROM ended d
LEFT JOIN event e ON e.event_id = d.event_id AND e.account_id + 0 = d.account_id AND e.environment = d.environment
                 AND e.event_day = d.event_day
LEFT JOIN LATERAL (SELECT a.event_type FROM attempt a
                   WHERE e.event_id IS NULL AND a.delivery_id = d.delivery_id AND a.started_at >= d.created_at LIMIT 1) l ON true
