-- bears: 0013
-- The settings of an endpoint have a version of their own, which entity tags are made of: what its owner set, whereas
-- `changed_at` tells processes to read it again, after its first success, a new secret or a 410 as well. What a program
-- from before changes meanwhile leaves the tag as it is.
-- Answers that are kept for a repeated request keep their own headers, too.

ALTER TABLE endpoint ADD COLUMN settings_at timestamptz NOT NULL DEFAULT now();
UPDATE endpoint SET settings_at = changed_at;

ALTER TABLE idempotency_key ADD COLUMN headers jsonb NOT NULL DEFAULT '{}';
