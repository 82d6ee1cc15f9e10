-- name: backlog_pairs
-- Statement S3A: (host, endpoint) pairs whose oldest waiting row is due since before the floor. Loose scan of delivery_due:
-- one probe per pair; read only. $1 floor in seconds before now.
WITH RECURSIVE pairs AS (
  (SELECT host_id, endpoint_id, due_at FROM delivery WHERE owner IS NULL AND NOT held
   ORDER BY host_id, endpoint_id, due_at LIMIT 1)
  UNION ALL
  SELECT n.* FROM pairs CROSS JOIN LATERAL (
     SELECT d.host_id, d.endpoint_id, d.due_at FROM delivery d
     WHERE d.owner IS NULL AND NOT d.held AND (d.host_id, d.endpoint_id) > (pairs.host_id, pairs.endpoint_id)
     ORDER BY d.host_id, d.endpoint_id, d.due_at LIMIT 1) n)
SELECT host_id, endpoint_id FROM pairs WHERE due_at <= now() - make_interval(secs => $1)

-- name: claim
-- Statement S3: take due deliveries, host by host and within a host endpoint by endpoint, charging the host's tokens for
-- the rows really taken.
-- Locks: KEY SHARE on the own replica row, the host rows and the delivery rows (both SKIP LOCKED).
-- The scan jumps over what has many rows and nothing to give: paused hosts and endpoints, full lanes, backlogs. Between
-- these stops it goes from pair to pair. The floor skips dead index entries that earlier claims left; pairs with live
-- rows below it come in $6 and $7.
-- Blocked hosts go before the LIMIT, or healthy ones starve behind them. Half of what a host has to give stays for
-- deliveries that come fresh. An endpoint without any success so far gives one row to each replica.
-- Pairs come in a random order, and rows are taken until their bodies, each with what it costs besides, reach $9: the last
-- one may go over it, so one is always taken. What is locked beyond that is left as it was. (octet_length of a body that
-- is stored apart does not read it.)
-- A host's row is looked for once, by its key, and charged by its place: while an old snapshot keeps its former versions,
-- each look by key walks over all of them. One that another replica changed in between is not in its place; then nothing
-- of that host is taken.
-- $1 replica, $2 rows per host, $3 hosts, $4 floor in seconds before now, $5 hosts and $8 endpoints that want none here,
-- $6 and $7 backlog pairs (hosts, endpoints), $9 bytes.
WITH RECURSIVE
shut AS MATERIALIZED (SELECT host_id FROM host WHERE paused_until > now() UNION SELECT unnest($5::int[])),
mute AS MATERIALIZED (SELECT endpoint_id FROM endpoint_pace WHERE paused_until > now() UNION SELECT unnest($8::int[])),
late AS MATERIALIZED (SELECT b.host_id, b.endpoint_id FROM unnest($6::int[], $7::int[]) AS b(host_id, endpoint_id)
        WHERE b.host_id NOT IN (SELECT host_id FROM shut) AND b.endpoint_id NOT IN (SELECT endpoint_id FROM mute)),
stops AS MATERIALIZED (
  SELECT host_id AS h, 0 AS first, 2147483647 AS last FROM shut
  UNION ALL SELECT e.host_id, e.endpoint_id, e.endpoint_id FROM mute JOIN endpoint e USING (endpoint_id)
            WHERE e.host_id NOT IN (SELECT host_id FROM shut)
  UNION ALL SELECT host_id, endpoint_id, endpoint_id FROM late
  UNION ALL SELECT 0, 0, 0),
gaps AS MATERIALIZED (SELECT h AS after_h, last AS after_e, COALESCE(lead(h) OVER w, 2147483647) AS until_h,
                             COALESCE(lead(first) OVER w, 0) AS until_e
        FROM stops WINDOW w AS (ORDER BY h, first, last)),
pairs AS (
  SELECT n.host_id, n.endpoint_id, n.due_at, g.until_h, g.until_e FROM gaps g CROSS JOIN LATERAL (
     SELECT d.host_id, d.endpoint_id, d.due_at FROM delivery d
     WHERE d.owner IS NULL AND NOT d.held AND (d.host_id, d.endpoint_id) > (g.after_h, g.after_e)
       AND (d.host_id, d.endpoint_id) < (g.until_h, g.until_e) AND d.due_at > now() - make_interval(secs => $4)
     ORDER BY d.host_id, d.endpoint_id, d.due_at LIMIT 1) n
  UNION ALL
  SELECT n.host_id, n.endpoint_id, n.due_at, p.until_h, p.until_e FROM pairs p CROSS JOIN LATERAL (
     SELECT d.host_id, d.endpoint_id, d.due_at FROM delivery d
     WHERE d.owner IS NULL AND NOT d.held AND (d.host_id, d.endpoint_id) > (p.host_id, p.endpoint_id)
       AND (d.host_id, d.endpoint_id) < (p.until_h, p.until_e) AND d.due_at > now() - make_interval(secs => $4)
     ORDER BY d.host_id, d.endpoint_id, d.due_at LIMIT 1) n),
cand AS MATERIALIZED (
  SELECT host_id, endpoint_id, due_at, now() - make_interval(secs => $4) AS since FROM pairs WHERE due_at <= now()
  UNION ALL SELECT host_id, endpoint_id, now() - make_interval(secs => $4), 'epoch'::timestamptz FROM late),
me  AS MATERIALIZED (SELECT 1 FROM replica WHERE replica_id = $1 FOR KEY SHARE),
lk  AS MATERIALIZED (SELECT h.host_id, h.ctid AS place, h.interval_us / h.scale AS iv, h.grant_burst, GREATEST(h.tat, now()) AS base
        FROM (SELECT host_id, min(due_at) AS due_at FROM cand GROUP BY host_id) c JOIN host h USING (host_id), me
        WHERE h.paused_until <= now()
          AND h.tat <= now() + (h.grant_burst - 1) * (h.interval_us / h.scale) * interval '1 microsecond'
        ORDER BY c.due_at, random() LIMIT $3 FOR UPDATE OF h SKIP LOCKED),
