-- name: create_account
-- Make one account; the public id is unique.
INSERT INTO account (public_id, name) VALUES ($1, $2) RETURNING account_id, public_id, name, created_at

-- name: list_accounts
-- Read a page of accounts, newest first. Index: primary key. $1 only below this number, $2 rows.
SELECT account_id, public_id, name, created_at FROM account
WHERE $1::int IS NULL OR account_id < $1
ORDER BY account_id DESC LIMIT $2

-- name: find_account
-- Read one account by its public id. Index: the unique key.
SELECT account_id, public_id, name, created_at FROM account WHERE public_id = $1
