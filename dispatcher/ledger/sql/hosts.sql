-- name: lease_tokens
-- Statement S4: take tokens of hosts, as many as wanted and there are. GCRA per host: in every window of W seconds at
-- most grant_burst + rate * W are granted. A token must be used within its time to live, counted from before this
-- statement was sent; then the promise (rate, burst) holds over all replicas, whatever becomes of the answers.
-- Locks: KEY SHARE on the own replica row, the host rows (SKIP LOCKED: a row that another replica is at is absent).
-- A row is charged by its place, as in S3: one that another replica changed in between grants nothing this time.
-- Must run with synchronous_commit on: a grant lost in a crash would be made twice.
-- $1 replica, $2 hosts, $3 wanted. Returns live and per host: granted, scale, seconds until the next token, seconds paused.
WITH me AS MATERIALIZED (SELECT 1 FROM replica WHERE replica_id = $1 FOR KEY SHARE),
w  AS (SELECT * FROM unnest($2::int[], $3::int[]) AS t(host_id, want)),
lk AS MATERIALIZED (SELECT h.host_id, h.ctid AS place, h.interval_us / h.scale AS iv, h.grant_burst, GREATEST(h.tat, now()) AS base,
              h.scale, w.want, h.paused_until
       FROM host h JOIN w USING (host_id), me ORDER BY h.host_id FOR UPDATE OF h SKIP LOCKED),
g  AS MATERIALIZED (SELECT host_id, place, iv, base, grant_burst, scale, paused_until, CASE WHEN paused_until > now() THEN 0 ELSE
         GREATEST(0, LEAST(want, floor(extract(epoch FROM now() - base) * 1e6 / iv + grant_burst)::int)) END AS n FROM lk),
u  AS (UPDATE host h SET tat = g.base + g.n * g.iv * interval '1 microsecond'
       FROM g WHERE h.ctid = g.place AND g.n > 0 RETURNING h.host_id, g.n)
SELECT (SELECT count(*) FROM me) AS live, g.host_id, COALESCE(u.n, 0) AS n, g.scale::float8 AS scale,
       GREATEST(0, extract(epoch FROM g.base - now()) - (g.grant_burst - 1 - COALESCE(u.n, 0)) * g.iv / 1e6)::float8 AS next_seconds,
       GREATEST(0, extract(epoch FROM g.paused_until - now()))::float8 AS paused_seconds
FROM (SELECT 1) AS one LEFT JOIN g ON true LEFT JOIN u USING (host_id)

-- name: lease_endpoint_tokens
-- S4 for endpoints with a pace of their own (an own rate, or no success so far). Rows appear on first use; taken in order.
-- $1 replica, $2 endpoints, $3 wanted, $4 interval in microseconds, $5 burst to grant.
WITH me AS MATERIALIZED (SELECT 1 FROM replica WHERE replica_id = $1 FOR KEY SHARE),
u AS (INSERT INTO endpoint_pace AS p (endpoint_id, interval_us, grant_burst, granted, tat)
      SELECT endpoint_id, iv, burst, LEAST(want, burst), now() + LEAST(want, burst) * iv * interval '1 microsecond'
      FROM unnest($2::int[], $3::int[], $4::bigint[], $5::int[]) AS w(endpoint_id, want, iv, burst), me
      ORDER BY endpoint_id
      ON CONFLICT (endpoint_id) DO UPDATE SET
        interval_us = EXCLUDED.interval_us, grant_burst = EXCLUDED.grant_burst,
        granted = CASE WHEN p.paused_until > now() THEN 0 ELSE GREATEST(0, LEAST(EXCLUDED.granted, floor(
          extract(epoch FROM now() - GREATEST(p.tat, now())) * 1e6 / EXCLUDED.interval_us + EXCLUDED.grant_burst)::int)) END,
        tat = CASE WHEN p.paused_until > now() THEN p.tat ELSE GREATEST(p.tat, now()) + GREATEST(0, LEAST(EXCLUDED.granted, floor(
          extract(epoch FROM now() - GREATEST(p.tat, now())) * 1e6 / EXCLUDED.interval_us + EXCLUDED.grant_burst)::int))
          * EXCLUDED.interval_us * interval '1 microsecond' END
      RETURNING endpoint_id, granted, tat, interval_us, grant_burst, paused_until)
