-- name: count_wanted
-- Count what a replay would make, among the first $6 events of its range. Index: event_feed.
-- $1 endpoint, $2 what, $3 types, $4 since, $5 until.
SELECT count(*) FILTER (WHERE is_wanted) AS n, count(*) = $6::int AS is_minimum
FROM feed_for($1, $2, $3, $4, $5, '0', 0, NULL, $6::int)

-- name: create_replay
-- Make a replay, unless one of the endpoint is running; called under the endpoint's lock. It ends before what is being
-- accepted now, which goes its own way; where events are missing, the way may have been closed to them, so the end is
-- fixed later, as for a drain. Its rate is half of what the endpoint takes, or what was asked, up to the whole.
-- $2 public id, $3 what, $4 since, $5 until, $6 types, $7 rate or null, $8 and $9 as counted.
INSERT INTO replay (public_id, account_id, environment, endpoint_id, kind, what, since, until, types, rate, n_expected,
                    is_minimum, end_xid, created_at, ready_at)
SELECT $2, e.account_id, e.environment, e.endpoint_id, 'replay', $3, $4, $5, $6,
       CASE WHEN $7::float8 IS NULL THEN GREATEST(1, LEAST(e.rate_limit, h.rate) / 2)
            ELSE LEAST($7, e.rate_limit, h.rate) END, $8, $9,
       CASE WHEN $3 <> 'missing' THEN feed_ceiling() END, clock_timestamp(), clock_timestamp()
FROM endpoint e JOIN host h USING (host_id) WHERE e.endpoint_id = $1
ON CONFLICT DO NOTHING
RETURNING replay_id

-- name: running_replay
-- Read which replay of an endpoint is running. Index: replay_running.
SELECT public_id FROM replay WHERE endpoint_id = $1 AND kind = 'replay' AND state = 'running'

-- name: find_replay
-- Read one job of one account, of any for operators ($1 is 0). Index: the unique key.
SELECT r.replay_id, r.public_id, a.public_id AS account, e.public_id AS endpoint, r.endpoint_id, r.environment, r.kind, r.what, r.since,
       r.until, r.types, r.rate::float8 AS rate, r.state, r.n_expected, r.is_minimum, r.n_scanned, r.n_made, r.n_skipped, r.created_at, r.ended_at
FROM replay r JOIN endpoint e USING (endpoint_id) JOIN account a ON a.account_id = r.account_id
WHERE r.public_id = $3 AND ($1 = 0 OR (r.account_id = $1 AND r.environment = $2::text))

-- name: list_replays
-- Read a page of jobs of one account, newest first. Index: replay_account. $3 only of this endpoint, $4 only below this
-- number, $5 rows.
SELECT r.replay_id, r.public_id, a.public_id AS account, e.public_id AS endpoint, r.endpoint_id, r.environment, r.kind, r.what, r.since,
       r.until, r.types, r.rate::float8 AS rate, r.state, r.n_expected, r.is_minimum, r.n_scanned, r.n_made, r.n_skipped, r.created_at, r.ended_at
FROM replay r JOIN endpoint e USING (endpoint_id) JOIN account a ON a.account_id = r.account_id
WHERE r.account_id = $1 AND r.environment = $2
  AND ($3::text IS NULL OR e.public_id = $3) AND ($4::bigint IS NULL OR r.replay_id < $4)
ORDER BY r.replay_id DESC LIMIT $5

-- name: list_all_replays
-- Read a page of all accounts' jobs, newest first. Index: primary key. $1 only of this endpoint, $2 only below this number,
-- $3 rows.
SELECT r.replay_id, r.public_id, a.public_id AS account, e.public_id AS endpoint, r.endpoint_id, r.environment, r.kind, r.what, r.since,
       r.until, r.types, r.rate::float8 AS rate, r.state, r.n_expected, r.is_minimum, r.n_scanned, r.n_made, r.n_skipped, r.created_at, r.ended_at
FROM replay r JOIN endpoint e USING (endpoint_id) JOIN account a ON a.account_id = r.account_id
WHERE ($1::text IS NULL OR e.public_id = $1) AND ($2::bigint IS NULL OR r.replay_id < $2)
ORDER BY r.replay_id DESC LIMIT $3

-- name: end_replay
-- End a job that is running; what it made goes its way.
UPDATE replay SET state = 'canceled', ended_at = now() WHERE replay_id = $1 AND state = 'running'

-- name: end_drain
-- End an endpoint's drain, if it has one. Index: replay_running.
UPDATE replay SET state = 'canceled', ended_at = now() WHERE endpoint_id = $1 AND kind = 'drain' AND state = 'running'

-- name: work_waiting
-- Tell whether a job is ready or a wish to cancel is unfulfilled: all that an idle runner asks. Index: replay_running.
SELECT EXISTS (SELECT FROM replay WHERE state = 'running' AND ready_at <= now()) AS has_jobs,
       EXISTS (SELECT FROM cancellation) AS has_wishes

