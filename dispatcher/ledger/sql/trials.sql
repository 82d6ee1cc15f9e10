-- name: next_delivery_id
-- Take the number of a delivery that will never be in the queue.
SELECT nextval('delivery_seq') AS delivery_id

-- name: record_trial
-- Write the one attempt of a test. Its event is not stored: the attempt tells its story alone. No replica made it.
INSERT INTO attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment, event_id,
                     event_type, subject, client_reference, attempt_no, duration_ms, status, outcome, verdict, detail, replica_id)
VALUES ($1, $2, $1, $3, $4, $5, $6, $7, $8, $9, 1, $10, $11, $12, $13, $14, 0)

-- name: verify_endpoint
-- Remember an endpoint's first success, unless it has left the host that gave it. Index: primary key. $1 endpoint, $2 host.
UPDATE endpoint SET verified_at = now(), changed_at = GREATEST(now(), changed_at + interval '1 microsecond')
WHERE endpoint_id = $1 AND host_id = $2 AND verified_at IS NULL AND status <> 'deleted'
