-- bears: 0008
-- How many attempts a delivery has: for an open one by those before it was sent again and its endpoint's schedule, for a
-- finished one as its last request told.

CREATE OR REPLACE VIEW open_delivery AS
SELECT d.delivery_id, d.created_at, d.endpoint_id, d.account_id, d.environment, d.event_id,
       COALESCE(e.event_type, l.event_type) AS event_type, COALESCE(e.subject, l.subject) AS subject,
       CASE WHEN d.held THEN 'held' WHEN d.attempts > 0 THEN 'retrying' ELSE 'pending' END AS state,
       d.attempts, CASE WHEN NOT d.held THEN d.due_at END AS next_at, l.status, l.outcome, l.duration_ms,
       l.started_at AS last_at, false AS is_final, d.attempts_before, NULL::bytea AS detail
FROM delivery d
LEFT JOIN event e ON e.event_id = d.event_id AND e.account_id = d.account_id AND e.environment = d.environment
                 AND e.event_day = d.event_day
LEFT JOIN LATERAL (
  SELECT a.status, a.outcome, a.duration_ms, a.started_at, a.event_type, a.subject FROM attempt a
  WHERE a.delivery_id = d.delivery_id AND a.started_at >= d.created_at - interval '1 minute'
  ORDER BY a.started_at DESC LIMIT 1) l ON true;

CREATE OR REPLACE VIEW ended_delivery AS
SELECT a.delivery_id, a.delivery_created_at AS created_at, a.endpoint_id, a.account_id, a.environment, a.event_id,
       a.event_type, a.subject, a.verdict AS state,
       CASE WHEN a.outcome IS NULL THEN a.attempt_no - 1 ELSE a.attempt_no END AS attempts,
       NULL::timestamptz AS next_at, a.status, a.outcome, a.duration_ms, a.started_at AS last_at, true AS is_final,
       NULL::smallint AS attempts_before, a.detail
FROM attempt a WHERE a.verdict IN ('delivered', 'exhausted', 'canceled');
