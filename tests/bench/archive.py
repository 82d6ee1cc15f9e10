"""A month of one account's logs, made by SQL: events, deliveries of fifty endpoints, several attempts each."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from dispatcher.ledger.accounts import AccountLedger, Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.keys import KeyLedger
from dispatcher.ledger.migrate import migrate
from tests.bench.lab import Lab
from tests.support.servers import DatabaseServer, fresh_database

N_DAYS = 30
N_ENDPOINTS = 50
FAN_OUT = 5
N_KEYS = 40
"""One key may make 20 requests a second."""

_ENDPOINTS = """
WITH h AS (INSERT INTO host (authority, interval_us, grant_burst, in_flight) VALUES ('https://archive:443', 1, 1, 1)
           RETURNING host_id)
INSERT INTO endpoint (public_id, account_id, environment, host_id, url, events, api_version, created_at)
SELECT 'we_' || lpad(n::text, 16, '0'), $1, $2, host_id, 'https://archive/', '{*}', '2026-11-01',
       now() - interval '1 year'
FROM h, generate_series(1, $3::int) n
"""
# The n-th of all events happened at a time of its own; all of one verification follow each other.
_EVENTS = """
INSERT INTO event (event_day, event_id, account_id, environment, event_type, subject, client_reference, introduces,
                   occurred_at, ingested_at, body)
SELECT (at AT TIME ZONE 'UTC')::date, substring(sha256(n::text::bytea) FOR 20), $1, $2,
       (ARRAY['verification.created', 'verification.started', 'verification.completed'])[1 + n % 3],
       'ver_' || n / 4, 'user-' || n / 8, CASE WHEN n % 4 = 0 THEN true END, at, at,
       convert_to('{"n":' || n || ',"x":"' || repeat('x', 900) || '"}', 'UTF8')
FROM (SELECT n, $3::timestamptz + n * $4::interval AS at FROM generate_series($5::int, $6::int) n) made
"""
# What began within the last three hours is not finished; of the rest nine in ten are delivered with the last attempt.
_ATTEMPTS = """
INSERT INTO attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment, event_id,
                     event_type, subject, client_reference, attempt_no, duration_ms, status, outcome, verdict, detail,
                     replica_id)
SELECT started_at, i, at, 1 + i % $7::int, $1, $2, substring(sha256(n::text::bytea) FOR 20),
       (ARRAY['verification.created', 'verification.started', 'verification.completed'])[1 + n % 3],
       'ver_' || n / 4, 'user-' || n / 8, k, 20 + i % 100, CASE WHEN is_good THEN 200 ELSE 500 + i % 4 END,
       CASE WHEN is_good THEN 'delivered' WHEN i % 997 = 0 THEN 'tls_error' ELSE 'http_5xx' END,
       CASE WHEN k < $8 THEN 'retry' WHEN is_good THEN 'delivered' WHEN i % 3 = 0 THEN 'canceled' ELSE 'exhausted' END,
       '{"wait_ms":12.5,"keys":[1],"at":1793700000,"of":5}', 1
FROM (SELECT i, k, i / $9::int AS n, $3::timestamptz + i / $9::int * $4::interval AS at,
             $3::timestamptz + i / $9::int * $4::interval + 10800 / $8::int * k * interval '1 second' AS started_at,
             k = $8 AND i / $7::int % 10 <> 0 AS is_good
      FROM generate_series($5::int, $6::int) i, generate_series(1, $8::int) k) made
WHERE started_at < now()
"""
_OPEN = """
INSERT INTO delivery (delivery_id, event_day, event_id, account_id, environment, endpoint_id, host_id, attempts, held,
                      due_at, created_at)
SELECT i, (at AT TIME ZONE 'UTC')::date, substring(sha256(n::text::bytea) FOR 20), $1, $2, 1 + i % $7::int, 1,
       floor(extract(epoch FROM now() - at) / (10800 / $8::int))::int, i % 7 = 0, now() + interval '1 hour', at
FROM (SELECT i, i / $9::int AS n, $3::timestamptz + i / $9::int * $4::interval AS at
      FROM generate_series($5::int, $6::int) i) made
