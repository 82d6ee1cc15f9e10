-- Endpoints that fail, pause or are disabled: their health, what they hold meanwhile and how it is sent later.
-- And what endpoints answered, kept for some days.

CREATE TABLE endpoint_health (             -- a row for an endpoint that ever failed
  endpoint_id   int PRIMARY KEY,
  failures      int NOT NULL DEFAULT 0,    -- in a row
  failing_since timestamptz,               -- the first of them; NULL: the latest attempt was a success
  announced_at  timestamptz                -- when `endpoint.failing` was sent for this row of failures
) WITH (fillfactor = 50);
CREATE INDEX endpoint_health_failing ON endpoint_health (failing_since) WHERE failing_since IS NOT NULL;

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
  n_scanned   bigint NOT NULL DEFAULT 0,
  n_made      bigint NOT NULL DEFAULT 0,   -- deliveries put into the queue
  n_skipped   bigint NOT NULL DEFAULT 0,   -- wanted, but delivered, pending or canceled already
  at_xid      xid8 NOT NULL DEFAULT '0',   -- the scan goes on behind this place of the feed
  at_seq      bigint NOT NULL DEFAULT 0,
  end_xid     xid8,                        -- and ends before this one; NULL while it cannot be known yet
  created_at  timestamptz NOT NULL DEFAULT now(),
  moved_at    timestamptz NOT NULL DEFAULT now(),
  ended_at    timestamptz
);
CREATE INDEX replay_running ON replay (moved_at) WHERE state = 'running';
CREATE INDEX replay_endpoint ON replay (endpoint_id, replay_id);

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
