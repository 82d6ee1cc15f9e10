-- name: lock_account
-- Serialize the deeds of one account; nothing else waits for this lock. First in the transaction.
SELECT account_id FROM account WHERE account_id = $1 FOR NO KEY UPDATE

-- name: lock_operators
-- Serialize the deeds of operators, who have no account's row to lock.
SELECT pg_advisory_xact_lock(728113004)

-- name: note_deed
-- Append a line to the audit log. $1 account and $2 environment, NULL for an operator's deed.
INSERT INTO audit_log (account_id, environment, actor, address, request_id, action, thing, before_sha256, after_sha256,
                       facts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: find_answer
-- Read the kept answer to an idempotency key not older than a day. Index: primary key.
SELECT request_sha256, status, response, headers FROM idempotency_key
WHERE account_id = $1 AND environment = $2 AND idempotency_key = $3 AND created_at > now() - interval '24 hours'

-- name: keep_answer
-- Keep an answer under its idempotency key for a day; replaces one that is older.
INSERT INTO idempotency_key AS k (account_id, environment, idempotency_key, request_sha256, status, response, headers)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (account_id, environment, idempotency_key) DO UPDATE
SET request_sha256 = EXCLUDED.request_sha256, status = EXCLUDED.status, response = EXCLUDED.response, headers = EXCLUDED.headers,
    created_at = now()
WHERE k.created_at <= now() - interval '24 hours'

-- name: forget_answers
-- Drop the account's answers that are older than a day. Index: primary key, by its first two columns.
DELETE FROM idempotency_key
WHERE account_id = $1 AND environment = $2 AND created_at <= now() - interval '24 hours'

-- name: list_deeds
-- Read a page of one owner's audit log, latest first, with the people whose keys were used. Index: audit_log_tenant, and
-- the primary keys. $1 account and $2 environment, NULL for the operators', $3 only below this number, $4 rows.
SELECT l.audit_id, l.at, l.actor, u.public_id AS user_id, u.email, l.address, l.request_id, l.action, l.thing,
       l.before_sha256, l.after_sha256, l.facts
FROM audit_log l LEFT JOIN api_key k ON k.key_id = l.actor LEFT JOIN app_user u ON u.user_id = k.user_id
WHERE l.account_id IS NOT DISTINCT FROM $1::int AND l.environment IS NOT DISTINCT FROM $2::text
  AND ($3::bigint IS NULL OR l.audit_id < $3)
ORDER BY l.audit_id DESC LIMIT $4
