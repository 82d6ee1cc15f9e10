-- name: create_key
-- Store a key's digest; the clear text is never here.
INSERT INTO api_key (key_id, secret_sha256, account_id, environment, scopes, name, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))
RETURNING created_at, expires_at

-- name: count_live_keys
-- Count the keys of one account and environment that open something, and those of them of one name. $3 name or null.
-- Index: api_key_account.
SELECT count(*) AS n, count(*) FILTER (WHERE name IS NOT DISTINCT FROM $3::text) AS n_named FROM api_key
WHERE account_id = $1 AND environment = $2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())

-- name: keys_of_tenant
-- Read the keys of one account and environment, newest first, the live ones before the ended. Index: api_key_account.
SELECT key_id, environment, scopes, name, created_at, last_used_at, revoked_at, expires_at FROM api_key
WHERE account_id = $1 AND environment = $2
ORDER BY (revoked_at IS NOT NULL OR COALESCE(expires_at <= now(), false)), created_at DESC, key_id LIMIT $3

-- name: withdraw_key
-- End a key of one account and environment; no row when it is not theirs, does not exist or was revoked before.
UPDATE api_key SET revoked_at = now()
WHERE key_id = $3 AND account_id = $1 AND environment = $2 AND revoked_at IS NULL RETURNING name, scopes

-- name: list_keys
-- Read every key of one account, or of the operators when $1 is NULL, newest first. Index: api_key_account.
SELECT key_id, environment, scopes, name, created_at, last_used_at, revoked_at, expires_at FROM api_key
WHERE account_id IS NOT DISTINCT FROM $1::int
ORDER BY created_at DESC, key_id

-- name: find_key
-- Read one key that is not revoked and not expired, with its account. Index: primary key. `is_fresh`: used within this hour.
SELECT k.secret_sha256, k.account_id, a.public_id AS account, k.environment, k.scopes,
       COALESCE(k.last_used_at >= date_trunc('hour', now()), false) AS is_fresh
FROM api_key k LEFT JOIN account a USING (account_id)
WHERE k.key_id = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())

-- name: touch_key
-- Note that a key is in use, to the hour; at most one write per key and hour.
UPDATE api_key SET last_used_at = date_trunc('hour', now())
WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < date_trunc('hour', now()))

-- name: revoke_key
-- End a key for good; no row when it does not exist or was revoked before.
UPDATE api_key SET revoked_at = now() WHERE key_id = $1 AND revoked_at IS NULL RETURNING key_id
