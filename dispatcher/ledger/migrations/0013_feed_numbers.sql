-- The order of events goes on when the database is dumped and loaded into another cluster of PostgreSQL.
-- That order is the number of the transaction that stored an event, and each cluster counts for itself: loaded into one
-- that has counted less, old events lay in the future, and new ones before what paused endpoints owe. So these numbers
-- are now the cluster's plus what `follow_cluster` found missing, and what is stored, also in clients' cursors, stays.
-- It writes that sum into the functions themselves: they are part of every look at the feed, and cost nothing inlined.
-- Bears no older program: those compare with the cluster's own numbers.

ALTER TABLE installation
  ADD COLUMN system_identifier bigint,                 -- of the cluster that is followed
  ADD COLUMN feed_ahead bigint NOT NULL DEFAULT 0;     -- what the feed's numbers are ahead of the cluster's
UPDATE installation SET system_identifier = (SELECT c.system_identifier FROM pg_control_system() c);
ALTER TABLE installation ALTER COLUMN system_identifier SET NOT NULL;

-- The number of this transaction, under which it stores events.
CREATE FUNCTION feed_number() RETURNS xid8 LANGUAGE sql STABLE AS $$ SELECT pg_current_xact_id() $$;
-- Nothing can appear below this number any more.
CREATE FUNCTION feed_floor() RETURNS xid8 LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT pg_snapshot_xmin(pg_current_snapshot()) $$;
-- Nothing that was seen has this number or a higher one.
CREATE FUNCTION feed_ceiling() RETURNS xid8 LANGUAGE sql STABLE PARALLEL SAFE AS
$$ SELECT pg_snapshot_xmax(pg_current_snapshot()) $$;

ALTER TABLE event ALTER COLUMN xid SET DEFAULT feed_number();

-- Let the feed go on in this cluster, unless it is the one that was followed; tell how far it was ahead, 0 for not at all.
-- Reads every event's number when it is another. No process may run meanwhile.
CREATE FUNCTION follow_cluster() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  own bigint := (SELECT c.system_identifier FROM pg_control_system() c);
  gap bigint;
  ahead bigint;
BEGIN
  PERFORM FROM installation i WHERE i.system_identifier <> own FOR UPDATE;
  IF NOT FOUND THEN
    RETURN 0;
  END IF;
  SELECT GREATEST(0, max(n)::text::bigint - feed_floor()::text::bigint + 1) INTO gap FROM (
    SELECT max(xid) AS n FROM event UNION ALL SELECT max(held_xid) FROM endpoint
    UNION ALL SELECT max(at_xid) FROM replay UNION ALL SELECT max(end_xid) FROM replay) numbers;
  UPDATE installation SET system_identifier = own, feed_ahead = feed_ahead + COALESCE(gap, 0) RETURNING feed_ahead INTO ahead;
  IF gap > 0 THEN
    EXECUTE format('CREATE OR REPLACE FUNCTION feed_number() RETURNS xid8 LANGUAGE sql STABLE AS %L',
                   format('SELECT (pg_current_xact_id()::text::bigint + %s)::text::xid8', ahead));
    EXECUTE format('CREATE OR REPLACE FUNCTION feed_floor() RETURNS xid8 LANGUAGE sql STABLE PARALLEL SAFE AS %L',
                   format('SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + %s)::text::xid8', ahead));
    EXECUTE format('CREATE OR REPLACE FUNCTION feed_ceiling() RETURNS xid8 LANGUAGE sql STABLE PARALLEL SAFE AS %L',
                   format('SELECT (pg_snapshot_xmax(pg_current_snapshot())::text::bigint + %s)::text::xid8', ahead));
  END IF;
  RETURN COALESCE(gap, 0);
END $$;

-- As before, but for the feed's own floor.
CREATE OR REPLACE FUNCTION feed_for(endpoint_no int, wanted text, only_types text[], since timestamptz, until timestamptz,
                         after_xid xid8, after_seq bigint, before_xid xid8, n_rows int)
