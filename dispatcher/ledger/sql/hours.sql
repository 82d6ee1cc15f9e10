-- name: patient_counting
-- Let this session's statements take a minute: an hour of the busiest endpoints is more than others may take.
SELECT set_config('statement_timeout', '60s', false)

-- name: hours_due
-- Read the hours of the last week that are to be counted, the oldest first: five minutes after they are over, when what
-- began in them is recorded; and an hour later once more, for what Postgres was away for. $1 most.
SELECT h.hour, h.hour + interval '1 hour' AS ends_at
FROM generate_series(date_trunc('hour', now(), 'UTC') - interval '7 days',
                     date_trunc('hour', now() - interval '5 minutes', 'UTC') - interval '1 hour', interval '1 hour') AS h(hour)
LEFT JOIN counted_hour c USING (hour)
WHERE c.hour IS NULL
   OR (c.counted_at < h.hour + interval '125 minutes' AND now() >= h.hour + interval '125 minutes')
ORDER BY h.hour LIMIT $1

-- name: count_hour
-- Count what every endpoint met in one hour, in the place of what was counted of it before; false when another replica is
-- counting. Reads each attempt of the hour once, and its neighbours in the table of that day. Index: attempt_started.
-- $1 and $2 the hour.
WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(728113005) AS is_ours),
met AS (
  SELECT a.endpoint_id, count(*) AS n_attempts, count(*) FILTER (WHERE a.verdict = 'delivered') AS n_delivered
  FROM attempt a
  WHERE (SELECT is_ours FROM turn) AND a.started_at >= $1::timestamptz AND a.started_at < $2::timestamptz
    AND a.outcome IS NOT NULL AND a.verdict <> 'interrupted'
  GROUP BY a.endpoint_id),
kept AS (
  INSERT INTO endpoint_hour AS h (endpoint_id, hour, n_attempts, n_delivered)
  SELECT endpoint_id, $1, n_attempts, n_delivered FROM met
  ON CONFLICT (endpoint_id, hour) DO UPDATE SET n_attempts = EXCLUDED.n_attempts, n_delivered = EXCLUDED.n_delivered
  WHERE (h.n_attempts, h.n_delivered) <> (EXCLUDED.n_attempts, EXCLUDED.n_delivered)),
done AS (
  INSERT INTO counted_hour (hour, counted_at) SELECT $1, now() FROM turn WHERE is_ours
  ON CONFLICT (hour) DO UPDATE SET counted_at = EXCLUDED.counted_at)
SELECT is_ours FROM turn

-- name: forget_hours
-- Delete some counts older than eight days. Index: endpoint_hour_hour.
WITH old AS (DELETE FROM counted_hour WHERE hour < now() - interval '8 days')
DELETE FROM endpoint_hour WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM endpoint_hour WHERE hour < now() - interval '8 days' ORDER BY hour LIMIT 1000 FOR UPDATE SKIP LOCKED))
