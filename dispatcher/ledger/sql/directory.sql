-- name: targets
-- Read what sending needs of the given endpoints, secrets sealed, newest first.
SELECT e.endpoint_id, e.public_id, a.public_id AS account, e.environment, e.status, e.host_id, h.authority, e.url,
       e.sealed_headers, e.schedule, e.verified_at IS NOT NULL AS is_verified,
       h.rate, h.burst, h.in_flight, e.rate_limit::float8 AS rate_limit,
       (SELECT array_agg(secret_id ORDER BY secret_id DESC) FROM endpoint_secret s
         WHERE s.endpoint_id = e.endpoint_id AND (s.expires_at IS NULL OR s.expires_at > now())) AS secret_ids,
       (SELECT array_agg(sealed_key ORDER BY secret_id DESC) FROM endpoint_secret s
         WHERE s.endpoint_id = e.endpoint_id AND (s.expires_at IS NULL OR s.expires_at > now())) AS sealed_keys,
       (SELECT array_agg(expires_at ORDER BY secret_id DESC) FROM endpoint_secret s
         WHERE s.endpoint_id = e.endpoint_id AND (s.expires_at IS NULL OR s.expires_at > now())) AS key_ends,
       now() AS read_at
FROM endpoint e JOIN host h USING (host_id) JOIN account a ON a.account_id = e.account_id
WHERE e.endpoint_id = ANY($1::int[])

-- name: changed_endpoints
-- List endpoints changed since a moment before the last look; the overlap covers late commits.
-- Index: endpoint_changed. $1 seconds to look back.
SELECT endpoint_id FROM endpoint WHERE changed_at > now() - make_interval(secs => $1)

-- name: set_default_limits
-- Bring the next $7 hosts above number $6 that have no limits of their own to the configured defaults; returns the last of
-- them, null when there is none. Locks the rows in order. Index: primary key.
WITH page AS MATERIALIZED (
  SELECT host_id FROM host
  WHERE host_id > $6 AND NOT has_own_limits AND (rate, burst, in_flight) IS DISTINCT FROM ($1::float8, $2::int, $3::int)
  ORDER BY host_id LIMIT $7 FOR NO KEY UPDATE),
done AS (
  UPDATE host h SET rate = $1, burst = $2, in_flight = $3, interval_us = $4, grant_burst = $5, changed_at = now()
  FROM page WHERE h.host_id = page.host_id RETURNING h.host_id)
SELECT max(host_id) AS last FROM done

-- name: installation
-- Read the key of public delivery ids.
SELECT id_key FROM installation

-- name: endpoints_by_status
-- Count endpoints by status, enabled ones that fail as failing. Reads a table that has as many rows as there are
-- endpoints.
SELECT CASE WHEN e.status = 'enabled' AND f.endpoint_id IS NOT NULL THEN 'failing' ELSE e.status END AS status,
       count(*) AS n
FROM endpoint e LEFT JOIN failing_endpoint f USING (endpoint_id)
GROUP BY 1
