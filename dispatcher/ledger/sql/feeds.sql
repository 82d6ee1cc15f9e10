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