gr  AS MATERIALIZED (SELECT host_id, place, iv, base,
          LEAST($2, ceil(floor(extract(epoch FROM now() - base) * 1e6 / iv + grant_burst) / 2)::int) AS n FROM lk),
ways AS MATERIALIZED (SELECT c.host_id, c.endpoint_id, c.since, gr.n, e.verified_at IS NULL AS is_new,
          row_number() OVER (PARTITION BY c.host_id ORDER BY random()) AS place, count(*) OVER (PARTITION BY c.host_id) AS k
        FROM cand c JOIN gr USING (host_id) JOIN endpoint e USING (endpoint_id)
        ORDER BY random()),
pk  AS MATERIALIZED (SELECT x.*
        FROM ways w CROSS JOIN LATERAL (
          SELECT ctid AS place, host_id, event_id, account_id, environment, event_day FROM delivery
          WHERE owner IS NULL AND NOT held AND host_id = w.host_id AND endpoint_id = w.endpoint_id
            AND due_at <= now() AND due_at > w.since
          ORDER BY due_at
          LIMIT GREATEST(0, CASE WHEN w.is_new THEN LEAST(1, w.n - w.place + 1)
                                 ELSE w.n / w.k + (w.place <= w.n % w.k)::int END)
          FOR UPDATE SKIP LOCKED) x),
ev  AS MATERIALIZED (SELECT f.*
        FROM (SELECT array_agg(place) AS places, array_agg(host_id) AS hosts, array_agg(event_id) AS event_ids,
                     array_agg(account_id) AS accounts, array_agg(environment) AS environments, array_agg(event_day) AS days
              FROM pk) p
        CROSS JOIN LATERAL ROWS FROM (
          unnest(p.places), unnest(p.hosts), events_at(p.event_ids, p.accounts, p.environments, p.days))
          AS f(place, host_id, event_type, subject, occurred_at, body, client_reference)
        WHERE f.body IS NOT NULL),
fit AS MATERIALIZED (SELECT * FROM (
          SELECT ev.*, sum(octet_length(body) + 1024) OVER (ROWS UNBOUNDED PRECEDING) - octet_length(body) - 1024 AS before
          FROM ev) p
        WHERE p.before < $9::bigint),
tk  AS (UPDATE host h SET tat = gr.base + c.n * gr.iv * interval '1 microsecond'
        FROM (SELECT host_id, count(*) AS n FROM fit GROUP BY host_id) c JOIN gr USING (host_id)
        WHERE h.ctid = gr.place RETURNING h.host_id),
up  AS (UPDATE delivery d SET owner = $1
        FROM fit WHERE d.ctid = fit.place AND fit.host_id = ANY((SELECT array_agg(host_id) FROM tk)::int[])
        RETURNING d.delivery_id, d.event_day, d.event_id, d.account_id, d.environment, d.endpoint_id, d.host_id,
                  d.attempts, d.created_at, d.attempts_before, fit.event_type, fit.subject, fit.client_reference,
                  fit.occurred_at, fit.body)
SELECT (SELECT count(*) FROM me) AS live, up.*
FROM (SELECT 1) AS one LEFT JOIN up ON true

-- name: owned
-- Read up to $3 deliveries this replica owns beside those it knows ($2), with their events; to find rows whose claim or
-- accept was answered by a connection that died. Runs rarely. Sequential scan of the hot table.
SELECT d.delivery_id, d.event_day, d.event_id, d.account_id, d.environment, d.endpoint_id, d.host_id, d.attempts,
       d.created_at, d.attempts_before, e.event_type, e.subject, e.client_reference, e.occurred_at, e.body
FROM delivery d JOIN event e ON e.event_id = d.event_id AND e.account_id + 0 = d.account_id
     AND e.environment = d.environment AND e.event_day = d.event_day
WHERE d.owner = $1 AND NOT EXISTS (SELECT FROM unnest($2::bigint[]) AS known(delivery_id)
                                   WHERE known.delivery_id = d.delivery_id)
LIMIT $3

-- name: owned_ids
-- Read the numbers of the deliveries this replica owns, to tell whether it knows of all. Sequential scan of the hot table.
SELECT delivery_id FROM delivery WHERE owner = $1

-- name: backlog
-- Count what waits: rows due, rows held, age in seconds of the oldest due row (0 when none).
SELECT count(*) FILTER (WHERE owner IS NULL AND NOT held AND due_at <= now()) AS due,
       count(*) FILTER (WHERE held) AS held,
       COALESCE(extract(epoch FROM now() - min(due_at) FILTER (WHERE owner IS NULL AND NOT held AND due_at <= now())), 0)::float8 AS oldest_due_seconds
FROM delivery

-- name: burden
-- Read what makes claims slow: dead rows of the hot table, and the age in seconds of the oldest transaction of this
-- database with a snapshot (0 when there is none), since no row that died after it can be removed. Prepared transactions
-- count. Of other roles' sessions only members of pg_read_all_stats see the age. Reads no table.
SELECT COALESCE((SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'delivery'::regclass), 0) AS n_dead_rows,
       GREATEST(0, extract(epoch FROM clock_timestamp() - LEAST(
         (SELECT min(xact_start) FROM pg_stat_activity
          WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
            AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)),
         (SELECT min(prepared) FROM pg_prepared_xacts WHERE database = current_database()),
         clock_timestamp())))::float8 AS oldest_transaction_seconds