WHERE at + interval '3 hours' >= now()
"""
# Made again behind the rows: a tenth of the time that it takes to keep them in order meanwhile.
_INDEXES = """
SELECT indexrelid::regclass::text AS name, replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') AS definition
FROM pg_index WHERE indrelid IN ('event'::regclass, 'attempt'::regclass) AND NOT indisprimary
"""


# What a watcher meets at a thousand attempts a second.
_LAST_MINUTE = """
INSERT INTO attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment, event_id,
                     event_type, subject, attempt_no, duration_ms, status, outcome, verdict, detail, replica_id)
SELECT now() - i * interval '1 millisecond', $1 + i, now(), endpoint_id, account_id, environment,
       substring(sha256(i::text::bytea) FOR 20), 'verification.completed', 'ver_1', 1, 20, 200, 'delivered',
       'delivered', '{"wait_ms":12.5,"keys":[1],"at":1793700000,"of":5}', 1
FROM generate_series(1, 60000) i JOIN endpoint e ON e.endpoint_id = 1 + i % $2::int
"""


@dataclass
class Archive:
    """A filled ledger: where it is, keys of its account, what its middle event and subject are."""

    url: str
    keys: list[str]
    n_deliveries: int
    n_attempts: int
    event: int

    async def fill_last_minute(self) -> None:
        """Let all endpoints have been busy until now."""
        sql = await asyncpg.connect(self.url)
        await sql.execute(_LAST_MINUTE, self.n_deliveries + 1, N_ENDPOINTS)
        await sql.close()


@asynccontextmanager
async def open_archive(lab: Lab, *, n_deliveries: int, n_attempts: int) -> AsyncIterator[Archive]:
    """Give one in a database of its own; filling takes about a minute per million attempts."""
    async with fresh_database(DatabaseServer(lab.postgres.url)) as url:
        await migrate(url)
        pool = await Pool.open(url)
        account = await AccountLedger(pool).create(f"acct_{secrets.token_hex(8)}")
        tenant = Tenant(account.account_id, "live")
        keys = [(await KeyLedger(pool).create(tenant)).text for _ in range(N_KEYS)]
        await pool.aclose()
        sql = await asyncpg.connect(url, server_settings={"synchronous_commit": "off"})
        await _fill(sql, tenant, n_deliveries, n_attempts // n_deliveries)
        n_rows = await sql.fetchval("SELECT count(*) FROM attempt")
        await sql.close()
        yield Archive(url, keys, n_deliveries, n_rows, n_deliveries // FAN_OUT // 2)


async def _fill(sql: asyncpg.Connection, tenant: Tenant, n_deliveries: int, n_each: int) -> None:
    await sql.execute(
        "SELECT make_day((now() AT TIME ZONE 'UTC')::date - n) FROM generate_series(9, $1::int) n", N_DAYS + 1
    )
    await sql.execute(_ENDPOINTS, *tenant, N_ENDPOINTS)
    indexes = await sql.fetch(_INDEXES)
    for index in indexes:
        await sql.execute(f"DROP INDEX {index['name']}")
    n_events = n_deliveries // FAN_OUT
    began = await sql.fetchval("SELECT now() - $1 * interval '1 day'", N_DAYS)
    step = await sql.fetchval("SELECT $1 * interval '1 day' / $2::int", N_DAYS, n_events)
    spread = (*tenant, began, step)
    for first in range(0, n_events, 20_000):
        last = min(n_events, first + 20_000) - 1
        await sql.execute(_EVENTS, *spread, first, last)
        deliveries = (first * FAN_OUT, last * FAN_OUT + FAN_OUT - 1, N_ENDPOINTS, n_each, FAN_OUT)
        await sql.execute(_ATTEMPTS, *spread, *deliveries)
        await sql.execute(_OPEN, *spread, *deliveries)
    for index in indexes:
        await sql.execute(index["definition"])
    await sql.execute("SELECT setval('delivery_seq', $1::bigint)", n_deliveries + 1)
    await sql.execute("VACUUM ANALYZE")
