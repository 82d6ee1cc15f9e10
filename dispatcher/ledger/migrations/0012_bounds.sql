-- What keeps a duty's cost from growing with what others put into the tables.

CREATE INDEX idempotency_key_created ON idempotency_key (created_at);
