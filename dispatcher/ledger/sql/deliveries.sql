-- name: deliveries_of_endpoint
-- Read a page of an endpoint's deliveries, open and ended, newest first by creation: a delivery keeps its place
-- whatever becomes of it. One look per wanted state, so that every state is served by an index: delivery_endpoint for
-- open ones, attempt_final for ended ones. One snapshot, so that a delivery that ends meanwhile is shown once; of one
-- that was sent again the row in its old place is not current (OFFSET 0: looked up row by row). Types, outcomes and tests are filtered within the rows
-- scanned; what was scanned, and up to where, is told in every row, and there is always one.
-- $1 endpoint, $2 open states, $3 final verdicts, $4 and $5 only before this place (creation, number), $6 not created
-- before, $7 rows to scan, $8 types, $9 outcomes and $10 whether tests, each or NULL, $11 rows.
WITH open AS (
  SELECT d.delivery_id, d.created_at, d.endpoint_id, d.event_id, d.event_day, d.account_id, d.environment, s.state, d.attempts,
         CASE WHEN NOT d.held THEN d.due_at END AS next_at
  FROM (VALUES ('pending', false, false), ('retrying', false, true), ('held', true, false), ('held', true, true))
       AS s(state, held, tried)
  CROSS JOIN LATERAL (
    SELECT * FROM delivery d
    WHERE d.endpoint_id = $1 AND d.held = s.held AND (d.attempts > 0) = s.tried
      AND (d.created_at, d.delivery_id) < ($4::timestamptz, $5::bigint) AND d.created_at >= $6::timestamptz
    ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT $7) d
  WHERE s.state = ANY($2::text[])),
ended AS (
  SELECT a.* FROM unnest($3::text[]) AS v(verdict)
  CROSS JOIN LATERAL (
    SELECT * FROM attempt a
    WHERE a.endpoint_id = $1 AND a.verdict = v.verdict AND a.verdict IN ('delivered', 'exhausted', 'canceled')
      AND (a.delivery_created_at, a.delivery_id) < ($4::timestamptz, $5::bigint) AND a.delivery_created_at >= $6::timestamptz
      AND a.started_at >= $6::timestamptz::timestamptz - interval '1 minute'
    ORDER BY a.delivery_created_at DESC, a.delivery_id DESC LIMIT $7) a),
stretch AS (
  SELECT false AS is_final, delivery_id, created_at, endpoint_id, event_id, event_day, account_id, environment, state, attempts,
         next_at, NULL::text AS event_type, NULL::text AS subject, NULL::smallint AS status, NULL::text AS outcome,
         NULL::int AS duration_ms, NULL::timestamptz AS last_at, false AS is_test
  FROM open
  UNION ALL
  SELECT true, a.delivery_id, a.delivery_created_at, a.endpoint_id, a.event_id, NULL, a.account_id, a.environment, a.verdict,
         CASE WHEN a.outcome IS NULL THEN a.attempt_no - 1 ELSE a.attempt_no END, NULL, a.event_type, a.subject,
         a.status, a.outcome, a.duration_ms, a.started_at, octet_length(a.event_id) = 16
  FROM ended a
  ORDER BY created_at DESC, delivery_id DESC LIMIT $7),
told AS (
  SELECT t.is_final, t.delivery_id, t.created_at, t.endpoint_id, t.event_id, t.state, t.attempts, t.next_at, t.is_test,
         COALESCE(t.event_type, e.event_type, l.event_type) AS event_type, COALESCE(t.subject, e.subject, l.subject) AS subject,
         COALESCE(t.status, l.status) AS status, COALESCE(t.outcome, l.outcome) AS outcome,
         COALESCE(t.duration_ms, l.duration_ms) AS duration_ms, COALESCE(t.last_at, l.started_at) AS last_at
  FROM stretch t
  LEFT JOIN LATERAL (
    SELECT e.event_type, e.subject FROM event e
    WHERE NOT t.is_final AND e.event_id = t.event_id AND e.account_id = t.account_id AND e.environment = t.environment
      AND e.event_day = t.event_day LIMIT 1) e ON true
  LEFT JOIN LATERAL (
    SELECT a.status, a.outcome, a.duration_ms, a.started_at, a.event_type, a.subject FROM attempt a
    WHERE NOT t.is_final AND t.attempts > 0 AND a.delivery_id = t.delivery_id
      AND a.started_at >= t.created_at - interval '1 minute'
    ORDER BY a.started_at DESC LIMIT 1) l ON true),