SELECT (SELECT count(*) FROM me) AS live, endpoint_id, granted AS n,
       GREATEST(0, extract(epoch FROM tat - now()) - (grant_burst - 1) * interval_us / 1e6)::float8 AS next_seconds,
       GREATEST(0, extract(epoch FROM paused_until - now()))::float8 AS paused_seconds
FROM (SELECT 1) AS one LEFT JOIN u ON true

-- name: pause
-- S8: pause an endpoint, and its host when it has no other endpoint or two others are paused, too. A breaker's pause
-- ($3 null) is 5 s, doubled by each in a row, a fifth more or less, at most 5 min: what fell together does not come back
-- together, with a handshake each. A pause that has been over for an hour is not in a row with this one. One that was asked for is as long as asked; a host never pauses for more than 5 min
-- at a time. After the pause the host goes on at half its rate or less with one token. An endpoint that has another host
-- by now is not paused for what this one did: no row.
-- Locks: the endpoint, shared, so that a move is waited for, its pace, then the host.
-- $1 endpoint, $2 host, $3 seconds asked for or null.
WITH e AS (INSERT INTO endpoint_pace AS p (endpoint_id, paused_until, opens)
           SELECT endpoint_id, now() + make_interval(secs => COALESCE($3::float8, 5 * (0.8 + 0.4 * random()))), 1
           FROM endpoint WHERE endpoint_id = $1 AND host_id = $2 FOR SHARE
           ON CONFLICT (endpoint_id) DO UPDATE SET
             paused_until = CASE WHEN p.paused_until > now() AND $3::float8 IS NULL THEN p.paused_until ELSE
               GREATEST(p.paused_until, now() + make_interval(secs => COALESCE($3, LEAST(300, 5 * (0.8 + 0.4 * random()) * 2 ^ CASE
                 WHEN p.paused_until > now() - interval '1 hour' THEN LEAST(p.opens, 10) ELSE 0 END)))) END,
             opens = CASE WHEN p.paused_until > now() THEN p.opens WHEN p.paused_until <= now() - interval '1 hour' THEN 1 ELSE LEAST(p.opens + 1, 100) END
           RETURNING paused_until),
h AS (UPDATE host h SET
        paused_until = GREATEST(h.paused_until, LEAST(e.paused_until, now() + interval '300 seconds')),
        opens = CASE WHEN h.paused_until > now() THEN h.opens ELSE LEAST(h.opens + 1, 100) END,
        scale = CASE WHEN h.paused_until > now() THEN h.scale ELSE GREATEST(h.scale / 2, 0.05) END,
        scaled_at = now(),
        tat = GREATEST(h.paused_until, LEAST(e.paused_until, now() + interval '300 seconds'))
              + (h.grant_burst - 1) * h.interval_us / GREATEST(h.scale / 2, 0.05) * interval '1 microsecond'
      FROM e
      WHERE h.host_id = $2 AND (
        NOT EXISTS (SELECT FROM endpoint o WHERE o.host_id = $2 AND o.status = 'enabled' AND o.endpoint_id <> $1)
        OR (SELECT count(*) FROM endpoint o JOIN endpoint_pace p USING (endpoint_id)
            WHERE o.host_id = $2 AND o.status = 'enabled' AND o.endpoint_id <> $1 AND p.paused_until > now()) >= 2)
      RETURNING h.paused_until)
SELECT extract(epoch FROM e.paused_until - now())::float8 AS endpoint_seconds,
       COALESCE(extract(epoch FROM h.paused_until - now()), 0)::float8 AS host_seconds
FROM e LEFT JOIN h ON true

-- name: slow_down
-- Halve the rate of hosts that said they are overloaded, at most once per second over all replicas. Tokens already
-- granted ahead keep their number: their time grows with the interval.
UPDATE host SET scale = GREATEST(scale / 2, 0.05), scaled_at = now(),
  tat = CASE WHEN tat > now() THEN now() + (tat - now()) * (scale / GREATEST(scale / 2, 0.05))::float8 ELSE tat END
WHERE host_id = ANY($1::int[]) AND scaled_at < now() - interval '1 second' AND paused_until <= now() AND scale > 0.05

-- name: recover
-- Double the rate of hosts that did well since the last change, at most every two seconds over all replicas; a host at
-- its full rate forgets its pauses.
UPDATE host SET scale = LEAST(1, scale * 2), scaled_at = now(), opens = CASE WHEN scale >= 0.5 THEN 0 ELSE opens END,
  tat = CASE WHEN tat > now() THEN now() + (tat - now()) * (scale / LEAST(1, scale * 2))::float8 ELSE tat END
