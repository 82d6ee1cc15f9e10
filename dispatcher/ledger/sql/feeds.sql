-- name: feed_stretch
-- Read a stretch of an account's feed, oldest first, with the place of each event; bodies of the wanted types only.
-- Only what no open transaction can still write before: nothing ever appears behind a reader's place.
-- Index: event_feed. $3 and $4 only after this place, $5 types or NULL for all, $6 rows.
SELECT xid::text::bigint AS xid, seq, event_id, event_type,
       CASE WHEN $5::text[] IS NULL OR event_type = ANY($5) THEN body END AS body
FROM event
WHERE account_id = $1 AND environment = $2 AND xid < pg_snapshot_xmin(pg_current_snapshot())
  AND (event.xid, seq) > ($3::bigint::text::xid8, $4::bigint)
ORDER BY event.xid, seq LIMIT $6

-- name: feed_tail
-- Find the oldest of the last $4 events of the wanted types ($3, NULL for all), looking at the last $5 rows of the feed;
-- no row when there is none. Index: event_feed.
WITH stretch AS (
  SELECT xid, seq, event_type FROM event
  WHERE account_id = $1 AND environment = $2 AND xid < pg_snapshot_xmin(pg_current_snapshot())
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
  WHERE account_id = $1 AND environment = $2 AND xid < pg_snapshot_xmin(pg_current_snapshot())
  ORDER BY xid DESC, seq DESC LIMIT $4)
SELECT xid::text::bigint AS xid, seq FROM stretch WHERE ingested_at >= $3 ORDER BY stretch.xid, seq LIMIT 1

-- name: attempts_live
-- Read attempts in the order of their commit, of one account's endpoints, begun after $3 and within the last hour.
-- A row's own transaction number is its place: rows are never updated. The 32 bits of xmin are completed from the
-- snapshot, whose next number is less than 2^31 ahead. Only what no open transaction can still write before.
-- Index: attempt_endpoint, one look per endpoint. $4 endpoint or NULL, $5 types or NULL, $6..$8 only after this place,
-- $9 rows. Always one row: without an attempt it tells up to where everything was looked at.
WITH seen AS (
  SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS safe,
         pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS top),
found AS (
  SELECT a.*, seen.top - ((seen.top - a.own::text::bigint) & 4294967295) AS xid, e.public_id AS endpoint
  FROM seen CROSS JOIN endpoint e CROSS JOIN LATERAL (
    SELECT a.xmin AS own, a.started_at, a.delivery_id, a.attempt_no, a.event_id, a.event_type, a.subject, a.duration_ms,
           a.status, a.outcome, a.verdict, a.next_at, a.detail
    FROM attempt a
    WHERE a.endpoint_id = e.endpoint_id AND a.started_at > GREATEST($3::timestamptz, now() - interval '1 hour') AND a.outcome IS NOT NULL
      AND ($5::text[] IS NULL OR a.event_type = ANY($5))) a
  WHERE e.account_id = $1 AND e.environment = $2 AND ($4::text IS NULL OR e.public_id = $4)),
page AS (
  SELECT found.* FROM found, seen
  WHERE found.xid < seen.safe AND (found.xid, delivery_id, attempt_no) > ($6::bigint, $7::bigint, $8::smallint)
  ORDER BY found.xid, delivery_id, attempt_no LIMIT $9)
SELECT seen.safe, now() AS looked_at, page.xid, page.endpoint, page.started_at, page.delivery_id, page.attempt_no,
       page.event_id, page.event_type, page.subject, page.duration_ms, page.status, page.outcome, page.verdict,
       page.next_at, page.detail
FROM seen LEFT JOIN page ON true ORDER BY page.xid, page.delivery_id, page.attempt_no
