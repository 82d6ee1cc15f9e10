-- name: settle
-- Statement S2: append attempts and answers, delete finished deliveries, put failed ones back with their next due
-- time, keep count of failures in a row, renew the lease. One statement, idempotent by flush_seq: a repeat of the same
-- number changes nothing.
-- Locks: the own replica row (serializes with a takeover), the settled rows, the health of endpoints that fail or
-- failed, in their order, so that two replicas never wait for each other. A row that is no longer owned is not touched.
-- An endpoint that was paused when it said that it is gone goes on missing events from where it was paused.
-- What a host said of an endpoint that has another one by now says nothing of it. A row that is put back is put under the
-- host that its endpoint has now, and is held for a 410 only where the endpoint is. Endpoints that move meanwhile are
-- looked at again behind their lock, hence neither reads a CTE but by a join.
-- Postgres runs what nothing reads in reverse: health stands first, so its locks, which replicas share, are taken last.
-- A success writes nothing about an endpoint that is healthy: one probe of a small table. (An EXISTS instead would read
-- all endpoints that fail, each time.)
-- Rows are looked up one by one (LATERAL ... OFFSET 0, then by ctid): whatever the statistics say. After a drained
-- backlog they call the table empty, and a plain join then compares every row with every settlement. A row that changed
-- hands in between has another ctid and is left alone.
-- $1 replica, $2 flush number, $3 lease seconds, $4..$21 per settlement, $22 and $23 endpoints with their first success and
-- the hosts that gave it, $24 and $25 those that are gone, $26..$29 per endpoint and host the failures in a row at the end
-- of this batch and the age of the first, $30 endpoints that had a success before those, $31..$36 per answer that is kept.
WITH me AS MATERIALIZED (
       UPDATE replica SET flush_seq = $2, lease_until = now() + make_interval(secs => $3)
       WHERE replica_id = $1 AND flush_seq = $2 - 1 RETURNING 1),
-- Unnested in the list of columns as in S1.
r   AS MATERIALIZED (SELECT r.* FROM me, (
       SELECT unnest($4::bigint[]) AS delivery_id, unnest($5::timestamptz[]) AS delivery_created_at,
              unnest($6::int[]) AS endpoint_id, unnest($7::int[]) AS account_id, unnest($8::text[]) AS environment,
              unnest($9::bytea[]) AS event_id, unnest($10::text[]) AS event_type, unnest($11::text[]) AS subject,
              unnest($12::text[]) AS client_reference, unnest($13::smallint[]) AS attempt_no,
              unnest($14::smallint[]) AS attempts_after, unnest($15::int[]) AS ago_ms, unnest($16::int[]) AS duration_ms,
              unnest($17::smallint[]) AS status, unnest($18::text[]) AS outcome, unnest($19::text[]) AS verdict,
              unnest($20::bigint[]) AS next_in_ms, unnest($21::bytea[]) AS detail) r),
health AS (INSERT INTO endpoint_health AS h (endpoint_id, failures, failing_since)
        SELECT s.endpoint_id, s.failures, now() - s.ago_ms * interval '1 millisecond'
        FROM unnest($26::int[], $27::int[], $28::int[], $29::int[]) AS s(endpoint_id, host_id, failures, ago_ms), me
        WHERE CASE WHEN s.failures > 0
                     OR (SELECT k.failing_since IS NOT NULL FROM endpoint_health k WHERE k.endpoint_id = s.endpoint_id)
                   THEN s.host_id = (SELECT e.host_id FROM endpoint e WHERE e.endpoint_id = s.endpoint_id) END
        ORDER BY s.endpoint_id
        ON CONFLICT (endpoint_id) DO UPDATE SET (failures, failing_since, announced_at, is_past) = (
          SELECT CASE WHEN fresh THEN EXCLUDED.failures ELSE h.failures + EXCLUDED.failures END,
                 CASE WHEN fresh THEN EXCLUDED.failing_since ELSE COALESCE(h.failing_since, EXCLUDED.failing_since) END,
                 CASE WHEN NOT fresh THEN h.announced_at END,
                 h.is_past AND NOT fresh
          FROM (SELECT EXCLUDED.failures = 0 OR EXCLUDED.endpoint_id = ANY($30::int[]) AS fresh) f)),
