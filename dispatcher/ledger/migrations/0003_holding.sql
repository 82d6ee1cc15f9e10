-- Endpoints that fail, pause or are disabled: their health, what they hold meanwhile and how it is sent later.
-- And what endpoints answered, kept for some days.

CREATE TABLE endpoint_health (             -- a row for an endpoint that ever failed
  endpoint_id   int PRIMARY KEY,
  failures      int NOT NULL DEFAULT 0,    -- in a row
  failing_since timestamptz,               -- the first of them; NULL: the latest attempt was a success
  announced_at  timestamptz,               -- when `endpoint.failing` was sent for this row of failures
  is_past       boolean NOT NULL DEFAULT false   -- the endpoint was paused or disabled since: counted anew once enabled
) WITH (fillfactor = 50);
CREATE INDEX endpoint_health_failing ON endpoint_health (failing_since) WHERE failing_since IS NOT NULL;

-- What "failing" means, said once. Five days of it disable a live endpoint.
CREATE VIEW failing_endpoint AS
SELECT endpoint_id, failures, failing_since, announced_at, is_past FROM endpoint_health
WHERE failures >= 3 AND failing_since <= now() - interval '1 hour';

-- An endpoint that is not enabled gets no rows: events are stored anyway, so it only remembers from where on. Every
-- event it missed has an xid that is not below this one: the oldest transaction under way when it was held.
ALTER TABLE endpoint ADD COLUMN held_xid xid8;

-- Attempts made before a delivery was sent again by hand or by a replay; its schedule begins after them.
ALTER TABLE delivery ADD COLUMN attempts_before smallint NOT NULL DEFAULT 0;

CREATE TABLE replay (                      -- deliveries made again, or made late, from stored events; a durable job
  replay_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  public_id   text NOT NULL UNIQUE,        -- rpl_…
  account_id  int NOT NULL REFERENCES account,
  environment text NOT NULL,
  endpoint_id int NOT NULL REFERENCES endpoint,
  kind        text NOT NULL CHECK (kind IN ('replay', 'drain')),    -- drain: made by enabling an endpoint
  what        text NOT NULL CHECK (what IN ('failed', 'missing', 'all')),
  since       timestamptz,                 -- occurred_at of the events, both ends; NULL: no bound
  until       timestamptz,
  types       text[],
  rate        real NOT NULL CHECK (rate > 0),                       -- deliveries per second
  state       text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'canceled')),
  n_expected  bigint NOT NULL,             -- counted when it was made
  is_minimum  boolean NOT NULL,            -- counting stopped early: there may be more
  n_scanned   bigint NOT NULL DEFAULT 0,
  n_made      bigint NOT NULL DEFAULT 0,   -- deliveries put into the queue
  n_skipped   bigint NOT NULL DEFAULT 0,   -- wanted, but delivered, pending or canceled already
  at_xid      xid8 NOT NULL DEFAULT '0',   -- the scan goes on behind this place of the feed
  at_seq      bigint NOT NULL DEFAULT 0,
  end_xid     xid8,                        -- and ends before this one; NULL while it cannot be known yet
  created_at  timestamptz NOT NULL,        -- by the clock, not by the transaction's start: the end is counted from it
  ready_at    timestamptz NOT NULL,        -- its rate, or the feed's end, gives it nothing to do before
  ended_at    timestamptz
);
CREATE UNIQUE INDEX replay_running ON replay (endpoint_id, kind) WHERE state = 'running';
CREATE INDEX replay_account ON replay (account_id, environment, replay_id);
CREATE INDEX replay_endpoint ON replay (endpoint_id, replay_id);

CREATE TABLE cancellation (                -- a delivery to be canceled as soon as no process has it in its hands
  delivery_id bigint PRIMARY KEY,
  asked_at    timestamptz NOT NULL DEFAULT now()
);

-- What a replay sees: the next events of an endpoint's feed behind a place, whether each matches the subscription and
-- is wanted ('failed', 'missing' or 'all'), and which ended delivery it continues, if any. News about endpoints match
-- as where they are made: by name, and never the endpoint that they are about.
-- Never at or above the oldest transaction under way: nothing can appear behind a place once passed.
-- A ping went to the one endpoint that it was for: no other misses it.
-- An open delivery is found by the time of its creation, which is that of its event's, whoever made it.
-- Ranges of time prune the tables of other days. An event that was older than every table when it came in lies in the
-- table of the day it came in, and is found by ranges that reach that day.
CREATE FUNCTION feed_for(endpoint_no int, wanted text, only_types text[], since timestamptz, until timestamptz,
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
      AND n.xid < LEAST(before_xid, pg_snapshot_xmin(pg_current_snapshot()))
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

CREATE TABLE response (                    -- what an attempt was answered; kept for a few days
  started_at  timestamptz NOT NULL,        -- the attempt's
  delivery_id bigint NOT NULL,
  attempt_no  smallint NOT NULL,
  headers     bytea NOT NULL,              -- JSON array of [name, value]
  body        bytea NOT NULL,              -- its first bytes, as they came
  is_cut      boolean NOT NULL             -- more followed
) PARTITION BY RANGE (started_at);
CREATE INDEX response_delivery ON response (delivery_id);

-- Make the partitions of one UTC day. Safe to call again; takes SHARE UPDATE EXCLUSIVE on the parents.
CREATE OR REPLACE FUNCTION make_day(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  suffix text := to_char(day, 'YYYYMMDD');
  begins timestamptz := day::timestamp AT TIME ZONE 'UTC';
  ends   timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
  IF to_regclass('event_' || suffix) IS NULL THEN
    EXECUTE format('CREATE TABLE %I PARTITION OF event FOR VALUES FROM (%L) TO (%L)', 'event_' || suffix, day, day + 1);
  END IF;
  IF to_regclass('attempt_' || suffix) IS NULL THEN
    EXECUTE format('CREATE TABLE %I PARTITION OF attempt FOR VALUES FROM (%L) TO (%L)', 'attempt_' || suffix, begins, ends);
  END IF;
  IF to_regclass('response_' || suffix) IS NULL THEN
    EXECUTE format('CREATE TABLE %I PARTITION OF response FOR VALUES FROM (%L) TO (%L)', 'response_' || suffix, begins, ends);
  END IF;
END $$;

SELECT make_day((now() AT TIME ZONE 'UTC')::date + n) FROM generate_series(-8, 7) AS n;
