-- name: live_secrets
-- Read the secrets of an endpoint that sign just now, newest first. Index: endpoint_secret_endpoint.
SELECT secret_id, last4, expires_at FROM endpoint_secret
WHERE endpoint_id = $1 AND (expires_at IS NULL OR expires_at > now()) ORDER BY secret_id DESC

-- name: drop_retired
-- Destroy the secrets of an endpoint that are on their way out, or out. Index: endpoint_secret_endpoint.
DELETE FROM endpoint_secret WHERE endpoint_id = $1 AND expires_at IS NOT NULL

-- name: retire_secret
-- Let the current secret of an endpoint sign for so many seconds more. Index: endpoint_secret_endpoint.
UPDATE endpoint_secret SET expires_at = now() + make_interval(secs => $2)
WHERE endpoint_id = $1 AND expires_at IS NULL RETURNING expires_at

-- name: touch_endpoint
-- Let processes read an endpoint again; its settings are the same. The row is locked by `lock_endpoint`.
UPDATE endpoint SET changed_at = GREATEST(now(), changed_at + interval '1 microsecond') WHERE endpoint_id = $1

-- name: seals_by_key
-- Count what is sealed of endpoints by the key that sealed it. Sequential scans of tables with a row per endpoint.
SELECT key_id, sum(n)::bigint AS n FROM (
  SELECT seal_key_id(sealed_key) AS key_id, count(*) AS n FROM endpoint_secret GROUP BY 1
  UNION ALL SELECT seal_key_id(sealed_headers), count(*) FROM endpoint WHERE sealed_headers IS NOT NULL GROUP BY 1) counted
GROUP BY key_id

-- name: dead_seals
-- Read which keys sealed the next $6 dead events, the oldest first: those that a former key sealed. Index:
-- dead_event_seen. $1..$5 only behind this place. Of each value only the bytes up to the longest id of a key are read,
-- and cut out here: a function is given its arguments whole.
SELECT log_id, topic, part, off, seen_at, seal_key_id(substr(sealed_value, 1, 66)) AS key_id FROM dead_event
WHERE seen_at >= COALESCE($1::timestamptz, '-infinity')
  AND (seen_at, log_id, topic, part, off)
      > (COALESCE($1, '-infinity'), COALESCE($2::text, ''), COALESCE($3::text, ''), COALESCE($4::int, 0), COALESCE($5::bigint, 0))
ORDER BY seen_at, log_id, topic, part, off LIMIT $6

-- name: lock_renewal
-- Let one replica renew seals at a time; the others find the lock taken. First in the transaction.
SELECT pg_try_advisory_xact_lock(728113003) AS is_ours

-- name: secrets_to_renew
-- Lock up to $3 signing secrets above number $2 that one of the keys $1 sealed. SKIP LOCKED: a rotation has the rest.
SELECT s.secret_id AS number, e.public_id, s.sealed_key AS sealed FROM endpoint_secret s JOIN endpoint e USING (endpoint_id)
WHERE s.secret_id > $2 AND seal_key_id(s.sealed_key) = ANY($1::text[])
ORDER BY s.secret_id LIMIT $3 FOR UPDATE OF s SKIP LOCKED

-- name: renew_secret
-- Put a secret's new seal in the place of the old one; the row is locked.
UPDATE endpoint_secret SET sealed_key = $2 WHERE secret_id = $1

-- name: headers_to_renew
-- Lock up to $3 endpoints above number $2 whose headers one of the keys $1 sealed. SKIP LOCKED: a change has the rest.
SELECT endpoint_id AS number, public_id, sealed_headers AS sealed FROM endpoint
WHERE endpoint_id > $2 AND sealed_headers IS NOT NULL AND seal_key_id(sealed_headers) = ANY($1::text[])
ORDER BY endpoint_id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED

-- name: renew_headers
-- Put the headers' new seal in the place of the old one; the row is locked. What is sealed is the same, so the
-- endpoint's version is.
UPDATE endpoint SET sealed_headers = $2 WHERE endpoint_id = $1
