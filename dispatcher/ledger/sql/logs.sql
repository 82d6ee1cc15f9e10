-- name: endpoint_number
-- Read the number of an endpoint of one account, deleted or not: its history stays. Index: the unique key.
SELECT endpoint_id FROM endpoint WHERE public_id = $3 AND account_id = $1 AND environment = $2

-- name: number_of_anybodys_endpoint
-- Read the number of an endpoint, for operators. Index: the unique key.
SELECT endpoint_id FROM endpoint WHERE public_id = $1

-- name: open_delivery
-- Read one delivery that is not finished, of one account. Index: primary keys, attempt_delivery.
SELECT d.delivery_id, p.public_id AS endpoint, d.event_id, d.event_type, d.subject, d.client_reference, d.state, d.attempts,
       d.next_at, d.status, d.outcome, d.duration_ms, d.last_at, d.created_at, d.attempts_before, d.is_final, d.detail,
       cardinality(p.schedule) AS n_scheduled
FROM open_delivery d JOIN endpoint p USING (endpoint_id)
WHERE d.delivery_id = $3 AND d.account_id = $1 AND d.environment = $2

-- name: ended_delivery
-- Read one finished delivery of one account by its last attempt with a final verdict. Index: attempt_delivery.
SELECT d.delivery_id, p.public_id AS endpoint, d.event_id, d.event_type, d.subject, d.client_reference, d.state, d.attempts,
       d.next_at, d.status, d.outcome, d.duration_ms, d.last_at, d.created_at, d.attempts_before, d.is_final, d.detail,
       cardinality(p.schedule) AS n_scheduled
FROM ended_delivery d JOIN endpoint p USING (endpoint_id)
WHERE d.delivery_id = $3 AND d.account_id = $1 AND d.environment = $2
ORDER BY d.last_at DESC LIMIT 1

-- name: attempts_of_delivery
-- Read a page of one delivery's requests, newest first, within one account. Index: attempt_delivery.
-- $1 account, $2 environment, $3 delivery, $4..$6 only before this place, $7 rows.
SELECT started_at, delivery_id, attempt_no, event_id, event_type, subject, client_reference, duration_ms, status, outcome,
       verdict, next_at, detail
FROM attempt
WHERE delivery_id = $3 AND account_id = $1 AND environment = $2 AND outcome IS NOT NULL
  AND ($4::timestamptz IS NULL OR (started_at, delivery_id, attempt_no) < ($4, $5::bigint, $6::smallint))
ORDER BY started_at DESC, delivery_id DESC, attempt_no DESC LIMIT $7

-- name: events_ascending
-- Scan a stretch of the feed, oldest first, and give the bodies of the first $7 events of the wanted types.
-- Only what no open transaction can still write before: nothing ever appears behind a reader's cursor.
-- Index: event_feed; types are filtered within the $6 rows scanned. $3 and $4 only after this place, $5 types or NULL.
WITH stretch AS (
  SELECT e.xid, e.seq, e.body, $5::text[] IS NULL OR e.event_type = ANY($5) AS is_wanted FROM (
    SELECT xid, seq, body, event_type FROM event
    WHERE account_id = $1 AND environment = $2 AND xid < (SELECT feed_floor())
      AND (xid, seq) > ((SELECT $3::bigint::text::xid8), $4::bigint)
    ORDER BY xid, seq LIMIT $6) e)
SELECT xid::text::bigint AS xid, seq, is_wanted,
       CASE WHEN is_wanted AND count(*) FILTER (WHERE is_wanted) OVER (ORDER BY xid, seq) <= $7 THEN body END AS body
FROM stretch ORDER BY xid, seq

-- name: events_descending
-- Scan a stretch of the feed, newest first; else as `events_ascending`. $3 and $4 only before this place.
WITH stretch AS (
  SELECT e.xid, e.seq, e.body, $5::text[] IS NULL OR e.event_type = ANY($5) AS is_wanted FROM (
    SELECT xid, seq, body, event_type FROM event
    WHERE account_id = $1 AND environment = $2 AND xid < (SELECT feed_floor())
      AND (xid, seq) < ((SELECT $3::bigint::text::xid8), $4::bigint)
    ORDER BY xid DESC, seq DESC LIMIT $6) e)
