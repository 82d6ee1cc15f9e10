"""Bring the schema forward: numbered SQL files, each once, in order, under one lock.

The lock is polled with `pg_try_advisory_lock`: a blocking one deadlocks with `CREATE INDEX CONCURRENTLY`, which
waits for the statements that wait for the lock. A file runs in a transaction of its own unless its first line
is `-- without transaction`. Files that ran are remembered with their digest; one that was edited afterwards is
refused.
"""

import asyncio
import hashlib
from importlib import resources
from typing import Final, NamedTuple

import asyncpg

from dispatcher.ledger.connections import connect
from dispatcher.model.errors import DispatcherError

_LOCK: Final = 728113000
_POLL_SECONDS: Final = 0.1
_WAIT_SECONDS: Final = 120.0
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migration (
  version int PRIMARY KEY, name text NOT NULL, sha256 bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())
"""


class SchemaMismatch(DispatcherError):
    """The database's schema is not one this program can work with or bring forward."""


class Migration(NamedTuple):
    """One file: its number, its name without the number, its text and the text's SHA-256."""

    version: int
    name: str
    text: str
    sha256: bytes


def migrations() -> list[Migration]:
    """Return the shipped migrations in order, numbered from 1 without gaps."""
    found = []
    for file in (resources.files("dispatcher.ledger") / "migrations").iterdir():
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            text = file.read_text(encoding="utf-8")
            found.append(Migration(int(number), name, text, hashlib.sha256(text.encode()).digest()))
    return sorted(found)


async def pending(url: str) -> list[Migration]:
    """Return the migrations that the database lacks, in order; changes nothing.

    Raises:
        SchemaMismatch: a file was edited after it ran, or the database is newer than this program.
        Unavailable: Postgres cannot be reached.
    """
    connection = await connect(url, "migrate")
    try:
        return await _missing(connection)
    finally:
        connection.terminate()


async def migrate(url: str) -> list[Migration]:
    """Apply what is missing and return it; several processes may call this at once, one applies.

    A death in mid-file leaves that file unapplied (it is one transaction) and the lock free.

    Raises:
        SchemaMismatch: as `pending`; also when the lock stays taken for two minutes.
        Unavailable: Postgres cannot be reached.
    """
    connection = await connect(url, "migrate")
    try:
        await connection.execute("SET statement_timeout = 0; SET lock_timeout = '5s'")
        await _lock(connection)
        await connection.execute(_TABLE)
        missing = await _missing(connection)
        for migration in missing:
            await _apply(connection, migration)
        return missing
    finally:
        connection.terminate()


async def _lock(connection: asyncpg.Connection) -> None:
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            # A server has no event to wait for here; a blocking lock would outlive our timeout.
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):  # noqa: ASYNC110 - see above
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError as fault:
        message = "another process holds the migration lock for two minutes; look at pg_locks for it"
        raise SchemaMismatch(message) from fault


async def _missing(connection: asyncpg.Connection) -> list[Migration]:
    if await connection.fetchval("SELECT to_regclass('schema_migration')") is None:
        return migrations()
    rows = await connection.fetch("SELECT version, name, sha256 FROM schema_migration ORDER BY version")
    shipped = {migration.version: migration for migration in migrations()}
    for row in rows:
        known = shipped.pop(row["version"], None)
        if known is None:
            message = (
                f"the database has migration {row['version']} ({row['name']}), "
                "which this program does not know: it is older than the database"
            )
            raise SchemaMismatch(message)
        if known.sha256 != row["sha256"]:
            message = (
                f"migration {known.version} ({known.name}) was edited after it ran; restore the file and add a new one"
            )
            raise SchemaMismatch(message)
    return sorted(shipped.values())


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    remember = "INSERT INTO schema_migration (version, name, sha256) VALUES ($1, $2, $3)"
    values = (migration.version, migration.name, migration.sha256)
    if migration.text.startswith("-- without transaction"):
        await connection.execute(migration.text, timeout=None)
        await connection.execute(remember, *values)
        return
    async with connection.transaction():
        await connection.execute(migration.text, timeout=None)
        await connection.execute(remember, *values)
