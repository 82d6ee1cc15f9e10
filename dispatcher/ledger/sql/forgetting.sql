-- name: forget_idempotency_keys
-- Delete some answers kept for idempotency keys, a day after they were given. Index: idempotency_key_created.
DELETE FROM idempotency_key WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM idempotency_key WHERE created_at < now() - interval '24 hours'
  ORDER BY created_at LIMIT 1000 FOR UPDATE SKIP LOCKED))

-- name: forget_deeds
-- Delete some lines of the audit log after a year; its trigger lets no younger one go. Index: audit_log_at.
DELETE FROM audit_log WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM audit_log WHERE at < now() - interval '365 days' ORDER BY at LIMIT 1000 FOR UPDATE SKIP LOCKED))

-- name: forget_secrets
-- Destroy some secrets whose time is over. Sequential scan of a table with a row or two per endpoint.
DELETE FROM endpoint_secret WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM endpoint_secret WHERE expires_at < now() LIMIT 1000 FOR UPDATE SKIP LOCKED))

-- name: forget_dead_events
-- Delete some dead events after fourteen days, the oldest first: their sealed values may hold personal data. Fewer where
-- they are large: until what they hold reaches 8 MiB, the last one may go over it. Index: dead_event_seen.
-- (octet_length of a value that is stored apart does not read it.)
WITH old AS MATERIALIZED (
  SELECT ctid AS place, seen_at, COALESCE(octet_length(sealed_value), 0) + octet_length(headers) AS n_bytes
  FROM dead_event WHERE seen_at < now() - interval '14 days' ORDER BY seen_at LIMIT 1000 FOR UPDATE SKIP LOCKED),
summed AS (SELECT place, sum(n_bytes) OVER (ORDER BY seen_at, place) - n_bytes AS n_before FROM old)
DELETE FROM dead_event WHERE ctid = ANY(ARRAY(SELECT place FROM summed WHERE n_before < 8388608))

-- name: forget_replays
-- Delete some jobs that ended ninety days ago, as attempts are forgotten by default. Sequential scan of a table with a row
-- per job of these ninety days.
DELETE FROM replay WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM replay WHERE ended_at < now() - interval '90 days' LIMIT 1000 FOR UPDATE SKIP LOCKED))

-- name: forget_trial_events
-- Delete some events of tests whose day (UTC) has been over for more than $1 days, as events are dropped.
-- Index: trial_event_created.
DELETE FROM trial_event WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM trial_event
  WHERE created_at < ((now() AT TIME ZONE 'UTC')::date - $1::int)::timestamp AT TIME ZONE 'UTC'
  ORDER BY created_at LIMIT 1000 FOR UPDATE SKIP LOCKED))

-- name: forget_keys
-- Delete some keys that ended a year and a day ago: by then no line of the audit log names them. Index: api_key_ended.
DELETE FROM api_key WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM api_key WHERE ends_at < now() - interval '366 days' ORDER BY ends_at LIMIT 1000 FOR UPDATE SKIP LOCKED))

-- name: idle_hosts
-- Find hosts that may be forgotten, among the next $2 above number $1. Indexes: primary key, endpoint_of_host.
WITH page AS MATERIALIZED (SELECT host_id FROM host WHERE host_id > $1 ORDER BY host_id LIMIT $2)
SELECT (SELECT max(host_id) FROM page) AS last, (SELECT array_agg(host_id) FROM page JOIN idle_host USING (host_id)) AS idle

-- name: hosts_of_deliveries
-- Read which hosts from number $1 to $2 any delivery has: waiting, held or under way. Reads the whole hot table.
SELECT DISTINCT host_id FROM delivery WHERE host_id BETWEEN $1 AND $2

-- name: lock_idle_hosts
-- Lock hosts that may be forgotten; one that somebody is at, such as the maker of an endpoint there, is left alone.
SELECT host_id FROM host WHERE host_id = ANY($1::int[]) ORDER BY host_id FOR UPDATE SKIP LOCKED

-- name: forget_hosts
-- Forget locked hosts that are idle still. A statement of its own, so that its snapshot follows the lock: an endpoint that
-- came before it is seen.
DELETE FROM host WHERE host_id = ANY($1::int[]) AND host_id IN (SELECT host_id FROM idle_host)

-- name: unclosed_histories
-- Read of the next $2 deleted endpoints above number $1 whose histories are not closed the creation of their first and last
-- finished delivery, as far as nothing of them is open; and the last number looked at. A minute after the deletion nothing
-- new can come: an accept that still saw the endpoint has ended. One snapshot: what ends meanwhile is open in it.
-- Indexes: endpoint_unclosed, delivery_endpoint, attempt_final.
WITH page AS MATERIALIZED (
  SELECT endpoint_id, created_at FROM endpoint
  WHERE status = 'deleted' AND last_delivery_at = 'infinity' AND endpoint_id > $1 AND changed_at < now() - interval '1 minute'
  ORDER BY endpoint_id LIMIT $2),
