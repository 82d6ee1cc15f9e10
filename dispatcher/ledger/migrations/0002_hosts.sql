-- Limits that hold over all replicas, pauses that all replicas see, and fairness between the endpoints of one host.

-- What was promised (rate, burst) and how tokens are granted so that the promise holds (interval_us, grant_burst).
ALTER TABLE host RENAME COLUMN burst TO grant_burst;
ALTER TABLE host
  ADD COLUMN rate      double precision NOT NULL DEFAULT 100 CHECK (rate > 0),
  ADD COLUMN burst     int NOT NULL DEFAULT 100 CHECK (burst >= 1),
  ADD COLUMN opens     smallint NOT NULL DEFAULT 0,               -- breaker pauses in a row
  ADD COLUMN scaled_at timestamptz NOT NULL DEFAULT 'epoch',      -- last change of scale
  ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now();       -- last change of limits
UPDATE host SET rate = 1e6 / interval_us, burst = grant_burst;
CREATE INDEX host_paused ON host (paused_until);
CREATE INDEX host_changed ON host (changed_at);
CREATE INDEX endpoint_host ON endpoint (host_id) WHERE status = 'enabled';

ALTER TABLE endpoint ADD COLUMN rate_limit real CHECK (rate_limit > 0);   -- requests per second; NULL: the host's alone

CREATE TABLE endpoint_pace (               -- a row for an endpoint that has a pace of its own or was ever paused
  endpoint_id  int PRIMARY KEY,
  interval_us  bigint NOT NULL DEFAULT 1,
  grant_burst  int NOT NULL DEFAULT 1,
  tat          timestamptz NOT NULL DEFAULT 'epoch',
  granted      int NOT NULL DEFAULT 0,     -- by the latest lease of tokens; read back by that very statement
  paused_until timestamptz NOT NULL DEFAULT 'epoch',
  opens        smallint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE INDEX endpoint_pace_paused ON endpoint_pace (paused_until);

-- Claims divide a host's credit over its endpoints, so they look for (host, endpoint) pairs.
DROP INDEX delivery_due;
CREATE INDEX delivery_due ON delivery (host_id, endpoint_id, due_at) WHERE owner IS NULL AND NOT held;

ALTER TABLE replica ADD COLUMN delivers boolean NOT NULL DEFAULT true;   -- shares in hosts' caps on requests in flight
