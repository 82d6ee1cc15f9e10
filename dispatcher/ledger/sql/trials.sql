-- name: next_delivery_id
-- Take the number of a delivery that will never be in the queue.
SELECT nextval('delivery_seq') AS delivery_id

-- name: record_trial
-- Write the one attempt of a test. No replica made it.
INSERT INTO attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment, event_id,
                     event_type, subject, client_reference, attempt_no, duration_ms, status, outcome, verdict, detail, replica_id)
VALUES ($1, $2, $1, $3, $4, $5, $6, $7, $8, $9, 1, $10, $11, $12, $13, $14, 0)

-- name: record_trial_event
-- Keep what a test's request held, and what it can be found by.
INSERT INTO trial_event (event_id, account_id, environment, subject, client_reference, body) VALUES ($1, $2, $3, $4, $5, $6)

-- name: record_trial_answer
-- Keep what a test was answered, under the beginning of its attempt.
INSERT INTO response (started_at, delivery_id, attempt_no, headers, body, is_cut) VALUES ($1, $2, 1, $3, $4, $5)

-- name: verify_endpoint
-- Remember an endpoint's first success, unless it has left the host that gave it. Index: primary key. $1 endpoint, $2 host.
UPDATE endpoint SET verified_at = now(), changed_at = GREATEST(now(), changed_at + interval '1 microsecond')
WHERE endpoint_id = $1 AND host_id = $2 AND verified_at IS NULL AND status <> 'deleted'