-- name: pick_replay
-- Take any job that has something to do, with its endpoint, for this transaction. Locks: both rows, SKIP LOCKED: nobody
-- waits, and a job whose endpoint is being changed is left for the next look. At random, so that none starves behind one
-- that fails again and again. Indexes: replay_running, the endpoint's key.
SELECT r.replay_id, r.public_id, r.kind, r.endpoint_id, r.rate::float8 AS rate, e.status, e.host_id
FROM replay r JOIN endpoint e USING (endpoint_id)
WHERE r.state = 'running' AND r.ready_at <= now()
ORDER BY random() LIMIT 1 FOR NO KEY UPDATE OF r, e SKIP LOCKED

-- name: put_off_replay
-- Leave a job alone for $2 seconds.
UPDATE replay SET ready_at = now() + make_interval(secs => $2) WHERE replay_id = $1

-- name: count_due
-- Count the deliveries of an endpoint that wait for a process, $3 at most. Index: delivery_due. $1 host, $2 endpoint.
SELECT count(*) AS n FROM (
  SELECT FROM delivery
  WHERE owner IS NULL AND NOT held AND host_id = $1 AND endpoint_id = $2 AND due_at <= now() LIMIT $3) d

-- name: replay_step
-- Look at the next stretch of the feed, make the deliveries that are wanted, and move the job behind it: all or nothing,
-- so that no event is passed without them and none gets two from one job. A delivery that ended goes on under its
-- number; for an event without one a new one is made, with the event's own time of creation, by which it is found again.
-- A wish to cancel one that goes on was for the time before.
-- Called under the locks of `pick_replay`, which came before it in statements of their own: the snapshot follows them.
-- The end may be fixed $4 seconds after the job was made: by then every accept that took no notice of the endpoint has
-- ended, and below the next transaction's number lies all that they wrote.
-- $1 job, $2 events to look at, $3 deliveries to make at most, $5 held deliveries that this step released before,
-- $6 seconds to wait where there is nothing to do.
WITH r AS MATERIALIZED (SELECT r.*, e.host_id FROM replay r JOIN endpoint e USING (endpoint_id) WHERE r.replay_id = $1),
seen AS MATERIALIZED (
  SELECT f.*, count(*) FILTER (WHERE f.is_wanted) OVER (ORDER BY f.xid, f.seq) AS nth
  FROM r CROSS JOIN LATERAL
       feed_for(r.endpoint_id, r.what, r.types, r.since, r.until, r.at_xid, r.at_seq, r.end_xid, $2) f),
passed AS MATERIALIZED (SELECT * FROM seen WHERE nth < $3 OR (nth = $3 AND is_wanted)),
made AS (
  INSERT INTO delivery (delivery_id, event_day, event_id, account_id, environment, endpoint_id, host_id, attempts,
                        attempts_before, due_at, created_at)
  SELECT COALESCE(p.delivery_id, nextval('delivery_seq')), p.event_day, p.event_id, r.account_id, r.environment,
         r.endpoint_id, r.host_id, p.attempts, p.attempts, now(), COALESCE(p.born_at, p.ingested_at)
  FROM passed p, r WHERE p.is_wanted
  ON CONFLICT (delivery_id) DO NOTHING
  RETURNING delivery_id),
wish AS (DELETE FROM cancellation WHERE delivery_id IN (SELECT delivery_id FROM made)),
told AS MATERIALIZED (
  SELECT (SELECT count(*) FROM passed) AS n_passed, (SELECT count(*) FROM passed WHERE is_match) AS n_match,
         (SELECT count(*) FROM made) AS n_made,
         (SELECT count(*) FROM seen) < $2 AND (SELECT count(*) FROM seen) = (SELECT count(*) FROM passed) AS is_at_end,
         (SELECT xid FROM passed ORDER BY xid DESC LIMIT 1) AS xid,
         (SELECT seq FROM passed ORDER BY xid DESC, seq DESC LIMIT 1) AS seq),
ended AS MATERIALIZED (
  SELECT told.is_at_end AND COALESCE(feed_floor() >= r.end_xid, false)
         AND (r.kind = 'replay' OR NOT EXISTS (
               SELECT FROM delivery d WHERE d.endpoint_id = r.endpoint_id AND d.held AND d.owner IS NULL)) AS is_done
  FROM told, r)
UPDATE replay u SET
  at_xid = COALESCE(told.xid, u.at_xid), at_seq = COALESCE(told.seq, u.at_seq),
  n_scanned = u.n_scanned + told.n_passed, n_made = u.n_made + told.n_made + $5,
  n_skipped = u.n_skipped + told.n_match - told.n_made,
  end_xid = COALESCE(u.end_xid, CASE WHEN now() >= u.created_at + make_interval(secs => $4)
                                     THEN feed_ceiling() END),
  ready_at = GREATEST(
    GREATEST(u.ready_at, now() - interval '1 second') + (told.n_made + $5) / u.rate * interval '1 second',
    CASE WHEN told.is_at_end OR $3 + $5 = 0 THEN now() + make_interval(secs => $6) END),
  state = CASE WHEN ended.is_done THEN 'done' ELSE u.state END,
  ended_at = CASE WHEN ended.is_done THEN now() END
FROM told, ended WHERE u.replay_id = $1
RETURNING u.state, u.n_scanned, u.n_made, u.n_skipped, told.n_passed