a   AS (INSERT INTO attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment, event_id,
                             event_type, subject, client_reference, attempt_no, duration_ms, status, outcome, verdict, next_at,
                             detail, replica_id)
        SELECT now() - ago_ms * interval '1 millisecond', delivery_id, delivery_created_at, endpoint_id, account_id, environment,
               event_id, event_type, subject, client_reference, attempt_no, duration_ms, status, outcome, verdict,
               CASE WHEN verdict <> 'gone' THEN now() + next_in_ms * interval '1 millisecond' END, detail, $1
        FROM r WHERE verdict NOT IN ('parked', 'held')),
fin AS (DELETE FROM delivery d
        USING (SELECT x.place, r.verdict FROM r CROSS JOIN LATERAL (
                 SELECT o.ctid AS place FROM delivery o WHERE o.delivery_id = r.delivery_id AND o.owner = $1 OFFSET 0) x
               WHERE r.next_in_ms IS NULL OFFSET 0) t
        WHERE d.ctid = t.place RETURNING d.delivery_id, t.verdict),
gone AS (UPDATE endpoint e SET status = 'disabled', disabled_reason = 'gone', held_since = COALESCE(e.held_since, now()),
          held_xid = COALESCE(e.held_xid, feed_floor()),
          changed_at = GREATEST(now(), changed_at + interval '1 microsecond')
        FROM unnest($24::int[], $25::int[]) AS s(endpoint_id, host_id), me
        WHERE e.endpoint_id = s.endpoint_id AND e.host_id = s.host_id AND e.status IN ('enabled', 'paused')
        RETURNING e.endpoint_id),
re  AS (UPDATE delivery d SET owner = NULL, attempts = t.attempts_after, host_id = t.host_id, held = t.is_held,
               due_at = now() + t.next_in_ms * interval '1 millisecond'
        FROM (SELECT x.place, r.attempts_after, r.next_in_ms, e.host_id, r.verdict = 'held' OR (r.verdict = 'gone'
                     AND (e.status <> 'enabled' OR e.endpoint_id IN (SELECT endpoint_id FROM gone))) AS is_held
              FROM r CROSS JOIN LATERAL (
                SELECT o.ctid AS place FROM delivery o WHERE o.delivery_id = r.delivery_id AND o.owner = $1 OFFSET 0) x
              CROSS JOIN LATERAL (
                SELECT p.endpoint_id, p.host_id, p.status FROM endpoint p WHERE p.endpoint_id = r.endpoint_id OFFSET 0) e
              WHERE r.next_in_ms IS NOT NULL OFFSET 0) t
        WHERE d.ctid = t.place),
ok  AS (UPDATE endpoint e SET verified_at = now(), changed_at = GREATEST(now(), changed_at + interval '1 microsecond')
        FROM unnest($22::int[], $23::int[]) AS s(endpoint_id, host_id), me
        WHERE e.endpoint_id = s.endpoint_id AND e.host_id = s.host_id AND e.verified_at IS NULL),
kept AS (INSERT INTO response (started_at, delivery_id, attempt_no, headers, body, is_cut)
        SELECT now() - k.ago_ms * interval '1 millisecond', k.delivery_id, k.attempt_no, k.headers, k.body, k.is_cut
        FROM unnest($31::int[], $32::bigint[], $33::smallint[], $34::bytea[], $35::bytea[], $36::boolean[])
             AS k(ago_ms, delivery_id, attempt_no, headers, body, is_cut), me)
SELECT (SELECT count(*) FROM me) AS live,
       (SELECT array_agg(endpoint_id) FROM gone) AS closed,
       (SELECT array_agg(delivery_id) FROM fin WHERE verdict = 'exhausted') AS exhausted

-- name: hold_waiting
-- Take waiting deliveries of endpoints that are not enabled out of the due index, a thousand of each: what is left is
-- held when it falls due. Nobody is waited for. Index: delivery_endpoint, in its order.
WITH picked AS MATERIALIZED (
  SELECT x.place FROM endpoint e CROSS JOIN LATERAL (
    SELECT d.ctid AS place FROM delivery d WHERE d.endpoint_id = e.endpoint_id AND NOT d.held AND d.owner IS NULL
    ORDER BY (d.attempts > 0), d.created_at LIMIT 1000 FOR UPDATE SKIP LOCKED) x
  WHERE e.endpoint_id = ANY($1::int[]) AND e.status IN ('paused', 'disabled'))
UPDATE delivery d SET held = true FROM picked WHERE d.ctid = picked.place

-- name: flush_seq
-- Read the number of the last flush that committed; no row means this replica was taken over.
SELECT flush_seq FROM replica WHERE replica_id = $1
