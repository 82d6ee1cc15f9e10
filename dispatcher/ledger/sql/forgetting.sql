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
