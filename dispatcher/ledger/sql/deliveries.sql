-- name: list_deliveries
-- Read a page of an account's deliveries, or of one endpoint's, open and ended, newest first by creation: a delivery
-- keeps its place whatever becomes of it. One look per endpoint and wanted state, each for its share of the rows to scan
-- and no less than a page: where a look ends before its rows do, the stretch ends for all. Of the endpoints that were
-- deleted those are looked at whose history lies around the place to begin at, and those before it, the last ones first,
-- some at a time: where the next one's history ends, the stretch ends, too. (LEAST keeps the planner from an index of all
-- that was changed.) Then what was found is told, as far as it can be on the page: whether an open one is wanted shows
-- only then, of an ended one its row tells.
-- One snapshot, so that a delivery that ends meanwhile is shown once; of one that was sent again all rows but the last are
-- not current. They have one place, so a look ends behind all of them. Types, outcomes and tests are filtered within the stretch; how many rows it has, up to where it
-- goes and whether more may follow is told in every row, and there is always one.
-- What is picked is told by all its numbers at once: row by row is dearer. The verdict is looked
-- at behind OFFSET 0, out of reach of the index of final ones, which finds a number by being read from end to end. And IS
-- TRUE makes IN a look into a hash: as a join it compares each with each.
-- The life of an endpoint, and the bound on creation, leave out the tables of other days. Said of each look in terms of
-- $8 and now(), though what it starts from implies it: so those tables are left out once, before the first row.
-- Indexes: endpoint_list, endpoint_history, delivery_endpoint for open ones, attempt_final for ended ones; then primary
-- keys and attempt_delivery. $1 account, $2 environment, $3 endpoint or NULL, $4 open states, $5 final verdicts, $6 and $7
-- only before this place (creation, number), $8 not created before, $9 rows to scan, $10 types, $11 outcomes and $12
-- whether tests, each or NULL, $13 rows, $14 deleted endpoints.
WITH asked AS MATERIALIZED (
  SELECT endpoint_id, public_id, cardinality(schedule) AS n_scheduled, created_at - interval '1 minute' AS born_at,
         CASE WHEN status = 'deleted' THEN changed_at ELSE now() END + interval '1 day' AS gone_at,
         CASE WHEN status = 'deleted' THEN LEAST(last_delivery_at, $6::timestamptz) ELSE $6 END AS last_at
  FROM (
    SELECT * FROM endpoint
    WHERE endpoint_id = $3::int AND account_id = $1 AND environment = $2 AND (status <> 'deleted' OR changed_at >= $8::timestamptz)
    UNION ALL
    SELECT * FROM endpoint WHERE $3 IS NULL AND account_id = $1 AND environment = $2 AND status <> 'deleted'
    UNION ALL
    SELECT * FROM endpoint
    WHERE $3 IS NULL AND account_id = $1 AND environment = $2 AND status = 'deleted' AND LEAST(changed_at) >= $8
      AND last_delivery_at >= GREATEST($6, $8) AND first_delivery_at <= $6
    UNION ALL
    (SELECT * FROM endpoint
     WHERE $3 IS NULL AND account_id = $1 AND environment = $2 AND status = 'deleted' AND LEAST(changed_at) >= $8
       AND last_delivery_at >= $8 AND last_delivery_at < $6
     ORDER BY last_delivery_at DESC FETCH FIRST $14 ROWS WITH TIES)) e),
passed_over AS MATERIALIZED (
  SELECT last_delivery_at + interval '1 microsecond' AS created_at FROM endpoint
  WHERE $3 IS NULL AND account_id = $1 AND environment = $2 AND status = 'deleted' AND LEAST(changed_at) >= $8
    AND last_delivery_at >= $8 AND last_delivery_at < (SELECT min(last_at) FROM asked)
  ORDER BY last_delivery_at DESC LIMIT 1),
