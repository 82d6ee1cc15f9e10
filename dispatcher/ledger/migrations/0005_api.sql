-- What the API's callers did, when keys end, and which tests were sent.

CREATE TABLE audit_log (                   -- append only; kept for a year
  audit_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at          timestamptz NOT NULL DEFAULT clock_timestamp(),
  account_id  int,                         -- NULL: an operator's deed
  environment text,
  actor       text NOT NULL,               -- the API key's id
  address     text,                        -- where the request came from
  request_id  text NOT NULL,
  action      text NOT NULL,
  thing       text NOT NULL,               -- the public id of what it was done to
  before_sha256 bytea CHECK (octet_length(before_sha256) = 32),   -- of what is shown of it, never of a secret; NULL: it
  after_sha256  bytea CHECK (octet_length(after_sha256) = 32),    -- was not there before, or is not there any more
  facts       bytea NOT NULL,              -- JSON object: names of changed members, ends of secrets
  CHECK ((account_id IS NULL) = (environment IS NULL))
);
CREATE INDEX audit_log_tenant ON audit_log (account_id, environment, audit_id);
CREATE INDEX audit_log_at ON audit_log (at);

CREATE FUNCTION keep_audit_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' AND TG_LEVEL = 'ROW' THEN
    IF OLD.at < now() - interval '365 days' THEN
      RETURN OLD;
    END IF;
  END IF;
  RAISE EXCEPTION 'the audit log is append only' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER keep_rows BEFORE UPDATE OR DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION keep_audit_log();
CREATE TRIGGER keep_all BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION keep_audit_log();

ALTER TABLE api_key ADD COLUMN expires_at timestamptz;               -- NULL: never

ALTER TABLE endpoint ADD COLUMN moved_at timestamptz;                -- to another host; what waited moves after it
CREATE INDEX endpoint_moved ON endpoint (moved_at) WHERE moved_at IS NOT NULL;

-- The id of the key that sealed a value: 1 byte format, 1 byte length of the id, the id, the rest. Else the empty text.
CREATE FUNCTION seal_key_id(sealed bytea) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT CASE WHEN octet_length(sealed) > 14 AND get_byte(sealed, 0) = 1
              THEN encode(substr(sealed, 3, get_byte(sealed, 1)), 'escape') ELSE '' END
$$;