RETURNS TABLE (xid xid8, seq bigint, event_day date, event_id bytea, ingested_at timestamptz, is_match boolean,
               is_wanted boolean, delivery_id bigint, attempts int, born_at timestamptz)
LANGUAGE sql STABLE AS $$
WITH e AS MATERIALIZED (
  SELECT o.public_id, o.account_id, o.environment, o.events, o.outcomes, o.workflows
  FROM endpoint o WHERE o.endpoint_id = endpoint_no),
hits AS MATERIALIZED (
  SELECT v.xid, v.seq, v.event_day, v.event_id, v.ingested_at,
         CASE WHEN split_part(v.event_type, '.', 1) IN ('endpoint', 'delivery')
              THEN e.events && ARRAY[v.event_type, split_part(v.event_type, '.', 1) || '.*'] AND v.subject <> e.public_id
              ELSE e.events && ARRAY[v.event_type, split_part(v.event_type, '.', 1) || '.*', '*']
                   AND (e.outcomes  IS NULL OR COALESCE(v.outcome     = ANY(e.outcomes), false))
                   AND (e.workflows IS NULL OR COALESCE(v.workflow_id = ANY(e.workflows), false)) END
         AND (only_types  IS NULL OR only_types && ARRAY[v.event_type, split_part(v.event_type, '.', 1) || '.*', '*'])
         AND (since IS NULL OR v.occurred_at >= since) AND (until IS NULL OR v.occurred_at < until) AS is_match,
         v.event_type = 'webhook.ping' AS is_ping
  FROM e CROSS JOIN LATERAL (
    SELECT * FROM event n
    WHERE n.account_id = e.account_id AND n.environment = e.environment AND (n.xid, n.seq) > (after_xid, after_seq)
      AND n.xid < LEAST(before_xid, feed_floor())
      AND n.event_day >= COALESCE((since AT TIME ZONE 'UTC')::date, '-infinity')
      AND n.event_day <= COALESCE((until AT TIME ZONE 'UTC')::date, 'infinity')
    ORDER BY n.xid, n.seq LIMIT n_rows) v),
open AS MATERIALIZED (
  SELECT d.event_id
  FROM (SELECT min(h.ingested_at) AS first, max(h.ingested_at) AS last FROM hits h WHERE h.is_match) b
  CROSS JOIN (VALUES (false, false), (false, true), (true, false), (true, true)) AS s(held, tried)
  CROSS JOIN LATERAL (
    SELECT o.event_id FROM delivery o
    WHERE o.endpoint_id = endpoint_no AND o.held = s.held AND (o.attempts > 0) = s.tried
      AND o.created_at BETWEEN b.first AND b.last) d)
SELECT m.xid, m.seq, m.event_day, m.event_id, m.ingested_at, m.is_match,
       m.is_match AND NOT m.is_open AND CASE wanted
         WHEN 'missing' THEN l.delivery_id IS NULL AND NOT m.is_ping
         WHEN 'failed' THEN COALESCE(l.verdict IN ('exhausted', 'canceled') AND l.attempts < 30000, false)
         ELSE CASE WHEN l.delivery_id IS NULL THEN NOT m.is_ping
                   ELSE l.verdict IN ('delivered', 'exhausted', 'canceled') AND l.attempts < 30000 END END,
       l.delivery_id, COALESCE(l.attempts, 0), l.born_at
FROM (SELECT h.*, h.event_id IN (SELECT o.event_id FROM open o) AS is_open FROM hits h) m
LEFT JOIN LATERAL (
  SELECT a.delivery_id, a.verdict, a.delivery_created_at AS born_at,
         CASE WHEN a.outcome IS NULL THEN a.attempt_no - 1 ELSE a.attempt_no END AS attempts
  FROM attempt a
  WHERE m.is_match AND NOT m.is_open AND a.event_id = m.event_id AND a.endpoint_id = endpoint_no
    AND a.started_at >= m.ingested_at - interval '1 minute'
  ORDER BY a.verdict IN ('delivered', 'exhausted', 'canceled') DESC, a.started_at DESC LIMIT 1) l ON true
$$;
