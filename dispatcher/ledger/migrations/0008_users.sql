-- bears: 0007
-- People of an account, each with a key of their own that an invitation becomes, once.

CREATE TABLE app_user (
  user_id       int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  public_id     text NOT NULL UNIQUE,
  account_id    int NOT NULL REFERENCES account,
  environment   text NOT NULL CHECK (environment IN ('live', 'test')),
  email         text NOT NULL CHECK (octet_length(email) BETWEEN 3 AND 254),   -- in its one spelling, lower case
  role          text NOT NULL CHECK (role IN ('owner', 'developer', 'viewer')),
  invited_at    timestamptz NOT NULL DEFAULT now(),
  invited_by    text NOT NULL,             -- the API key's id
  invitation_sha256 bytea UNIQUE CHECK (octet_length(invitation_sha256) = 32), -- NULL: it was used
  invitation_expires_at timestamptz,
  accepted_at   timestamptz,               -- NULL: not yet
  removed_at    timestamptz,               -- NULL: not removed; rows stay, the audit log names people by them
  CHECK ((invitation_sha256 IS NULL) = (invitation_expires_at IS NULL)),
  CHECK (removed_at IS NULL OR invitation_sha256 IS NULL)
);
CREATE UNIQUE INDEX app_user_email ON app_user (account_id, environment, email) WHERE removed_at IS NULL;

ALTER TABLE api_key ADD COLUMN user_id int REFERENCES app_user;                -- NULL: a program's
CREATE INDEX api_key_user ON api_key (user_id) WHERE user_id IS NOT NULL;
