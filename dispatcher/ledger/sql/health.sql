-- name: begin_anew
-- Let an endpoint that was paused or disabled count its failures anew once it is enabled again: what it failed before
-- must not disable it on its first day back. Skips rows that a settlement holds: the next round takes them.
-- Index: endpoint_health_failing.
UPDATE endpoint_health h
SET is_past = NOT t.is_back,
    failures = CASE WHEN t.is_back THEN 0 ELSE h.failures END,
    failing_since = CASE WHEN NOT t.is_back THEN h.failing_since END,
    announced_at = CASE WHEN NOT t.is_back THEN h.announced_at END
FROM (SELECT k.endpoint_id, k.is_past AS is_back
      FROM endpoint_health k JOIN endpoint e USING (endpoint_id)
      WHERE k.failing_since IS NOT NULL AND k.is_past = (e.status = 'enabled')
      FOR UPDATE OF k SKIP LOCKED) t
WHERE h.endpoint_id = t.endpoint_id

-- name: judge
-- Lock the enabled endpoints whose failures have consequences now, and read what the latest of them was.
-- Locks: their health and endpoint rows, SKIP LOCKED: this never waits, so no settlement can deadlock with it, and of
-- two replicas that judge at once each endpoint goes to one. Indexes: endpoint_health_failing, attempt_endpoint.
-- $1 rows.
WITH f AS MATERIALIZED (
  SELECT f.endpoint_id, f.failures, f.failing_since, f.announced_at IS NULL AS is_news,
         e.environment = 'live' AND f.failing_since <= now() - interval '5 days' AS is_over
  FROM failing_endpoint f JOIN endpoint e USING (endpoint_id)
  WHERE e.status = 'enabled' AND NOT f.is_past
    AND (f.announced_at IS NULL OR (e.environment = 'live' AND f.failing_since <= now() - interval '5 days'))
  ORDER BY f.endpoint_id LIMIT $1
  FOR UPDATE OF f, e SKIP LOCKED)
SELECT f.*, l.status, l.outcome
FROM f LEFT JOIN LATERAL (SELECT a.status, a.outcome FROM attempt a
                          WHERE a.endpoint_id = f.endpoint_id AND a.started_at >= f.failing_since
                            AND a.outcome NOT IN ('interrupted', 'internal_error')
                          ORDER BY a.started_at DESC LIMIT 1) l ON true
ORDER BY f.endpoint_id

-- name: mark_judged
-- Note that these endpoints' failures were told, and which of them are disabled for it: should one be enabled again
-- within the next second, it counts anew. Rows locked by `judge`. $1 endpoints, $2 those disabled.
UPDATE endpoint_health SET announced_at = COALESCE(announced_at, now()), is_past = endpoint_id = ANY($2::int[])
WHERE endpoint_id = ANY($1::int[])

-- name: disable_failing
-- Disable endpoints that failed for five days; rows locked by `judge`. Every event they miss from now on has an xid that
-- is not below held_xid.
UPDATE endpoint
SET status = 'disabled', disabled_reason = 'failing_5_days', held_since = now(),
    changed_at = GREATEST(now(), changed_at + interval '1 microsecond'),
    held_xid = feed_floor()
WHERE endpoint_id = ANY($1::int[])
