-- name: lock_endpoint
-- Lock one endpoint of one account for this transaction: whoever changes its status, makes deliveries from stored events
-- or sends one again does so one after the other. A statement of its own, so that what follows sees what came before.
SELECT endpoint_id, status, host_id, settings_at FROM endpoint
WHERE public_id = $3 AND account_id = $1 AND environment = $2 AND status <> 'deleted' FOR NO KEY UPDATE

-- name: hold_endpoint
-- Take an endpoint out of service: events accepted from now on get no row for it. It remembers from where on it owes
-- them: the oldest transaction under way, since an accept that does not see this change gets its number later.
-- One that is held already goes on owing from where it did. $2 status, $3 reason or null.
UPDATE endpoint SET status = $2, disabled_reason = $3, held_since = COALESCE(held_since, now()),
  held_xid = COALESCE(held_xid, feed_floor()),
  changed_at = GREATEST(now(), changed_at + interval '1 microsecond'),
  settings_at = GREATEST(now(), settings_at + interval '1 microsecond')
WHERE endpoint_id = $1

-- name: give_back_drain
-- End the drain of an endpoint that is held again; the endpoint owes from where the drain stood. Index: replay_running.
WITH ended AS (UPDATE replay SET state = 'canceled', ended_at = now()
               WHERE endpoint_id = $1 AND kind = 'drain' AND state = 'running' RETURNING at_xid)
UPDATE endpoint e SET held_xid = LEAST(e.held_xid, ended.at_xid) FROM ended WHERE e.endpoint_id = $1

-- name: hold_some
-- Take up to $2 waiting deliveries of an endpoint out of the due index, unless it was enabled again meanwhile. Rows
-- owned by a process are parked by it; rows that a claim holds just now become so, hence SKIP LOCKED.
-- Index: delivery_endpoint, in its order.
WITH picked AS MATERIALIZED (
  SELECT ctid AS place FROM delivery WHERE endpoint_id = $1 AND NOT held AND owner IS NULL
    AND EXISTS (SELECT FROM endpoint WHERE endpoint_id = $1 AND status IN ('paused', 'disabled'))
  ORDER BY (attempts > 0), created_at LIMIT $2 FOR UPDATE SKIP LOCKED)
UPDATE delivery d SET held = true FROM picked WHERE d.ctid = picked.place

-- name: start_drain
-- Make the job that pays what an endpoint owes; a drain that was under way is continued by it. Called under the
-- endpoint's lock, before `enable_endpoint`. Its rate is half of what the endpoint takes, so that fresh events go first.
-- An endpoint that was held before this was remembered owes everything that is stored.
-- $2 public id, $3 and $4 what it will find, and whether that is only a minimum.
WITH old AS (UPDATE replay SET state = 'canceled', ended_at = now()
             WHERE endpoint_id = $1 AND kind = 'drain' AND state = 'running' RETURNING at_xid)
INSERT INTO replay (public_id, account_id, environment, endpoint_id, kind, what, rate, n_expected, is_minimum, at_xid,
                    created_at, ready_at)
SELECT $2, e.account_id, e.environment, e.endpoint_id, 'drain', 'missing', GREATEST(1, LEAST(e.rate_limit, h.rate) / 2),
       $3, $4, COALESCE(LEAST(e.held_xid, (SELECT at_xid FROM old)), '0'), clock_timestamp(), clock_timestamp()
FROM endpoint e JOIN host h USING (host_id) WHERE e.endpoint_id = $1

-- name: enable_endpoint
-- Put an endpoint into service: accepts that begin after the commit make deliveries for it. It owes nothing any more.
UPDATE endpoint SET status = 'enabled', disabled_reason = NULL, held_since = NULL, held_xid = NULL,
  changed_at = GREATEST(now(), changed_at + interval '1 microsecond'),
  settings_at = GREATEST(now(), settings_at + interval '1 microsecond')
WHERE endpoint_id = $1

-- name: release_held
-- Let up to $2 held deliveries of an endpoint fall due now. Index: delivery_endpoint.
WITH picked AS MATERIALIZED (
  SELECT ctid AS place FROM delivery WHERE endpoint_id = $1 AND held AND owner IS NULL
  ORDER BY (attempts > 0), created_at LIMIT $2 FOR UPDATE SKIP LOCKED)
UPDATE delivery d SET held = false, due_at = now() FROM picked WHERE d.ctid = picked.place

-- name: release_strays
-- The net under every drain: let held deliveries of enabled endpoints without one fall due. A process that learned late
-- that an endpoint is enabled again may have put one back as held. Indexes: endpoint_account, delivery_endpoint.
-- $1 rows per endpoint.
WITH picked AS MATERIALIZED (
  SELECT x.place FROM endpoint e CROSS JOIN LATERAL (
    SELECT d.ctid AS place FROM delivery d WHERE d.endpoint_id = e.endpoint_id AND d.held AND d.owner IS NULL
    LIMIT $1 FOR UPDATE SKIP LOCKED) x
  WHERE e.status = 'enabled'
    AND NOT EXISTS (SELECT FROM replay r WHERE r.endpoint_id = e.endpoint_id AND r.kind = 'drain' AND r.state = 'running'))
UPDATE delivery d SET held = false, due_at = now() FROM picked WHERE d.ctid = picked.place RETURNING 1

-- name: count_held
-- Count what an endpoint holds, by its number: rows held, and events that it owes, of the next $2 of its feed; while a
-- drain pays them, what is left of both. `is_minimum`: there may be more. Indexes: delivery_endpoint, event_feed.
WITH e AS MATERIALIZED (
  SELECT COALESCE(e.held_xid, r.at_xid) AS xid, CASE WHEN e.held_xid IS NULL THEN r.at_seq ELSE 0 END AS seq,
         CASE WHEN e.held_xid IS NULL THEN r.end_xid END AS end_xid
  FROM endpoint e
  LEFT JOIN replay r ON r.endpoint_id = e.endpoint_id AND r.kind = 'drain' AND r.state = 'running'
  WHERE e.endpoint_id = $1),
rows AS MATERIALIZED (
  SELECT count(*) AS n FROM (SELECT FROM delivery WHERE endpoint_id = $1 AND held LIMIT $2::int) d),
owed AS MATERIALIZED (
  SELECT count(*) AS n_seen, count(*) FILTER (WHERE f.is_wanted) AS n
  FROM e CROSS JOIN LATERAL feed_for($1, 'missing', NULL, NULL, NULL, e.xid, e.seq, e.end_xid, $2::int) f
  WHERE e.xid IS NOT NULL)
SELECT rows.n + owed.n AS n, rows.n = $2::int OR owed.n_seen = $2::int AS is_minimum FROM rows, owed