share AS MATERIALIZED (SELECT GREATEST($13::bigint, $9::bigint / GREATEST(count(*), 1)) AS n FROM asked),
found AS MATERIALIZED (
  SELECT false AS is_final, d.created_at, d.delivery_id, NULL::timestamptz AS last_at, d.nth, NULL::boolean AS is_wanted
  FROM asked p
  CROSS JOIN (VALUES ('pending', false, false), ('retrying', false, true), ('held', true, false), ('held', true, true))
       AS s(state, held, tried)
  CROSS JOIN LATERAL (
    SELECT d.created_at, d.delivery_id, row_number() OVER (ORDER BY d.created_at DESC, d.delivery_id DESC) AS nth
    FROM delivery d
    WHERE d.endpoint_id = p.endpoint_id AND d.held = s.held AND (d.attempts > 0) = s.tried
      AND (d.created_at, d.delivery_id) < ($6::timestamptz, $7::bigint) AND d.created_at >= $8
    ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT (SELECT n FROM share)) d
  WHERE s.state = ANY($4::text[])
  UNION ALL
  SELECT true, a.created_at, a.delivery_id, a.started_at, a.nth, a.is_wanted
  FROM asked p CROSS JOIN unnest($5::text[]) AS v(verdict)
  CROSS JOIN LATERAL (
    SELECT a.delivery_created_at AS created_at, a.delivery_id, a.started_at,
           row_number() OVER (ORDER BY a.delivery_created_at DESC, a.delivery_id DESC) AS nth,
           ($10::text[] IS NULL OR a.event_type = ANY($10))
           AND ($11::text[] IS NULL OR COALESCE(a.outcome = ANY($11), false))
           AND ($12::boolean IS NULL OR (octet_length(a.event_id) = 16) = $12) AS is_wanted
    FROM attempt a
    WHERE a.endpoint_id = p.endpoint_id AND a.verdict = v.verdict AND a.verdict IN ('delivered', 'exhausted', 'canceled')
      AND (a.delivery_created_at, a.delivery_id) < ($6, $7) AND a.delivery_created_at >= $8
      AND a.started_at >= $8 - interval '1 minute' AND a.started_at BETWEEN p.born_at AND p.gone_at
      AND a.started_at <= now() + interval '1 day'
    ORDER BY a.delivery_created_at DESC, a.delivery_id DESC FETCH FIRST (SELECT n FROM share) ROWS WITH TIES) a),
cut AS MATERIALIZED (
  SELECT created_at, delivery_id FROM found, share WHERE nth = n
  UNION ALL SELECT created_at, 0 FROM passed_over
  ORDER BY created_at DESC, delivery_id DESC LIMIT 1),
stretch AS MATERIALIZED (
  SELECT f.* FROM found f
  WHERE COALESCE((f.created_at, f.delivery_id) >= ((SELECT created_at FROM cut), (SELECT delivery_id FROM cut)), true)
  ORDER BY f.created_at DESC, f.delivery_id DESC, f.is_final, f.last_at DESC LIMIT $9),
picked AS MATERIALIZED (
  SELECT f.*, count(*) FILTER (WHERE is_wanted) OVER (
                ORDER BY created_at DESC, delivery_id DESC, is_final, last_at DESC ROWS UNBOUNDED PRECEDING) AS n_wanted
  FROM stretch f WHERE is_wanted IS NOT false),
finals AS MATERIALIZED (SELECT array_agg(delivery_id) AS numbers FROM picked WHERE is_final AND n_wanted <= $13),
ended AS (
  SELECT a.*, row_number() OVER (PARTITION BY delivery_id ORDER BY last_at DESC) = 1
              AND delivery_id <> ALL(ARRAY(SELECT delivery_id FROM delivery
                                           WHERE delivery_id = ANY((SELECT numbers FROM finals)::bigint[]))) AS is_current
  FROM (
    SELECT delivery_id, delivery_created_at AS created_at, started_at AS last_at, endpoint_id, event_id, event_type, subject,
           client_reference, verdict, status, outcome, duration_ms, detail,
           CASE WHEN outcome IS NULL THEN attempt_no - 1 ELSE attempt_no END AS attempts
    FROM attempt
    WHERE delivery_id = ANY((SELECT numbers FROM finals)::bigint[])
      AND started_at BETWEEN $8 - interval '1 minute' AND now() + interval '1 day' OFFSET 0) a
  WHERE verdict IN ('delivered', 'exhausted', 'canceled')),