wanted AS (
  SELECT * FROM told
  WHERE ($8::text[] IS NULL OR event_type = ANY($8)) AND ($9::text[] IS NULL OR outcome = ANY($9))
    AND ($10::boolean IS NULL OR is_test = $10)
  ORDER BY created_at DESC, delivery_id DESC LIMIT $11)
SELECT n.n_scanned, b.*, w.*, p.public_id AS endpoint,
       NOT w.is_final
       OR (NOT EXISTS (SELECT FROM delivery d WHERE d.delivery_id = w.delivery_id OFFSET 0)
           AND NOT EXISTS (SELECT FROM attempt n WHERE n.delivery_id = w.delivery_id AND n.started_at > w.last_at
                             AND n.verdict IN ('delivered', 'exhausted', 'canceled') OFFSET 0)) AS is_current
FROM (SELECT count(*) AS n_scanned FROM stretch) n
LEFT JOIN (SELECT created_at AS scanned_to_at, delivery_id AS scanned_to_id FROM stretch
           ORDER BY created_at, delivery_id LIMIT 1) b ON true
LEFT JOIN wanted w ON true
LEFT JOIN endpoint p ON p.endpoint_id = w.endpoint_id
ORDER BY w.created_at DESC, w.delivery_id DESC

-- name: deliveries_of_account
-- Read a page of an account's deliveries as `deliveries_of_endpoint` does. Open ones are looked for endpoint by
-- endpoint, without what a deleted one has in flight for its last seconds. Indexes: endpoint_list, delivery_endpoint, attempt_account.
-- $1 account, $2 environment, $3..$12 as $2..$11 there.
WITH open AS (
  SELECT d.delivery_id, d.created_at, d.endpoint_id, d.event_id, d.event_day, d.account_id, d.environment, s.state, d.attempts,
         CASE WHEN NOT d.held THEN d.due_at END AS next_at
  FROM endpoint p CROSS JOIN (VALUES ('pending', false, false), ('retrying', false, true), ('held', true, false), ('held', true, true))
       AS s(state, held, tried)
  CROSS JOIN LATERAL (
    SELECT * FROM delivery d
    WHERE d.endpoint_id = p.endpoint_id AND d.held = s.held AND (d.attempts > 0) = s.tried
      AND (d.created_at, d.delivery_id) < ($5::timestamptz, $6::bigint) AND d.created_at >= $7::timestamptz
    ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT $8) d
  WHERE s.state = ANY($3::text[]) AND p.account_id = $1 AND p.environment = $2 AND p.status <> 'deleted'),
ended AS (
  SELECT a.* FROM unnest($4::text[]) AS v(verdict)
  CROSS JOIN LATERAL (
    SELECT * FROM attempt a
    WHERE a.account_id = $1 AND a.environment = $2 AND a.verdict = v.verdict AND a.verdict IN ('delivered', 'exhausted', 'canceled')
      AND (a.delivery_created_at, a.delivery_id) < ($5::timestamptz, $6::bigint) AND a.delivery_created_at >= $7::timestamptz
      AND a.started_at >= $7::timestamptz::timestamptz - interval '1 minute'
    ORDER BY a.delivery_created_at DESC, a.delivery_id DESC LIMIT $8) a),
stretch AS (
  SELECT false AS is_final, delivery_id, created_at, endpoint_id, event_id, event_day, account_id, environment, state, attempts,
         next_at, NULL::text AS event_type, NULL::text AS subject, NULL::smallint AS status, NULL::text AS outcome,
         NULL::int AS duration_ms, NULL::timestamptz AS last_at, false AS is_test
  FROM open
  UNION ALL
  SELECT true, a.delivery_id, a.delivery_created_at, a.endpoint_id, a.event_id, NULL, a.account_id, a.environment, a.verdict,
         CASE WHEN a.outcome IS NULL THEN a.attempt_no - 1 ELSE a.attempt_no END, NULL, a.event_type, a.subject,
         a.status, a.outcome, a.duration_ms, a.started_at, octet_length(a.event_id) = 16
  FROM ended a
  ORDER BY created_at DESC, delivery_id DESC LIMIT $8),
