-- bears: 0013
-- Reading back without opening the tables of every day.

-- Tell the open ones of these deliveries as `open_delivery` does, in no order.
-- A function of its own, so that a page without any pays nothing for them: a plan's start opens each table that it might
-- look into, the events of more than a month, whether it will or not. And since it knows the days beforehand, those
-- tables alone are opened. The sum as in events_at.
CREATE FUNCTION open_deliveries(numbers bigint[])
RETURNS TABLE (delivery_id bigint, created_at timestamptz, endpoint_id int, event_id bytea, event_type text, subject text,
               client_reference text, state text, attempts smallint, attempts_before smallint, next_at timestamptz,
               status smallint, outcome text, duration_ms int, last_at timestamptz)
LANGUAGE plpgsql STABLE STRICT ROWS 20 AS $$
#variable_conflict use_column
DECLARE
  first_day date;
  last_day  date;
  born_at   timestamptz;
BEGIN
  SELECT min(d.event_day), max(d.event_day), min(d.created_at) INTO first_day, last_day, born_at
  FROM delivery d WHERE d.delivery_id = ANY(numbers);
  RETURN QUERY
  SELECT d.delivery_id, d.created_at, d.endpoint_id, d.event_id,
         COALESCE(e.event_type, l.event_type), COALESCE(e.subject, l.subject),
         COALESCE(e.client_reference, l.client_reference),
         CASE WHEN d.held THEN 'held' WHEN d.attempts > 0 THEN 'retrying' ELSE 'pending' END,
         d.attempts, d.attempts_before, CASE WHEN NOT d.held THEN d.due_at END, l.status, l.outcome, l.duration_ms,
         l.started_at
  FROM delivery d
  LEFT JOIN LATERAL (
    SELECT v.event_type, v.subject, v.client_reference FROM event v
    WHERE v.event_id = d.event_id AND v.account_id + 0 = d.account_id AND v.environment = d.environment
      AND v.event_day = d.event_day AND v.event_day BETWEEN first_day AND last_day OFFSET 0) e ON true
  LEFT JOIN LATERAL (
    SELECT a.status, a.outcome, a.duration_ms, a.started_at, a.event_type, a.subject, a.client_reference FROM attempt a
    WHERE a.delivery_id = d.delivery_id AND a.started_at >= d.created_at - interval '1 minute'
      AND a.started_at BETWEEN born_at - interval '1 minute' AND now() + interval '1 day'
    ORDER BY a.started_at DESC LIMIT 1) l ON true
  WHERE d.delivery_id = ANY(numbers);
END $$;

-- When an endpoint met its latest success before a moment, the first failure of a row: looked for among the hundred
-- attempts there. A function for the reason above: it is called for few endpoints.
CREATE FUNCTION last_success(endpoint_no int, before timestamptz) RETURNS timestamptz LANGUAGE plpgsql STABLE STRICT AS $$
BEGIN
  RETURN (
    SELECT x.started_at FROM (
      SELECT a.started_at, a.outcome FROM attempt a
      WHERE a.endpoint_id = endpoint_no AND a.started_at < before AND a.started_at <= now() + interval '1 day'
      ORDER BY a.started_at DESC LIMIT 100) x
    WHERE x.outcome = 'delivered' ORDER BY x.started_at DESC LIMIT 1);
END $$;
