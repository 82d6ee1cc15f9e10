-- name: checkup
-- Read what tells whether this server can serve: its version, its clock, and who is alive.
SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS version_text,
       clock_timestamp() AS now,
       (SELECT count(*) FROM replica WHERE lease_until > now()) AS live,
       (SELECT count(*) FROM replica WHERE lease_until <= now() - interval '10 seconds') AS overdue

-- name: checkup_secret
-- Read one sealed signing key, the newest, to see whether a key ring opens it; no row when there is none.
SELECT e.public_id, s.secret_id, s.sealed_key FROM endpoint_secret s JOIN endpoint e USING (endpoint_id)
ORDER BY s.secret_id DESC LIMIT 1

-- name: checkup_positions
-- Read how far every partition of one log has been taken in.
SELECT topic, part, next_offset FROM ingest_progress WHERE log_id = $1
