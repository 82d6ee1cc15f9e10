-- The customers' own references of their verifications, to be shown and searched in the logs. What was stored before has
-- none. Collated as bytes: they are compared for equality only.
-- Of the events of a verification only those that introduce its reference are in the index, one a day or a few: an entry
-- for each event would make S1 a seventh dearer. The others are found by what they share, the subject.

ALTER TABLE event
  ADD COLUMN client_reference text COLLATE "C",
  ADD COLUMN introduces boolean;           -- true: a search finds the subject by this row; NULL: by another one
CREATE INDEX event_reference ON event (client_reference, account_id, environment, ingested_at) WHERE introduces;

ALTER TABLE attempt ADD COLUMN client_reference text COLLATE "C";

-- The new column comes last: the release before this one names the others by their places.
DROP FUNCTION events_at;
CREATE FUNCTION events_at(event_ids bytea[], accounts int[], environments text[], days date[])
RETURNS TABLE (event_type text, subject text, occurred_at timestamptz, body bytea, client_reference text)
LANGUAGE plpgsql STABLE ROWS 100 AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT e.event_type, e.subject, e.occurred_at, e.body, e.client_reference
  FROM unnest(event_ids, accounts, environments, days) WITH ORDINALITY
       AS k(event_id, account_id, environment, event_day, place)
  LEFT JOIN LATERAL (
    SELECT v.event_type, v.subject, v.occurred_at, v.body, v.client_reference FROM event v
    WHERE v.event_id = k.event_id AND v.account_id + 0 = k.account_id AND v.environment = k.environment
      AND v.event_day = k.event_day OFFSET 0) e ON true
  ORDER BY k.place;
END $$;

-- The sum as in events_at.
CREATE OR REPLACE VIEW open_delivery AS
SELECT d.delivery_id, d.created_at, d.endpoint_id, d.account_id, d.environment, d.event_id,
       COALESCE(e.event_type, l.event_type) AS event_type, COALESCE(e.subject, l.subject) AS subject,
       CASE WHEN d.held THEN 'held' WHEN d.attempts > 0 THEN 'retrying' ELSE 'pending' END AS state,
       d.attempts, CASE WHEN NOT d.held THEN d.due_at END AS next_at, l.status, l.outcome, l.duration_ms,
       l.started_at AS last_at, false AS is_final, d.attempts_before, NULL::bytea AS detail,
       COALESCE(e.client_reference, l.client_reference) AS client_reference
FROM delivery d
LEFT JOIN event e ON e.event_id = d.event_id AND e.account_id + 0 = d.account_id AND e.environment = d.environment
                 AND e.event_day = d.event_day
LEFT JOIN LATERAL (
  SELECT a.status, a.outcome, a.duration_ms, a.started_at, a.event_type, a.subject, a.client_reference FROM attempt a
  WHERE a.delivery_id = d.delivery_id AND a.started_at >= d.created_at - interval '1 minute'
  ORDER BY a.started_at DESC LIMIT 1) l ON true;

CREATE OR REPLACE VIEW ended_delivery AS
SELECT a.delivery_id, a.delivery_created_at AS created_at, a.endpoint_id, a.account_id, a.environment, a.event_id,
       a.event_type, a.subject, a.verdict AS state,
       CASE WHEN a.outcome IS NULL THEN a.attempt_no - 1 ELSE a.attempt_no END AS attempts,
       NULL::timestamptz AS next_at, a.status, a.outcome, a.duration_ms, a.started_at AS last_at, true AS is_final,
       NULL::smallint AS attempts_before, a.detail, a.client_reference
FROM attempt a WHERE a.verdict IN ('delivered', 'exhausted', 'canceled');

-- What endpoints met hour by hour, for a week: counted from the attempts once an hour is over, by one replica. Settlements
-- write none of it: many replicas settle attempts of one endpoint at once, and its row would be what they wait for.
CREATE TABLE endpoint_hour (
  endpoint_id int NOT NULL,
  hour        timestamptz NOT NULL,        -- its beginning
  n_attempts  int NOT NULL,                -- requests that were made and not interrupted
  n_delivered int NOT NULL,
  PRIMARY KEY (endpoint_id, hour)
);
CREATE INDEX endpoint_hour_hour ON endpoint_hour (hour);

CREATE TABLE counted_hour (hour timestamptz PRIMARY KEY, counted_at timestamptz NOT NULL);

-- An hour of attempts is found by the stretch of the table that they were written to: settlements pay nothing for such an
-- index. Not on days that are over: to build it there is to read them, and they are counted without it, once.
CREATE INDEX attempt_started ON ONLY attempt USING brin (started_at) WITH (pages_per_range = 32, autosummarize = on);
DO $$
DECLARE
  day_table regclass;
BEGIN
  FOR day_table IN
    SELECT inhrelid FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
    WHERE inhparent = 'attempt'::regclass AND right(c.relname, 8) >= to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')
  LOOP
    EXECUTE format('CREATE INDEX ON %s USING brin (started_at) WITH (pages_per_range = 32, autosummarize = on)', day_table);
  END LOOP;
END $$;
