-- name: accept
-- Statement S1: store the events of one poll, match endpoints, insert their deliveries already owned, keep
-- the dead records and advance the Kafka positions, all or nothing.
-- Locks: KEY SHARE on the own replica row (serializes with a takeover), the progress rows. Idempotent twice:
-- by exact compare-and-set of the position (refuses overlap and gap) and by the event's primary key. That holds
-- the day, which a producer that stamps a retry anew around midnight changes: the days beside it are looked at, too.
-- $1 replica, $2 log_id, $3..$6 per span (topic, part, start, stop), $7..$20 per event, $21 hosts whose lane
-- is full here, $22 whether this process delivers, $23..$30 per dead record, $31 endpoints whose queue is full here,
-- $32 and $33 the first day of an event and the last.
WITH me AS MATERIALIZED (SELECT 1 FROM replica WHERE replica_id = $1 FOR KEY SHARE),
adv AS (UPDATE ingest_progress p SET next_offset = s.stop
        FROM unnest($3::text[], $4::int[], $5::bigint[], $6::bigint[]) AS s(topic, part, start, stop), me
        WHERE p.log_id = $2 AND p.topic = s.topic AND p.part = s.part AND p.next_offset = s.start
        RETURNING p.topic, p.part),
-- Unnested side by side in the list of columns: in FROM, each array is stored as a table of its own before.
inp AS (SELECT unnest($7::text[]) AS topic, unnest($8::int[]) AS part, unnest($9::date[]) AS event_day,
               unnest($10::bytea[]) AS event_id, unnest($11::int[]) AS account_id, unnest($12::text[]) AS environment,
               unnest($13::text[]) AS event_type, unnest($14::text[]) AS subject, unnest($15::text[]) AS outcome,
               unnest($16::text[]) AS workflow_id, unnest($17::timestamptz[]) AS occurred_at,
               unnest($18::bytea[]) AS body, unnest($19::text[]) AS client_reference,
               unnest($20::boolean[]) AS introduces),
ev  AS (INSERT INTO event (event_day, event_id, account_id, environment, event_type, subject, outcome, workflow_id,
                           occurred_at, body, client_reference, introduces)
        SELECT event_day, event_id, account_id, environment, event_type, subject, outcome, workflow_id, occurred_at, body,
               client_reference, introduces
        FROM inp JOIN adv USING (topic, part)
        -- Not NOT EXISTS: as a look-up for each event it can never become a scan of the table. Which tables are looked
        -- at is told by $32 and $33 alone, not event by event, and which of their indexes, by the sum: see events_at.
        WHERE (SELECT true FROM event o WHERE o.event_id = inp.event_id AND o.account_id + 0 = inp.account_id
               AND o.environment = inp.environment AND o.event_day - inp.event_day IN (-1, 1)
               AND (o.event_day BETWEEN $32::date - 1 AND $33::date - 1 OR o.event_day BETWEEN $32::date + 1 AND $33::date + 1)
               LIMIT 1) IS NULL
        ON CONFLICT DO NOTHING
        RETURNING event_day, event_id, account_id, environment, event_type, outcome, workflow_id),
dead AS (INSERT INTO dead_event (log_id, topic, part, off, reason, detail, key, headers, sealed_value)
        SELECT $2, topic, part, off, reason, detail, key, headers, sealed_value
        FROM unnest($23::text[], $24::int[], $25::bigint[], $26::text[], $27::bytea[], $28::bytea[], $29::bytea[], $30::bytea[])
             AS t(topic, part, off, reason, detail, key, headers, sealed_value)
        JOIN adv USING (topic, part)
        ON CONFLICT DO NOTHING),