SELECT xid::text::bigint AS xid, seq, is_wanted,
       CASE WHEN is_wanted AND count(*) FILTER (WHERE is_wanted) OVER (ORDER BY xid DESC, seq DESC) <= $7 THEN body END
         AS body
FROM stretch ORDER BY xid DESC, seq DESC

-- name: find_event
-- Read one event's body, of one account. Index: primary key.
SELECT body FROM event WHERE event_id = $3 AND account_id + 0 = $1 AND environment = $2 LIMIT 1

-- name: endpoint_stats
-- Sum up what an endpoint ($1) met within 24 hours, by its newest $2 requests at most, and what waits for it, counted up
-- to $3 in each state; and what it met in the week before the first hour that is not counted yet: the hours with requests
-- by how many of them ago they began, the oldest first, NULL without any.
-- Indexes: attempt_endpoint, delivery_endpoint, delivery_due, primary keys.
WITH recent AS (
  SELECT started_at, duration_ms, CASE WHEN verdict = 'delivered' THEN started_at END AS delivered_at FROM attempt
  WHERE endpoint_id = $1 AND outcome IS NOT NULL AND verdict <> 'interrupted' AND started_at > now() - interval '24 hours'
    AND started_at <= now() + interval '1 day'
  ORDER BY started_at DESC LIMIT $2),
summed AS (
  SELECT count(*) AS n_attempts, count(delivered_at) AS n_delivered,
         percentile_disc(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50_ms,
         percentile_disc(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms,
         min(started_at) AS since, max(started_at) AS last_attempt_at, max(delivered_at) AS last_delivered_at
  FROM recent),
waiting AS (
  SELECT w.state, n.n, n.oldest FROM (VALUES ('pending', false, false), ('retrying', false, true),
                                             ('held', true, false), ('held', true, true)) AS w(state, held, tried)
  CROSS JOIN LATERAL (
    SELECT count(*) AS n, min(created_at) AS oldest FROM (
      SELECT created_at FROM delivery d
      WHERE d.endpoint_id = $1 AND d.held = w.held AND (d.attempts > 0) = w.tried
      ORDER BY d.created_at LIMIT $3) found) n),
counted AS MATERIALIZED (SELECT max(hour) + interval '1 hour' AS counted_to FROM counted_hour),
week AS (
  SELECT array_agg((extract(epoch FROM c.counted_to - h.hour) / 3600)::int ORDER BY h.hour) AS hours_ago,
         array_agg(h.n_attempts ORDER BY h.hour) AS n_attempts, array_agg(h.n_delivered ORDER BY h.hour) AS n_delivered
  FROM counted c JOIN endpoint_hour h ON h.endpoint_id = $1 AND h.hour < c.counted_to
                                     AND h.hour >= c.counted_to - interval '7 days')
SELECT summed.*,
       LEAST($3::bigint, (SELECT sum(n) FROM waiting WHERE state = 'pending'))::bigint AS n_pending,
       LEAST($3::bigint, (SELECT sum(n) FROM waiting WHERE state = 'retrying'))::bigint AS n_retrying,
       LEAST($3::bigint, (SELECT sum(n) FROM waiting WHERE state = 'held'))::bigint AS n_held,
       (SELECT min(oldest) FROM waiting WHERE state <> 'held') AS oldest_waiting_at,
       (SELECT min(d.due_at) FROM endpoint e JOIN delivery d ON d.host_id = e.host_id AND d.endpoint_id = e.endpoint_id
         WHERE e.endpoint_id = $1 AND d.owner IS NULL AND NOT d.held) AS next_attempt_at,
       (SELECT counted_to FROM counted) AS counted_to, week.hours_ago, week.n_attempts AS n_attempts_by_hour,
       week.n_delivered AS n_delivered_by_hour
FROM summed, week
