-- name: count_users
-- Count the people of one account and environment who are not removed. Index: app_user_email.
SELECT count(*) AS n FROM app_user WHERE account_id = $1 AND environment = $2 AND removed_at IS NULL

-- name: add_user
-- Invite a person; no row when the address is taken. $7 digest of the invitation's token, $8 its seconds.
INSERT INTO app_user (public_id, account_id, environment, email, role, invited_by, invitation_sha256,
                      invitation_expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8))
ON CONFLICT (account_id, environment, email) WHERE removed_at IS NULL DO NOTHING
RETURNING user_id, public_id, environment, email, role, 'pending' AS state, invited_at, invited_by, accepted_at,
          invitation_expires_at AS expires_at

-- name: renew_invitation
-- Put a new invitation in the place of the one before it; no row when the person is not theirs or was removed.
-- $4 digest of its token, $5 its seconds.
UPDATE app_user SET invitation_sha256 = $4, invitation_expires_at = now() + make_interval(secs => $5)
WHERE account_id = $1 AND environment = $2 AND public_id = $3 AND removed_at IS NULL
RETURNING user_id, public_id, environment, email, role,
          CASE WHEN accepted_at IS NULL THEN 'pending' ELSE 'accepted' END AS state, invited_at, invited_by, accepted_at,
          invitation_expires_at AS expires_at

-- name: burn_invitation
-- Use an invitation, once: of two who race the second waits for the row, and then finds it used. Index: the unique key.
UPDATE app_user SET accepted_at = COALESCE(accepted_at, now()), invitation_sha256 = NULL, invitation_expires_at = NULL
WHERE invitation_sha256 = $1 AND invitation_expires_at > now() AND removed_at IS NULL
RETURNING account_id, user_id, public_id, environment, email, role, 'accepted' AS state, invited_at, invited_by,
          accepted_at, invitation_expires_at AS expires_at

-- name: remove_user
-- Remove a person and void the invitation; no row when the person is not theirs or was removed before.
UPDATE app_user SET removed_at = now(), invitation_sha256 = NULL, invitation_expires_at = NULL
WHERE account_id = $1 AND environment = $2 AND public_id = $3 AND removed_at IS NULL
RETURNING user_id, role

-- name: end_personal_keys
-- End every key of a person. Index: api_key_user. Run while the person's row is locked: no key is made meanwhile.
UPDATE api_key SET revoked_at = now() WHERE user_id = $1 AND revoked_at IS NULL RETURNING key_id

-- name: find_user
-- Read a person of one account and environment who is not removed. Index: the unique key.
SELECT user_id, public_id, environment, email, role,
       CASE WHEN accepted_at IS NOT NULL THEN 'accepted' WHEN invitation_expires_at > now() THEN 'pending'
            ELSE 'expired' END AS state,
       invited_at, invited_by, accepted_at, invitation_expires_at AS expires_at
FROM app_user
WHERE account_id = $1 AND environment = $2 AND public_id = $3 AND removed_at IS NULL

-- name: users_of_tenant
-- Read a page of the people of one account and environment who are not removed, the last invited first. $3 only below
-- this number, $4 rows. Index: app_user_email; they are a hundred at most.
SELECT user_id, public_id, environment, email, role,
       CASE WHEN accepted_at IS NOT NULL THEN 'accepted' WHEN invitation_expires_at > now() THEN 'pending'
            ELSE 'expired' END AS state,
       invited_at, invited_by, accepted_at, invitation_expires_at AS expires_at
FROM app_user
WHERE account_id = $1 AND environment = $2 AND removed_at IS NULL AND ($3::int IS NULL OR user_id < $3)
ORDER BY user_id DESC LIMIT $4
