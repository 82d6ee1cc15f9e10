-- name: register
-- Enter a new replica with a lease; its number is never used again.
INSERT INTO replica (pod, lease_until, delivers, session_tag)
VALUES ($1, now() + make_interval(secs => $2), $3, $4) RETURNING replica_id, now() AS now

-- name: heartbeat
-- Statement S5: renew the lease; no row means taken over. Returns the number of live
-- replicas, the own one included (the count does not see this statement's own renewal).
UPDATE replica SET lease_until = now() + make_interval(secs => $2) WHERE replica_id = $1
RETURNING (SELECT count(*) + 1 FROM replica WHERE lease_until > now() AND replica_id <> $1) AS live

-- name: look_at_leases
-- Read the time, and whether the lease of a replica other than $1 is over by it. Scans a table of a row per process.
SELECT now() AS now,
       EXISTS (SELECT FROM replica WHERE lease_until < now() - interval '2 seconds' AND replica_id <> $1) AS is_any_over

-- name: expired
-- Statement S6, first of three in one transaction: end the sessions of the replicas whose lease ended by the time
-- $2, and lock those that no session holds. A session that waits for a frozen or vanished client to read its answer, or to send the rest
-- of a message, keeps its locks for as long as TCP has patience: no limit of the server ends those waits.
WITH ended AS MATERIALIZED (
  SELECT count(pg_terminate_backend(a.pid)) AS n
  FROM replica r JOIN pg_stat_activity a ON right(a.application_name, length(r.session_tag)) = r.session_tag
  WHERE r.lease_until < $2::timestamptz - interval '2 seconds' AND r.replica_id <> $1
    AND a.datname = current_database() AND a.usename = current_user
)
SELECT replica_id FROM replica
WHERE lease_until < $2::timestamptz - interval '2 seconds' AND replica_id <> $1 AND (SELECT n FROM ended) >= 0
FOR UPDATE SKIP LOCKED

-- name: release_rows
-- S6, second: free their deliveries. A statement of its own, so that its snapshot follows the lock.
UPDATE delivery SET owner = NULL, due_at = now() WHERE owner = ANY($1::bigint[])

-- name: remove_replicas
-- S6, third: the fence falls; nothing by these ids applies after the commit. Also the own exit.
DELETE FROM replica WHERE replica_id = ANY($1::bigint[])

-- name: orphans
-- S6b, the safety net: free rows whose owner no longer exists.
UPDATE delivery d SET owner = NULL, due_at = now()
WHERE owner IS NOT NULL AND NOT EXISTS (SELECT FROM replica r WHERE r.replica_id = d.owner)

-- name: make_days
-- S7: make the partitions of the next seven days, and of events up to $2 of the last $1 days; one replica at a time, the
-- others find the lock taken (null).
SELECT CASE WHEN pg_try_advisory_xact_lock(728113001) THEN make_days($1, $2) END AS n_made
