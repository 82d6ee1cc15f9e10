-- name: feed_stretch
-- Read a stretch of an account's feed, oldest first, with the place of each event; bodies of the wanted types only.
-- Only what no open transaction can still write before: nothing ever appears behind a reader's place.
-- Index: event_feed. $3 and $4 only after this place, $5 types or NULL for all, $6 rows.
SELECT xid::text::bigint AS xid, seq, event_id, event_type,
       CASE WHEN $5::text[] IS NULL OR event_type = ANY($5) THEN body END AS body
FROM event
WHERE account_id = $1 AND environment = $2 AND xid < feed_floor()
  AND (event.xid, seq) > ($3::bigint::text::xid8, $4::bigint)
ORDER BY event.xid, seq LIMIT $6

-- name: feed_tail
-- Find the oldest of the last $4 events of the wanted types ($3, NULL for all), looking at the last $5 rows of the feed;
-- no row when there is none. Index: event_feed.
WITH stretch AS (
  SELECT xid, seq, event_type FROM event
  WHERE account_id = $1 AND environment = $2 AND xid < feed_floor()
  ORDER BY xid DESC, seq DESC LIMIT $5),
wanted AS (
  SELECT xid, seq FROM stretch WHERE $3::text[] IS NULL OR event_type = ANY($3)
  ORDER BY xid DESC, seq DESC LIMIT $4)
SELECT xid::text::bigint AS xid, seq FROM wanted ORDER BY wanted.xid, seq LIMIT 1

-- name: feed_since
-- Find the first of the feed's events that came in from $3 on, looking at its last $4 rows; no row when there is none.
-- Index: event_feed.
WITH stretch AS (
  SELECT xid, seq, ingested_at FROM event
  WHERE account_id = $1 AND environment = $2 AND xid < feed_floor()
  ORDER BY xid DESC, seq DESC LIMIT $4)
SELECT xid::text::bigint AS xid, seq FROM stretch WHERE ingested_at >= $3 ORDER BY stretch.xid, seq LIMIT 1

-- name: attempts_live
-- Read attempts in the order of their commit, of one account's endpoints, begun after $3 and within the last hour.
-- A row's own transaction number is its place: rows are never updated. It is completed from how many transactions ago
-- it was, counted from the same next one for all. Only what no open transaction can still write before.
-- Each endpoint that has any gets its share of the rows to scan, the newest first, and no less than a page; whether one
-- is wanted shows only then. Of those that were deleted more than an hour before none has. Index: endpoint_list,
-- endpoint_history, attempt_endpoint, two looks per endpoint. $4 endpoint or NULL, $5 types or NULL,
-- $6..$8 only after this place, $9 rows, $10 rows to scan. Always one row: without an attempt it tells up to where
-- everything was looked at.
WITH seen AS MATERIALIZED (
  SELECT feed_floor()::text::bigint AS safe, feed_ceiling()::text::bigint + age((top & 4294967295)::text::xid) AS next
  FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS top) s),
asked AS MATERIALIZED (
  SELECT e.endpoint_id, e.public_id FROM (
    SELECT * FROM endpoint WHERE account_id = $1 AND environment = $2 AND status <> 'deleted'
    UNION ALL
    SELECT * FROM endpoint
    WHERE account_id = $1 AND environment = $2 AND status = 'deleted' AND last_delivery_at > '-infinity'
      AND changed_at > GREATEST($3::timestamptz, now() - interval '1 hour') - interval '1 hour') e
  WHERE ($4::text IS NULL OR e.public_id = $4)
    AND EXISTS (SELECT FROM attempt a WHERE a.endpoint_id = e.endpoint_id
                  AND a.started_at > GREATEST($3::timestamptz, now() - interval '1 hour')
                  AND a.started_at <= now() + interval '1 day' OFFSET 0)),
share AS MATERIALIZED (SELECT GREATEST($9::bigint, $10::bigint / GREATEST(count(*), 1)) AS n FROM asked),
page AS (
  SELECT seen.next - a.ago AS xid, e.public_id AS endpoint, a.*
  FROM seen CROSS JOIN asked e CROSS JOIN LATERAL (
    SELECT age(a.xmin) AS ago, a.started_at, a.delivery_id, a.attempt_no, a.event_id, a.event_type, a.subject,
           a.client_reference, a.duration_ms, a.status, a.outcome, a.verdict, a.next_at, a.detail
    FROM attempt a
    WHERE a.endpoint_id = e.endpoint_id AND a.started_at > GREATEST($3::timestamptz, now() - interval '1 hour')
      AND a.started_at <= now() + interval '1 day'
    ORDER BY a.started_at DESC LIMIT (SELECT n FROM share)) a
  WHERE seen.next - a.ago < seen.safe AND (seen.next - a.ago, a.delivery_id, a.attempt_no) > ($6::bigint, $7::bigint, $8::smallint)
    AND a.outcome IS NOT NULL AND ($5::text[] IS NULL OR a.event_type = ANY($5))
  ORDER BY seen.next - a.ago, a.delivery_id, a.attempt_no LIMIT $9)
SELECT seen.safe, now() AS looked_at, page.*
FROM seen LEFT JOIN page ON true ORDER BY page.xid, page.delivery_id, page.attempt_no
