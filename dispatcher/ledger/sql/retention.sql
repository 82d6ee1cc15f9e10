-- name: retention_turn
-- Take the turn to drop old days, kept until the session ends; false when another replica has it.
SELECT pg_try_advisory_lock(728113002) AS is_ours

-- name: old_days
-- Find the daily tables of a parent whose day has been over for longer than $2 days, with the statements that let go of
-- each: half-detached ones first, since they forbid to detach another, then the oldest. Reads the catalogue only.
SELECT t.name, t.day,
       CASE WHEN i.inhrelid IS NULL THEN 'loose' WHEN i.inhdetachpending THEN 'half' ELSE 'attached' END AS state,
       format('ALTER TABLE %I DETACH PARTITION %I CONCURRENTLY', $1::text, t.name) AS detach,
       format('ALTER TABLE %I DETACH PARTITION %I FINALIZE', $1::text, t.name) AS finalize,
       format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', $1::text, t.name, t.day, t.day + 1) AS attach,
       format('DROP TABLE %I', t.name) AS drop
FROM (SELECT c.oid, c.relname AS name, to_date(substring(c.relname FROM '^' || $1::text || '_([0-9]{8})$'), 'YYYYMMDD') AS day
      FROM pg_class c JOIN pg_class parent ON parent.oid = to_regclass($1::text) AND parent.relnamespace = c.relnamespace
      WHERE c.relkind = 'r') t
LEFT JOIN pg_inherits i ON i.inhrelid = t.oid
WHERE t.day < (now() AT TIME ZONE 'UTC')::date - $2::int
ORDER BY COALESCE(i.inhdetachpending, false) DESC, t.day

-- name: day_in_use
-- Tell whether a delivery, waiting, under way or held, refers to an event of a day, or a running replay has yet to come
-- to one. Reads the whole hot table: call it seldom. Index for replays: event_feed.
SELECT EXISTS (SELECT FROM delivery WHERE event_day = $1)
    OR EXISTS (SELECT FROM replay r JOIN event e
                 ON e.account_id = r.account_id AND e.environment = r.environment AND (e.xid, e.seq) > (r.at_xid, r.at_seq)
               WHERE r.state = 'running' AND e.event_day = $1 AND (r.end_xid IS NULL OR e.xid < r.end_xid)
                 AND (r.since IS NULL OR e.occurred_at >= r.since) AND (r.until IS NULL OR e.occurred_at < r.until))
    AS is_used
