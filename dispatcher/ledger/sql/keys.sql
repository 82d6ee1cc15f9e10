-- name: create_key
-- Store a key's digest; the clear text is never here.
INSERT INTO api_key (key_id, secret_sha256, account_id, environment, scopes, name)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING created_at

-- name: list_keys
-- Read every key of one account, or of the operators when $1 is NULL, newest first. Index: api_key_account.
SELECT key_id, environment, scopes, name, created_at, last_used_at, revoked_at FROM api_key
WHERE account_id IS NOT DISTINCT FROM $1::int
ORDER BY created_at DESC, key_id

-- name: find_key
-- Read one key that is not revoked, with its account. Index: primary key. `is_fresh`: used within this hour.
SELECT k.secret_sha256, k.account_id, a.public_id AS account, k.environment, k.scopes,
       COALESCE(k.last_used_at >= date_trunc('hour', now()), false) AS is_fresh
FROM api_key k LEFT JOIN account a USING (account_id)
WHERE k.key_id = $1 AND k.revoked_at IS NULL

-- name: touch_key
-- Note that a key is in use, to the hour; at most one write per key and hour.
UPDATE api_key SET last_used_at = date_trunc('hour', now())
WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < date_trunc('hour', now()))

-- name: revoke_key
-- End a key for good; no row when it does not exist or was revoked before.
UPDATE api_key SET revoked_at = now() WHERE key_id = $1 AND revoked_at IS NULL RETURNING key_id
