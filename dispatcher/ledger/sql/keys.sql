-- name: create_key
-- Store a key's digest; the clear text is never here. $8 the person whose key it is, or null. It ends in $7 seconds, and at
-- $9 at the latest; with neither it never does.
INSERT INTO api_key (key_id, secret_sha256, account_id, environment, scopes, name, expires_at, user_id)
VALUES ($1, $2, $3, $4, $5, $6, LEAST(now() + make_interval(secs => $7), $9::timestamptz), $8)
RETURNING created_at, expires_at

-- name: count_live_keys
-- Count the keys of one account and environment that open something, and those of them of one name. $3 name or null.
-- Those of people are not among them: of these there is one for each. Index: api_key_tenant.
SELECT count(*) AS n, count(*) FILTER (WHERE name IS NOT DISTINCT FROM $3::text) AS n_named FROM api_key
WHERE account_id = $1 AND environment = $2 AND ends_at > now() AND user_id IS NULL

-- name: keys_of_tenant
-- Read a page of the keys of one account and environment: those that open something, newest first, of which there are few;
-- then those that ended, the last ones first. Index: api_key_tenant. $3 and $4 only before this place among the live ones
-- (creation, id), $5 and $6 only before this one among the others (end, id), $7 rows.
WITH page AS (
  (SELECT false AS is_ended, created_at AS at, * FROM api_key
   WHERE account_id = $1 AND environment = $2 AND ends_at > now() AND (created_at, key_id) < ($3::timestamptz, $4::text)
   ORDER BY created_at DESC, key_id DESC LIMIT $7)
  UNION ALL
  (SELECT true, ends_at, * FROM api_key
   WHERE account_id = $1 AND environment = $2 AND ends_at <= now() AND (ends_at, key_id) < ($5::timestamptz, $6::text)
   ORDER BY ends_at DESC, key_id DESC LIMIT $7))
SELECT k.key_id, u.public_id AS user_id, k.environment, k.scopes, k.name, k.created_at, k.last_used_at, k.revoked_at,
       k.expires_at, k.is_ended, k.at
FROM page k LEFT JOIN app_user u ON u.user_id = k.user_id
ORDER BY k.is_ended, k.at DESC, k.key_id DESC LIMIT $7

-- name: withdraw_key
-- End a key of one account and environment; no row when it is not theirs, does not exist or was revoked before.
UPDATE api_key SET revoked_at = now()
WHERE key_id = $3 AND account_id = $1 AND environment = $2 AND revoked_at IS NULL RETURNING name, scopes

-- name: list_keys
-- Read every key of one account, or of the operators when $1 is NULL, newest first. Index: api_key_tenant.
SELECT k.key_id, u.public_id AS user_id, k.environment, k.scopes, k.name, k.created_at, k.last_used_at, k.revoked_at,
       k.expires_at
FROM api_key k LEFT JOIN app_user u ON u.user_id = k.user_id
WHERE k.account_id IS NOT DISTINCT FROM $1::int
ORDER BY k.created_at DESC, k.key_id

-- name: find_key
-- Read one key that is not revoked and not expired, with its account. Index: primary key. `is_fresh`: used within this hour.
SELECT k.secret_sha256, k.account_id, a.public_id AS account, k.environment, k.scopes, k.expires_at,
       COALESCE(k.last_used_at >= date_trunc('hour', now()), false) AS is_fresh
FROM api_key k LEFT JOIN account a USING (account_id)
WHERE k.key_id = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())

-- name: touch_key
-- Note that a key is in use, to the hour; at most one write per key and hour.
UPDATE api_key SET last_used_at = GREATEST(created_at, date_trunc('hour', now()))
WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < date_trunc('hour', now()))

-- name: revoke_key
-- End a key for good; no row when it does not exist or was revoked before.
UPDATE api_key SET revoked_at = now() WHERE key_id = $1 AND revoked_at IS NULL RETURNING key_id
