-- bears: 0013
-- What deleted endpoints left behind: from when to when, so that lists look only where there is something, and what goes
-- once nothing is left of it. And keys by their end, for lists and for forgetting.

-- A deleted endpoint's history is closed once nothing of it is open: no delivery of it can come any more. Then these are
-- the creation of its first finished delivery and of its last, or -infinity where there is none. Of a history that is not
-- closed nothing is known: whatever is asked for may be in it.
ALTER TABLE endpoint
  ADD COLUMN first_delivery_at timestamptz NOT NULL DEFAULT '-infinity',
  ADD COLUMN last_delivery_at  timestamptz NOT NULL DEFAULT 'infinity';
CREATE INDEX endpoint_history ON endpoint (account_id, environment, last_delivery_at, first_delivery_at)
  WHERE status = 'deleted';
CREATE INDEX endpoint_unclosed ON endpoint (endpoint_id) WHERE status = 'deleted' AND last_delivery_at = 'infinity';
CREATE INDEX endpoint_deleted ON endpoint (changed_at, endpoint_id) WHERE status = 'deleted';

-- When a key ends: at its time, or when it was revoked before; infinity: never. By it the few live ones of an account are
-- found among all that it ever had.
ALTER TABLE api_key ADD COLUMN ends_at timestamptz NOT NULL
  GENERATED ALWAYS AS (COALESCE(LEAST(revoked_at, expires_at), 'infinity')) STORED;
CREATE INDEX api_key_tenant ON api_key (account_id, environment, ends_at, key_id);
DROP INDEX api_key_account;
CREATE INDEX api_key_ended ON api_key (ends_at) WHERE ends_at < 'infinity';
