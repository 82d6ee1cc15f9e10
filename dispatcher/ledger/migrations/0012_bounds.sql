-- What keeps a duty's cost from growing with what others put into the tables.

CREATE INDEX idempotency_key_created ON idempotency_key (created_at);

-- Make what is missing of the tables from today on, a week ahead, and of events' tables as many days back as events are
-- kept: what a log held back for that long has a table to go to. The nearest days first, `most` of them at a time; returns
-- how many. Locks as `make_day`.
CREATE FUNCTION make_days(days_back int, most int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  today date := (now() AT TIME ZONE 'UTC')::date;
  day date;
  n int := 0;
BEGIN
  FOR day IN SELECT today + k FROM generate_series(0, 7) AS k LOOP
    PERFORM make_day(day);
  END LOOP;
  FOR day IN SELECT today - k FROM generate_series(1, days_back) AS k
             WHERE to_regclass('event_' || to_char(today - k, 'YYYYMMDD')) IS NULL ORDER BY k LIMIT most LOOP
    EXECUTE format('CREATE TABLE %I PARTITION OF event FOR VALUES FROM (%L) TO (%L)',
                   'event_' || to_char(day, 'YYYYMMDD'), day, day + 1);
    n := n + 1;
  END LOOP;
  RETURN n;
END $$;

-- A host that can be forgotten: no endpoint has it, none left it lately, and it remembers nothing that the next endpoint
-- there has to be met with: no limits of an operator's, no slow start, no pause within the hour, no token given ahead.
-- That no delivery has it either takes a look at the whole hot table, and is for who forgets to see to.
CREATE INDEX endpoint_of_host ON endpoint (host_id);
CREATE VIEW idle_host AS
SELECT h.host_id FROM host h
WHERE NOT h.has_own_limits AND h.scale = 1 AND h.tat <= now() AND h.paused_until <= now() - interval '1 hour'
  AND h.changed_at < now() - interval '1 day' AND NOT EXISTS (SELECT FROM endpoint e WHERE e.host_id = h.host_id);
