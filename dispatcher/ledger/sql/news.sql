-- name: concerned
-- Read what news about these endpoints must say, deleted ones left out, and the moment of this transaction.
-- Pending deliveries are counted up to $2. Indexes: primary keys, delivery_endpoint.
SELECT e.endpoint_id, e.public_id, e.account_id, a.public_id AS account, e.environment, e.disabled_reason, e.held_since,
       CASE WHEN e.status = 'disabled' THEN
         (SELECT count(*) FROM (SELECT FROM delivery d WHERE d.endpoint_id = e.endpoint_id LIMIT $2) p)
       ELSE 0 END AS n_pending,
       now() AS at
FROM endpoint e JOIN account a USING (account_id)
WHERE e.endpoint_id = ANY($1::int[]) AND e.status <> 'deleted'

-- name: announce
-- Store operational events and their deliveries, unowned and due now. An event that is there already stays, and brings
-- no delivery again. They go to other endpoints than the one they are about (the subject), of the same account and
-- environment, that are enabled, do not fail themselves and ask for the type or its group by name; `*` does not mean
-- them, and a filter by outcome or workflow says nothing about them. Replays match them likewise (`feed_for`).
-- Index: endpoint_account. $1..$7 per event.
WITH ev AS (
  INSERT INTO event (event_day, event_id, account_id, environment, event_type, subject, occurred_at, body)
  SELECT (occurred_at AT TIME ZONE 'UTC')::date, event_id, account_id, environment, event_type, subject, occurred_at, body
  FROM unnest($1::bytea[], $2::int[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::bytea[])
       AS t(event_id, account_id, environment, event_type, subject, occurred_at, body)
  ON CONFLICT DO NOTHING
  RETURNING event_day, event_id, account_id, environment, event_type, subject)
INSERT INTO delivery (event_day, event_id, account_id, environment, endpoint_id, host_id, due_at)
SELECT ev.event_day, ev.event_id, ev.account_id, ev.environment, e.endpoint_id, e.host_id, now()
FROM ev JOIN endpoint e ON e.account_id = ev.account_id AND e.environment = ev.environment AND e.status = 'enabled'
     AND e.public_id <> ev.subject AND e.events && ARRAY[ev.event_type, split_part(ev.event_type, '.', 1) || '.*']
WHERE NOT EXISTS (SELECT FROM failing_endpoint f WHERE f.endpoint_id = e.endpoint_id)