told AS (
  SELECT t.is_final, t.delivery_id, t.created_at, t.endpoint_id, t.event_id, t.state, t.attempts, t.next_at, t.is_test,
         COALESCE(t.event_type, e.event_type, l.event_type) AS event_type, COALESCE(t.subject, e.subject, l.subject) AS subject,
         COALESCE(t.status, l.status) AS status, COALESCE(t.outcome, l.outcome) AS outcome,
         COALESCE(t.duration_ms, l.duration_ms) AS duration_ms, COALESCE(t.last_at, l.started_at) AS last_at
  FROM stretch t
  LEFT JOIN LATERAL (
    SELECT e.event_type, e.subject FROM event e
    WHERE NOT t.is_final AND e.event_id = t.event_id AND e.account_id = t.account_id AND e.environment = t.environment
      AND e.event_day = t.event_day LIMIT 1) e ON true
  LEFT JOIN LATERAL (
    SELECT a.status, a.outcome, a.duration_ms, a.started_at, a.event_type, a.subject FROM attempt a
    WHERE NOT t.is_final AND t.attempts > 0 AND a.delivery_id = t.delivery_id
      AND a.started_at >= t.created_at - interval '1 minute'
    ORDER BY a.started_at DESC LIMIT 1) l ON true),
wanted AS (
  SELECT * FROM told
  WHERE ($9::text[] IS NULL OR event_type = ANY($9)) AND ($10::text[] IS NULL OR outcome = ANY($10))
    AND ($11::boolean IS NULL OR is_test = $11)
  ORDER BY created_at DESC, delivery_id DESC LIMIT $12)
SELECT n.n_scanned, b.*, w.*, p.public_id AS endpoint,
       NOT w.is_final
       OR (NOT EXISTS (SELECT FROM delivery d WHERE d.delivery_id = w.delivery_id OFFSET 0)
           AND NOT EXISTS (SELECT FROM attempt n WHERE n.delivery_id = w.delivery_id AND n.started_at > w.last_at
                             AND n.verdict IN ('delivered', 'exhausted', 'canceled') OFFSET 0)) AS is_current
FROM (SELECT count(*) AS n_scanned FROM stretch) n
LEFT JOIN (SELECT created_at AS scanned_to_at, delivery_id AS scanned_to_id FROM stretch
           ORDER BY created_at, delivery_id LIMIT 1) b ON true
LEFT JOIN wanted w ON true
LEFT JOIN endpoint p ON p.endpoint_id = w.endpoint_id
ORDER BY w.created_at DESC, w.delivery_id DESC

-- name: deliveries_of_events
-- Read a page of an account's deliveries of one event, or of the newest $14 events with one subject. An open delivery is
-- found by the time of its creation, which is that of its event's. Of an event past its retention the ended ones are left.
-- Indexes: the event's key or event_subject, then delivery_endpoint and attempt_event.
-- $1 account, $2 environment, $3 endpoint, $4 event and $5 subject, each or NULL, $6..$13 as $2..$6 and $8..$10 in
-- `deliveries_of_endpoint`, $15 rows.
WITH sought AS MATERIALIZED (
  SELECT event_id, ingested_at FROM event
  WHERE event_id = $4::bytea AND account_id = $1 AND environment = $2 AND ($5::text IS NULL OR subject = $5)
  UNION ALL
  (SELECT event_id, ingested_at FROM event
   WHERE $4 IS NULL AND account_id = $1 AND environment = $2 AND subject = $5
   ORDER BY ingested_at DESC LIMIT $14)
  UNION ALL
  SELECT $4, NULL WHERE $4 IS NOT NULL AND $5 IS NULL),
open AS (
  SELECT d.delivery_id, d.created_at, d.endpoint_id, d.event_id, d.event_day, d.account_id, d.environment, s.state, d.attempts,
         CASE WHEN NOT d.held THEN d.due_at END AS next_at
  FROM sought n CROSS JOIN endpoint p
  CROSS JOIN (VALUES ('pending', false, false), ('retrying', false, true), ('held', true, false), ('held', true, true))
       AS s(state, held, tried)
  CROSS JOIN LATERAL (
    SELECT * FROM delivery d
    WHERE d.endpoint_id = p.endpoint_id AND d.held = s.held AND (d.attempts > 0) = s.tried
      AND d.created_at = n.ingested_at AND d.event_id = n.event_id OFFSET 0) d
  WHERE s.state = ANY($6::text[]) AND p.account_id = $1 AND p.environment = $2 AND p.status <> 'deleted'
    AND ($3::int IS NULL OR p.endpoint_id = $3)),