d   AS (INSERT INTO delivery (event_day, event_id, account_id, environment, endpoint_id, host_id, owner, due_at)
        SELECT ev.event_day, ev.event_id, ev.account_id, ev.environment, e.endpoint_id, e.host_id,
               CASE WHEN $22 AND NOT e.host_id = ANY($21::int[]) AND NOT e.endpoint_id = ANY($31::int[]) THEN $1::bigint END, now()
        -- Each event meets every endpoint of its account: what it is called is put together once for all of them, and the
        -- lists that sort out most of them, by the cheapest comparison, come first.
        FROM (SELECT v.*, ARRAY[v.event_type, split_part(v.event_type, '.', 1) || '.*', '*'] AS names FROM ev v OFFSET 0) ev
        JOIN endpoint e ON e.account_id = ev.account_id AND e.environment = ev.environment AND e.status = 'enabled'
             AND CASE WHEN (e.workflows IS NULL OR ev.workflow_id = ANY(e.workflows))
                       AND (e.outcomes  IS NULL OR ev.outcome     = ANY(e.outcomes)) THEN e.events && ev.names END
        RETURNING delivery_id, event_id, account_id, environment, endpoint_id, host_id, owner, created_at)
SELECT (SELECT count(*) FROM me) AS live,
       (SELECT array_agg(topic) FROM adv) AS topics,
       (SELECT array_agg(part) FROM adv) AS parts,
       (SELECT count(*) FROM ev) AS n_events,
       array_agg(delivery_id) AS ids, array_agg(event_id) AS event_ids, array_agg(account_id) AS accounts,
       array_agg(environment) AS environments, array_agg(endpoint_id) AS endpoints, array_agg(host_id) AS hosts,
       min(created_at) AS created_at
FROM d WHERE owner IS NOT NULL

-- name: conflicting_events
-- Count the given events that are stored with another body. Primary key look-ups; only run when a batch
-- held duplicates.
SELECT count(*) FROM unnest($1::bytea[], $2::int[], $3::text[], $4::date[], $5::bytea[])
       AS i(event_id, account_id, environment, event_day, body)
JOIN event e ON e.event_id = i.event_id AND e.account_id + 0 = i.account_id AND e.environment = i.environment
WHERE e.event_day = ANY(ARRAY[i.event_day - 1, i.event_day, i.event_day + 1]) AND e.body <> i.body

-- name: positions
-- Read where the given partitions of one log stand.
SELECT topic, part, next_offset FROM ingest_progress
WHERE log_id = $1 AND (topic, part) IN (SELECT * FROM unnest($2::text[], $3::int[]))

-- name: open_positions
-- Make progress rows for partitions never seen before; existing ones stay as they are.
INSERT INTO ingest_progress (log_id, topic, part, next_offset)
SELECT $1, * FROM unnest($2::text[], $3::int[], $4::bigint[])
ON CONFLICT DO NOTHING

-- name: has_positions
-- Tell whether any partition of the topic was ever read in this log.
SELECT EXISTS (SELECT FROM ingest_progress WHERE log_id = $1 AND topic = $2)

-- name: create_accounts
-- Make accounts that were not found; a race with another replica is settled by the unique key. Each name takes a number
-- (of 2,147,483,647), also one that is there.
INSERT INTO account (public_id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING

-- name: find_accounts
-- Read the numbers of accounts by their public ids.
SELECT public_id, account_id FROM account WHERE public_id = ANY($1::text[])

-- name: record_lost
-- Note a stretch of a log that was deleted before it was read. Recording it twice changes nothing.
INSERT INTO lost_range (log_id, topic, part, from_offset, to_offset) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING

-- name: partition_days
-- Read the first and last day that events have a partition for, in one unbroken run around today: an old day that is kept
-- for its deliveries, or one that somebody made far ahead, is in none. Without a table for today, the run before it.
SELECT min(day) AS first, max(day) AS last, today
FROM (
  SELECT day, day - (row_number() OVER (ORDER BY day))::int AS run, (now() AT TIME ZONE 'UTC')::date AS today FROM (
    SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'event'::regclass AND NOT i.inhdetachpending) days) runs
GROUP BY run, today ORDER BY min(day) <= today DESC, min(day) DESC LIMIT 1
