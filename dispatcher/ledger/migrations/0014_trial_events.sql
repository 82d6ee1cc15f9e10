-- bears: 0013
-- The events of tests, so that a test's request can be shown whole and be found by what its body names. They are no rows of
-- `event`: no feed has them, no replay sends them, and no endpoint gets them but the one that was tested. Kept as long as
-- events are. Of the tests of older programs there is none.

CREATE TABLE trial_event (
  event_id    bytea PRIMARY KEY CHECK (octet_length(event_id) = 16),
  account_id  int NOT NULL,
  environment text NOT NULL,
  subject     text,
  client_reference text COLLATE "C",
  body        bytea NOT NULL,              -- as sent
  created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX trial_event_subject ON trial_event (account_id, environment, subject, created_at);
CREATE INDEX trial_event_reference ON trial_event (client_reference, account_id, environment, created_at);
CREATE INDEX trial_event_created ON trial_event (created_at);

-- The newest tests with a subject, or without one asked for with one of the customer's references; with both, where both are.
CREATE FUNCTION trials_of(account int, env text, about text, reference text, n_rows bigint)
RETURNS TABLE (event_id bytea, created_at timestamptz) LANGUAGE sql STABLE AS $$
(SELECT t.event_id, t.created_at FROM trial_event t
 WHERE t.account_id = account AND t.environment = env AND t.subject = about
   AND (reference IS NULL OR t.client_reference = reference)
 ORDER BY t.created_at DESC LIMIT n_rows)
UNION ALL
(SELECT t.event_id, t.created_at FROM trial_event t
 WHERE about IS NULL AND t.account_id = account AND t.environment = env AND t.client_reference = reference
 ORDER BY t.created_at DESC LIMIT n_rows)
$$;
