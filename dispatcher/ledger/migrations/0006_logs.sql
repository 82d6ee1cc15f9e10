-- What the logs are looked through by: an account's ended deliveries, and the events of one subject.

CREATE INDEX attempt_account ON attempt (account_id, environment, verdict, delivery_created_at, delivery_id)
  WHERE verdict IN ('delivered', 'exhausted', 'canceled');
CREATE INDEX event_subject ON event (account_id, environment, subject, ingested_at) WHERE subject IS NOT NULL;
