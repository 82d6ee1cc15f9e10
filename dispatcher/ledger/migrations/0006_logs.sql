-- bears: 0005
-- What the logs are looked through by, and how a delivery is told there.

CREATE INDEX event_subject ON event (account_id, environment, subject, ingested_at) WHERE subject IS NOT NULL;
CREATE INDEX endpoint_tenant ON endpoint (account_id, environment);       -- with deleted ones: their history stays

-- A delivery that is not finished is its row and what its last attempt met.
CREATE VIEW open_delivery AS
SELECT d.delivery_id, d.created_at, d.endpoint_id, d.account_id, d.environment, d.event_id,
       COALESCE(e.event_type, l.event_type) AS event_type, COALESCE(e.subject, l.subject) AS subject,
       CASE WHEN d.held THEN 'held' WHEN d.attempts > 0 THEN 'retrying' ELSE 'pending' END AS state,
       d.attempts, CASE WHEN NOT d.held THEN d.due_at END AS next_at, l.status, l.outcome, l.duration_ms,
       l.started_at AS last_at, false AS is_final
FROM delivery d
LEFT JOIN event e ON e.event_id = d.event_id AND e.account_id = d.account_id AND e.environment = d.environment
                 AND e.event_day = d.event_day
LEFT JOIN LATERAL (
  SELECT a.status, a.outcome, a.duration_ms, a.started_at, a.event_type, a.subject FROM attempt a
  WHERE a.delivery_id = d.delivery_id AND a.started_at >= d.created_at - interval '1 minute'
  ORDER BY a.started_at DESC LIMIT 1) l ON true;

-- A finished one is its attempt with a final verdict: the last of them, should it have been sent again.
CREATE VIEW ended_delivery AS
SELECT a.delivery_id, a.delivery_created_at AS created_at, a.endpoint_id, a.account_id, a.environment, a.event_id,
       a.event_type, a.subject, a.verdict AS state,
       CASE WHEN a.outcome IS NULL THEN a.attempt_no - 1 ELSE a.attempt_no END AS attempts,
       NULL::timestamptz AS next_at, a.status, a.outcome, a.duration_ms, a.started_at AS last_at, true AS is_final
FROM attempt a WHERE a.verdict IN ('delivered', 'exhausted', 'canceled');