wanted AS (
  SELECT o.delivery_id, o.created_at, o.endpoint_id, o.event_id, o.event_type, o.subject, o.client_reference, o.state,
         o.attempts, o.attempts_before, o.next_at, o.status, o.outcome, o.duration_ms, o.last_at, false AS is_final,
         NULL::bytea AS detail, true AS is_current
  FROM open_deliveries((SELECT array_agg(delivery_id) FROM picked WHERE NOT is_final AND n_wanted <= $13)) o
  WHERE ($10::text[] IS NULL OR o.event_type = ANY($10)) AND ($11::text[] IS NULL OR o.outcome = ANY($11))
    AND ($12::boolean IS NULL OR (octet_length(o.event_id) = 16) = $12)
  UNION ALL
  SELECT delivery_id, created_at, endpoint_id, event_id, event_type, subject, client_reference, verdict, attempts, NULL, NULL,
         status, outcome, duration_ms, last_at, true, detail, is_current
  FROM ended
  WHERE ((delivery_id, last_at) IN (SELECT delivery_id, last_at FROM picked WHERE is_final AND n_wanted <= $13)) IS TRUE
  ORDER BY created_at DESC, delivery_id DESC, is_final, last_at DESC LIMIT $13)
SELECT n.*, b.*, w.is_current,
       w.delivery_id, p.public_id AS endpoint, w.event_id, w.event_type, w.subject, w.client_reference, w.state, w.attempts,
       w.next_at, w.status, w.outcome, w.duration_ms, w.last_at, w.created_at, w.attempts_before, w.is_final, w.detail,
       p.n_scheduled
FROM (SELECT count(*) AS n_scanned, count(*) = $9 OR EXISTS (SELECT FROM cut) AS is_cut FROM stretch) n
LEFT JOIN (SELECT created_at AS scanned_to_at, delivery_id AS scanned_to_id FROM (
             SELECT created_at, delivery_id FROM stretch
             UNION ALL SELECT created_at, delivery_id FROM cut WHERE (SELECT count(*) FROM stretch) < $9) ends
           ORDER BY created_at, delivery_id LIMIT 1) b ON true
LEFT JOIN (wanted w JOIN asked p ON p.endpoint_id = w.endpoint_id) ON true
ORDER BY w.created_at DESC, w.delivery_id DESC, w.is_final, w.last_at DESC

-- name: deliveries_of_events
-- Read a page of an account's deliveries of one event, or of the newest $14 events with one subject or one of the
-- customer's references, and of as many tests. An open delivery is found by the time of its creation, which is that of its
-- event's. Of an event past its retention the ended ones are left.
-- Indexes: the event's key, event_reference or event_subject, then endpoint_list, delivery_endpoint and attempt_event; then
-- as `list_deliveries`. $1 account, $2 environment, $3 endpoint, $4 event, $5 subject and $16 reference, each or NULL,
-- $6..$10 as $4..$8 and $11..$13 as $10..$12 there, $15 rows.
WITH introduced AS MATERIALIZED (
  SELECT subject FROM event
  WHERE $4::bytea IS NULL AND $5::text IS NULL AND account_id = $1 AND environment = $2 AND client_reference = $16::text
    AND introduces
  ORDER BY ingested_at DESC LIMIT $14),