WHERE host_id = ANY($1::int[]) AND (scale < 1 OR opens > 0) AND scaled_at < now() - interval '2 seconds' AND paused_until <= now()

-- name: forgive
-- Forget the pauses in a row of endpoints that answered with success again.
UPDATE endpoint_pace SET opens = 0 WHERE endpoint_id = ANY($1::int[]) AND opens > 0 AND paused_until <= now()

-- name: pauses
-- Read who is paused, for how many seconds, and who was within the last hour and has not answered well since, with 0 or
-- less: every replica meets those with one request at a time, one that has just started, too. (A host did so if its rate
-- changed after its pause; its pauses in a row are forgotten later, at its full rate.) Indexes: host_paused,
-- endpoint_pace_paused.
SELECT true AS is_host, host_id AS number, extract(epoch FROM paused_until - now())::float8 AS seconds
FROM host WHERE paused_until > now() - interval '1 hour' AND (paused_until > now() OR (opens > 0 AND scaled_at < paused_until))
UNION ALL
SELECT false, endpoint_id, extract(epoch FROM paused_until - now())::float8
FROM endpoint_pace WHERE paused_until > now() - interval '1 hour' AND (paused_until > now() OR opens > 0)

-- name: delivering
-- Count the replicas that deliver, and those of them with a smaller number: the own rank. A replica is there until it
-- leaves or is taken over, as everywhere: after an outage every lease has ended, and whoever renewed first would take the
-- whole cap for itself; and what a frozen one has on the wire counts, too. A dead one's share comes 2 to 3 s later for it.
-- $1 replica.
SELECT count(*) AS n, count(*) FILTER (WHERE replica_id < $1) AS rank FROM replica WHERE delivers

-- name: changed_hosts
-- Read limits that changed lately. Index: host_changed. $1 seconds to look back.
SELECT host_id, rate, burst, in_flight FROM host WHERE changed_at > now() - make_interval(secs => $1)

-- name: list_hosts
-- Read hosts with their state, by authority after a given one. Index: the unique key. $1 authority, $2 rows.
SELECT host_id, authority, rate, burst, in_flight, has_own_limits, scale::float8 AS scale,
       GREATEST(0, extract(epoch FROM paused_until - now()))::float8 AS paused_seconds,
       (SELECT count(*) FROM endpoint e WHERE e.host_id = h.host_id AND e.status = 'enabled') AS n_endpoints
FROM host h WHERE authority > $1 ORDER BY authority LIMIT $2

-- name: show_host
-- Read one host as `list_hosts` does. $1 authority.
SELECT host_id, authority, rate, burst, in_flight, has_own_limits, scale::float8 AS scale,
       GREATEST(0, extract(epoch FROM paused_until - now()))::float8 AS paused_seconds,
       (SELECT count(*) FROM endpoint e WHERE e.host_id = h.host_id AND e.status = 'enabled') AS n_endpoints
FROM host h WHERE authority = $1

-- name: set_host
-- Give a host limits of its own; replicas adopt them within seconds. Tokens granted ahead are forgiven up to the new burst.
-- $1 authority, $2 rate, $3 burst, $4 in flight, $5 interval in microseconds, $6 burst to grant, $7 whether they are its own.
UPDATE host SET rate = $2, burst = $3, in_flight = $4, interval_us = $5::bigint, grant_burst = $6::int, has_own_limits = $7, changed_at = now(),
  tat = LEAST(tat, now() + $6::int * $5::bigint * interval '1 microsecond')
WHERE authority = $1 RETURNING host_id

-- name: resume_host
-- End a host's pause and slow start now. As in `set_host`, what was granted ahead is forgiven up to the burst and no more:
-- whoever resumes a host again and again gets no more than its limits promise.
UPDATE host SET paused_until = LEAST(paused_until, now()), scale = 1, opens = 0,
  tat = LEAST(tat, now() + grant_burst * interval_us * interval '1 microsecond')
WHERE authority = $1 RETURNING host_id

-- name: host_backlog
-- Count what waits for a host, up to $2. Index: delivery_due.
SELECT count(*) AS n FROM (
  SELECT FROM host h JOIN delivery d USING (host_id)
  WHERE h.authority = $1 AND d.owner IS NULL AND NOT d.held LIMIT $2) found