ended AS (
  SELECT p.endpoint_id, f.first_at, l.last_at FROM page p
  CROSS JOIN unnest('{delivered,exhausted,canceled}'::text[]) AS v(verdict)
  LEFT JOIN LATERAL (
    SELECT a.delivery_created_at AS last_at FROM attempt a
    WHERE a.endpoint_id = p.endpoint_id AND a.verdict = v.verdict AND a.verdict IN ('delivered', 'exhausted', 'canceled')
      AND a.started_at >= p.created_at - interval '1 minute' AND a.started_at <= now() + interval '1 day'
    ORDER BY a.delivery_created_at DESC LIMIT 1) l ON true
  LEFT JOIN LATERAL (
    SELECT a.delivery_created_at AS first_at FROM attempt a
    WHERE l.last_at IS NOT NULL
      AND a.endpoint_id = p.endpoint_id AND a.verdict = v.verdict AND a.verdict IN ('delivered', 'exhausted', 'canceled')
      AND a.started_at >= p.created_at - interval '1 minute' AND a.started_at <= now() + interval '1 day'
    ORDER BY a.delivery_created_at LIMIT 1) f ON true),
summed AS (
  SELECT endpoint_id, COALESCE(min(first_at), '-infinity') AS first_at, COALESCE(max(last_at), '-infinity') AS last_at
  FROM ended e WHERE NOT EXISTS (SELECT FROM delivery d WHERE d.endpoint_id = e.endpoint_id)
  GROUP BY endpoint_id)
SELECT (SELECT max(endpoint_id) FROM page) AS last, array_agg(endpoint_id ORDER BY endpoint_id) AS endpoints,
       array_agg(first_at ORDER BY endpoint_id) AS firsts, array_agg(last_at ORDER BY endpoint_id) AS lasts
FROM summed

-- name: close_histories
-- Note of deleted endpoints what they left behind; of one that somebody closed meanwhile it says the same. Locks the rows,
-- in the order given. Their versions stay: nothing that sends changes by it. Index: primary key.
UPDATE endpoint e SET first_delivery_at = k.first_at, last_delivery_at = k.last_at
FROM unnest($1::int[], $2::timestamptz[], $3::timestamptz[]) AS k(endpoint_id, first_at, last_at)
WHERE e.endpoint_id = k.endpoint_id AND e.status = 'deleted' AND e.last_delivery_at = 'infinity'

-- name: bare_endpoints
-- Find which of the next $4 endpoints behind a place ($1 deletion, $2 number) that were deleted more than $3 days ago have
-- nothing left that refers to them; and the place of the last one looked at. What a deleted endpoint has only gets less.
-- Indexes: endpoint_deleted, delivery_endpoint, attempt_endpoint, replay_endpoint, endpoint_secret_endpoint, primary keys.
WITH page AS MATERIALIZED (
  SELECT changed_at, endpoint_id FROM endpoint
  WHERE status = 'deleted' AND changed_at < now() - make_interval(days => $3)
    AND (changed_at, endpoint_id) > ($1::timestamptz, $2::int)
  ORDER BY changed_at, endpoint_id LIMIT $4),
bare AS (
  SELECT endpoint_id FROM page p
  WHERE NOT EXISTS (SELECT FROM delivery d WHERE d.endpoint_id = p.endpoint_id OFFSET 0)
    AND NOT EXISTS (SELECT FROM replay r WHERE r.endpoint_id = p.endpoint_id OFFSET 0)
    AND NOT EXISTS (SELECT FROM endpoint_secret s WHERE s.endpoint_id = p.endpoint_id OFFSET 0)
    AND NOT EXISTS (SELECT FROM endpoint_hour h WHERE h.endpoint_id = p.endpoint_id OFFSET 0)
    AND NOT EXISTS (SELECT FROM attempt a WHERE a.endpoint_id = p.endpoint_id OFFSET 0))
SELECT l.changed_at, l.endpoint_id, (SELECT array_agg(endpoint_id) FROM bare) AS bare
FROM (SELECT changed_at, endpoint_id FROM page ORDER BY changed_at DESC, endpoint_id DESC LIMIT 1) l

-- name: forget_endpoints
-- Forget deleted endpoints that nothing refers to, with what was only theirs. Locks the rows, SKIP LOCKED: another replica
-- is at the rest. Index: primary keys.
WITH gone AS MATERIALIZED (
  SELECT endpoint_id FROM endpoint WHERE endpoint_id = ANY($1::int[]) AND status = 'deleted' FOR UPDATE SKIP LOCKED),
paces AS (DELETE FROM endpoint_pace WHERE endpoint_id = ANY(ARRAY(SELECT endpoint_id FROM gone))),
healths AS (DELETE FROM endpoint_health WHERE endpoint_id = ANY(ARRAY(SELECT endpoint_id FROM gone)))
DELETE FROM endpoint WHERE endpoint_id = ANY(ARRAY(SELECT endpoint_id FROM gone))