ended AS (
  SELECT DISTINCT ON (a.delivery_id) a.*
  FROM sought n CROSS JOIN LATERAL (
    SELECT * FROM attempt a
    WHERE a.event_id = n.event_id AND ($3::int IS NULL OR a.endpoint_id = $3)
      AND a.account_id = $1 AND a.environment = $2 AND a.verdict IN ('delivered', 'exhausted', 'canceled') OFFSET 0) a
  ORDER BY a.delivery_id, a.started_at DESC),
stretch AS (
  SELECT false AS is_final, delivery_id, created_at, endpoint_id, event_id, event_day, account_id, environment, state, attempts,
         next_at, NULL::text AS event_type, NULL::text AS subject, NULL::smallint AS status, NULL::text AS outcome,
         NULL::int AS duration_ms, NULL::timestamptz AS last_at, false AS is_test
  FROM open WHERE (created_at, delivery_id) < ($8::timestamptz, $9::bigint) AND created_at >= $10::timestamptz
  UNION ALL
  SELECT true, a.delivery_id, a.delivery_created_at, a.endpoint_id, a.event_id, NULL, a.account_id, a.environment, a.verdict,
         CASE WHEN a.outcome IS NULL THEN a.attempt_no - 1 ELSE a.attempt_no END, NULL, a.event_type, a.subject,
         a.status, a.outcome, a.duration_ms, a.started_at, octet_length(a.event_id) = 16
  FROM ended a
  WHERE a.verdict = ANY($7::text[])
    AND (a.delivery_created_at, a.delivery_id) < ($8, $9) AND a.delivery_created_at >= $10),
told AS (
  SELECT t.is_final, t.delivery_id, t.created_at, t.endpoint_id, t.event_id, t.state, t.attempts, t.next_at, t.is_test,
         COALESCE(t.event_type, e.event_type, l.event_type) AS event_type, COALESCE(t.subject, e.subject, l.subject) AS subject,
         COALESCE(t.status, l.status) AS status, COALESCE(t.outcome, l.outcome) AS outcome,
         COALESCE(t.duration_ms, l.duration_ms) AS duration_ms, COALESCE(t.last_at, l.started_at) AS last_at
  FROM stretch t
  LEFT JOIN LATERAL (
    SELECT e.event_type, e.subject FROM event e
    WHERE NOT t.is_final AND e.event_id = t.event_id AND e.account_id = t.account_id AND e.environment = t.environment
      AND e.event_day = t.event_day LIMIT 1) e ON true
  LEFT JOIN LATERAL (
    SELECT a.status, a.outcome, a.duration_ms, a.started_at, a.event_type, a.subject FROM attempt a
    WHERE NOT t.is_final AND t.attempts > 0 AND a.delivery_id = t.delivery_id
      AND a.started_at >= t.created_at - interval '1 minute'
    ORDER BY a.started_at DESC LIMIT 1) l ON true),
wanted AS (
  SELECT * FROM told
  WHERE ($11::text[] IS NULL OR event_type = ANY($11)) AND ($12::text[] IS NULL OR outcome = ANY($12))
    AND ($13::boolean IS NULL OR is_test = $13)
  ORDER BY created_at DESC, delivery_id DESC LIMIT $15)
SELECT n.n_scanned, b.*, w.*, p.public_id AS endpoint,
       NOT w.is_final
       OR (NOT EXISTS (SELECT FROM delivery d WHERE d.delivery_id = w.delivery_id OFFSET 0)
           AND NOT EXISTS (SELECT FROM attempt n WHERE n.delivery_id = w.delivery_id AND n.started_at > w.last_at
                             AND n.verdict IN ('delivered', 'exhausted', 'canceled') OFFSET 0)) AS is_current
FROM (SELECT count(*) AS n_scanned FROM stretch) n
LEFT JOIN (SELECT created_at AS scanned_to_at, delivery_id AS scanned_to_id FROM stretch
           ORDER BY created_at, delivery_id LIMIT 1) b ON true
LEFT JOIN wanted w ON true
LEFT JOIN endpoint p ON p.endpoint_id = w.endpoint_id
ORDER BY w.created_at DESC, w.delivery_id DESC
