-- name: backlog_hosts
-- Statement S3A: hosts whose oldest waiting row is due since before the floor. Loose scan of delivery_due;
-- read only. $1 floor in seconds before now.
WITH RECURSIVE hs AS (
  (SELECT host_id, due_at FROM delivery WHERE owner IS NULL AND NOT held ORDER BY host_id, due_at LIMIT 1)
  UNION ALL
  SELECT n.host_id, n.due_at FROM hs CROSS JOIN LATERAL (
     SELECT d.host_id, d.due_at FROM delivery d WHERE d.owner IS NULL AND NOT d.held AND d.host_id > hs.host_id
     ORDER BY d.host_id, d.due_at LIMIT 1) n)
SELECT host_id, extract(epoch FROM now() - due_at)::float8 AS age_seconds FROM hs
WHERE due_at <= now() - make_interval(secs => $1)

-- name: claim
-- Statement S3: take due deliveries, host by host, charging the host's tokens for the rows really taken.
-- Locks: KEY SHARE on the own replica row, the host rows and the delivery rows (both SKIP LOCKED).
-- Blocked hosts go before the LIMIT, or healthy ones starve behind them. The floor skips dead index entries
-- that earlier claims left; hosts with live rows below it come in $6.
-- $1 replica, $2 rows per host, $3 hosts, $4 floor in seconds before now, $5 hosts whose lane is full here, $6 backlog hosts
WITH RECURSIVE hs AS (
  (SELECT host_id, due_at FROM delivery
   WHERE owner IS NULL AND NOT held AND due_at > now() - make_interval(secs => $4) ORDER BY host_id, due_at LIMIT 1)
  UNION ALL
  SELECT n.host_id, n.due_at FROM hs CROSS JOIN LATERAL (
     SELECT d.host_id, d.due_at FROM delivery d
     WHERE d.owner IS NULL AND NOT d.held AND d.host_id > hs.host_id AND d.due_at > now() - make_interval(secs => $4)
     ORDER BY d.host_id, d.due_at LIMIT 1) n),
cand AS (SELECT host_id, min(due_at) AS due_at FROM (
          SELECT host_id, due_at FROM hs WHERE due_at <= now()
          UNION ALL SELECT host_id, now() - make_interval(secs => $4) FROM unnest($6::int[]) AS b(host_id)) x GROUP BY host_id),
me  AS MATERIALIZED (SELECT 1 FROM replica WHERE replica_id = $1 FOR KEY SHARE),
due AS MATERIALIZED (SELECT c.host_id FROM cand c JOIN host h USING (host_id)
        WHERE NOT c.host_id = ANY($5::int[]) AND h.paused_until <= now()
          AND h.tat <= now() + (h.burst - 1) * (h.interval_us / h.scale) * interval '1 microsecond'
        ORDER BY c.due_at, random() LIMIT $3),
lk  AS MATERIALIZED (SELECT h.host_id, h.interval_us / h.scale AS iv, h.burst, GREATEST(h.tat, now()) AS base
        FROM host h JOIN due USING (host_id), me
        WHERE h.paused_until <= now()
        ORDER BY h.host_id FOR UPDATE OF h SKIP LOCKED),
gr  AS MATERIALIZED (SELECT host_id, iv,
          LEAST($2, floor(extract(epoch FROM now() - base) * 1e6 / iv + burst)::int) AS n,
          CASE WHEN host_id = ANY($6::int[]) THEN 'epoch'::timestamptz ELSE now() - make_interval(secs => $4) END AS fl FROM lk),
pk  AS MATERIALIZED (SELECT x.place, x.host_id FROM gr CROSS JOIN LATERAL (
          SELECT ctid AS place, host_id FROM delivery
          WHERE owner IS NULL AND NOT held AND host_id = gr.host_id AND due_at <= now() AND due_at > gr.fl
          ORDER BY due_at LIMIT GREATEST(gr.n, 0) FOR UPDATE SKIP LOCKED) x),
tk  AS (UPDATE host h SET tat = GREATEST(h.tat, now()) + c.n * gr.iv * interval '1 microsecond'
        FROM (SELECT host_id, count(*) AS n FROM pk GROUP BY host_id) c JOIN gr USING (host_id)
        WHERE h.host_id = c.host_id),
up  AS (UPDATE delivery d SET owner = $1 FROM pk WHERE d.ctid = pk.place
        RETURNING d.delivery_id, d.event_day, d.event_id, d.account_id, d.environment, d.endpoint_id, d.host_id,
                  d.attempts, d.created_at)
SELECT (SELECT count(*) FROM me) AS live, up.*, e.event_type, e.subject, e.occurred_at, e.body
FROM (SELECT 1) AS one LEFT JOIN (up JOIN event e USING (event_id, account_id, environment, event_day)) ON true

-- name: owned
-- Read every delivery this replica owns, with its event; to find rows whose claim or accept was answered by
-- a connection that died. Runs rarely. Sequential scan of the hot table.
SELECT d.delivery_id, d.event_day, d.event_id, d.account_id, d.environment, d.endpoint_id, d.host_id, d.attempts,
       d.created_at, e.event_type, e.subject, e.occurred_at, e.body
FROM delivery d JOIN event e USING (event_id, account_id, environment, event_day)
WHERE d.owner = $1

-- name: backlog
-- Count what waits: rows due, rows held, age in seconds of the oldest due row (0 when none).
SELECT count(*) FILTER (WHERE owner IS NULL AND NOT held AND due_at <= now()) AS due,
       count(*) FILTER (WHERE held) AS held,
       COALESCE(extract(epoch FROM now() - min(due_at) FILTER (WHERE owner IS NULL AND NOT held AND due_at <= now())), 0)::float8 AS oldest_due_seconds
FROM delivery