sought AS MATERIALIZED (
  SELECT event_id, ingested_at FROM event
  WHERE event_id = $4 AND account_id + 0 = $1 AND environment = $2 AND ($5 IS NULL OR subject = $5)
    AND ($16 IS NULL OR client_reference = $16)
  UNION ALL
  (SELECT e.event_id, e.ingested_at FROM (SELECT $5 AS subject WHERE $4 IS NULL UNION SELECT subject FROM introduced) n
   CROSS JOIN LATERAL (
     SELECT event_id, ingested_at FROM event e
     WHERE e.account_id = $1 AND e.environment = $2 AND e.subject = n.subject
       AND ($16 IS NULL OR e.client_reference = $16)
     ORDER BY ingested_at DESC LIMIT $14) e
   ORDER BY e.ingested_at DESC LIMIT $14)
  UNION ALL
  SELECT event_id, created_at FROM trials_of($1, $2, $5, $16, $14) WHERE $4 IS NULL
  UNION ALL
  SELECT event_id, created_at FROM trial_event
  WHERE event_id = $4 AND account_id = $1 AND environment = $2 AND ($5 IS NULL OR subject = $5)
    AND ($16 IS NULL OR client_reference = $16)
  UNION ALL
  SELECT $4, NULL WHERE $4 IS NOT NULL AND $5 IS NULL AND $16 IS NULL),
found AS MATERIALIZED (
  SELECT false AS is_final, d.created_at, d.delivery_id, NULL::timestamptz AS last_at
  FROM sought n CROSS JOIN endpoint p
  CROSS JOIN (VALUES ('pending', false, false), ('retrying', false, true), ('held', true, false), ('held', true, true))
       AS s(state, held, tried)
  CROSS JOIN LATERAL (
    SELECT * FROM delivery d
    WHERE d.endpoint_id = p.endpoint_id AND d.held = s.held AND (d.attempts > 0) = s.tried
      AND d.created_at = n.ingested_at AND d.event_id = n.event_id OFFSET 0) d
  WHERE s.state = ANY($6::text[]) AND p.account_id = $1 AND p.environment = $2 AND p.status <> 'deleted'
    AND ($3::int IS NULL OR p.endpoint_id = $3)
  UNION ALL
  SELECT true, a.delivery_created_at, a.delivery_id, a.started_at
  FROM (SELECT DISTINCT ON (a.delivery_id) a.*
        FROM sought n CROSS JOIN LATERAL (
          SELECT * FROM attempt a
          WHERE a.event_id = n.event_id AND ($3::int IS NULL OR a.endpoint_id = $3)
            AND a.account_id = $1 AND a.environment = $2 AND a.verdict IN ('delivered', 'exhausted', 'canceled') OFFSET 0) a
        ORDER BY a.delivery_id, a.started_at DESC) a
  WHERE a.verdict = ANY($7::text[])),
told AS (
  SELECT t.* FROM found f CROSS JOIN LATERAL (
    SELECT * FROM open_delivery o WHERE NOT f.is_final AND o.delivery_id = f.delivery_id
    UNION ALL
    SELECT * FROM ended_delivery e WHERE f.is_final AND e.delivery_id = f.delivery_id AND e.last_at = f.last_at) t
  WHERE (f.created_at, f.delivery_id) < ($8::timestamptz, $9::bigint) AND f.created_at >= $10::timestamptz),
wanted AS (
  SELECT * FROM told
  WHERE ($11::text[] IS NULL OR event_type = ANY($11)) AND ($12::text[] IS NULL OR outcome = ANY($12))
    AND ($13::boolean IS NULL OR (octet_length(event_id) = 16) = $13)
  ORDER BY created_at DESC, delivery_id DESC, is_final, last_at DESC LIMIT $15)
SELECT NOT w.is_final
       OR (NOT EXISTS (SELECT FROM delivery d WHERE d.delivery_id = w.delivery_id OFFSET 0)
           AND NOT EXISTS (SELECT FROM ended_delivery n WHERE n.delivery_id = w.delivery_id AND n.last_at > w.last_at OFFSET 0))
       AS is_current,
       w.delivery_id, p.public_id AS endpoint, w.event_id, w.event_type, w.subject, w.client_reference, w.state, w.attempts,
       w.next_at, w.status, w.outcome, w.duration_ms, w.last_at, w.created_at, w.attempts_before, w.is_final, w.detail,
       cardinality(p.schedule) AS n_scheduled
FROM wanted w JOIN endpoint p USING (endpoint_id)
ORDER BY w.created_at DESC, w.delivery_id DESC, w.is_final, w.last_at DESC
