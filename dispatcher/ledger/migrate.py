"""Bring the schema forward: numbered SQL files, each once, in order, under one lock.

The lock is polled with `pg_try_advisory_lock`: a blocking one deadlocks with `CREATE INDEX CONCURRENTLY`, which
waits for the statements that wait for the lock. A file runs in a transaction of its own unless its first line
is `-- without transaction`. Files that ran are remembered with their digest; one that was edited afterwards is
refused.

A program may run on a newer schema if every migration that it does not know bears it: the line `-- bears: 0009` in a
file says that programs whose own last migration is 0009 or a later one work unharmed once that file has run. A file
without the line bears none older. The line is no part of the digest, so that a judgement can be corrected: `migrate`
writes down what the newest files say.

    migrate to 0011, which bears 0010     programs of 0010 and 0011 start; 0009 does not
    0012 comes, and bears nobody          only programs of 0012 start: the others have to end before
"""

import asyncio
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import Final, NamedTuple, Self

import asyncpg

from dispatcher.ledger.connections import connect
from dispatcher.model.errors import DispatcherError

_LOCK: Final = 728113000
_POLL_SECONDS: Final = 0.1
_WAIT_SECONDS: Final = 120.0
# None would mean the connection's own limit, a few seconds: an index of a large table takes longer.
_LONGEST_SECONDS: Final = 86_400.0
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migration (
  version int PRIMARY KEY, name text NOT NULL, sha256 bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
ALTER TABLE schema_migration ADD COLUMN IF NOT EXISTS bears int
"""
# The column is not there yet where a program that did not know of it migrated.
_APPLIED: Final = """
SELECT version, name, sha256, (to_jsonb(m) ->> 'bears')::int AS bears FROM schema_migration m ORDER BY version
"""
# Not by a program that is older than the schema: what a newer one said stands.
_CORRECT: Final = """
UPDATE schema_migration m SET bears = k.bears FROM unnest($1::int[], $2::int[]) AS k(version, bears)
WHERE m.version = k.version AND m.bears IS DISTINCT FROM k.bears
  AND NOT EXISTS (SELECT FROM schema_migration n WHERE n.version <> ALL($1::int[]))
"""
_HAS_MOVED: Final = """
SELECT i.system_identifier <> c.system_identifier FROM installation i, pg_control_system() c
"""
_FOLLOW: Final = "SELECT follow_cluster()"
_BEARS: Final = re.compile(r"^-- bears: ([0-9]{4})\n", re.MULTILINE)


class SchemaMismatch(DispatcherError):
    """The database's schema is not one this program can work with or bring forward."""


class DatabaseMoved(SchemaMismatch):
    """The database was loaded into another cluster of PostgreSQL; `migrate` lets the order of its events go on."""

    def __init__(self) -> None:
        super().__init__(
            "this database came from another cluster of PostgreSQL (a dump was loaded?), and each counts the order of "
            "events from its own beginning: run `dispatcher migrate`, while no dispatcher runs, to let it go on"
        )


class Migration(NamedTuple):
    """One file: its number, its name without the number, its text, the digest of that, and whom it bears.

    `bears` is the last migration of the oldest program that may run beside it: its own number if none older may.
    """

    version: int
    name: str
    text: str
    sha256: bytes
    bears: int

    @classmethod
    def of_file(cls, file_name: str, text: str) -> Self:
        """Return what a file says."""
        number, _, name = file_name.removesuffix(".sql").partition("_")
        said = _BEARS.search(text)
        digest = hashlib.sha256(_BEARS.sub("", text).encode()).digest()
        return cls(int(number), name, text, digest, int(said[1]) if said else int(number))


def migrations() -> list[Migration]:
    """Return the shipped migrations in the order of their numbers.

    A number may be missing, as 4 is. None may come later below one that has run: it would run out of order.
    """
    folder = resources.files("dispatcher.ledger") / "migrations"
    files = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return sorted(Migration.of_file(file.name, file.read_text(encoding="utf-8")) for file in files)


async def pending(url: str) -> list[Migration]:
    """Return the migrations that the database lacks, in order; changes nothing.

    Raises:
        SchemaMismatch: a file was edited after it ran, or the database has a migration that does not bear this program.
        DatabaseMoved: nothing is missing, but the cluster is another one.
        Unavailable: Postgres cannot be reached.
    """
    connection = await connect(url, "migrate")
    try:
        missing = await _missing(connection)
        if not missing and await connection.fetchval(_HAS_MOVED):
            raise DatabaseMoved
        return missing
    finally:
        connection.terminate()


async def migrate(url: str) -> list[Migration]:
    """Apply what is missing and return it; several processes may call this at once, one applies.

    In another cluster than before, the order of events is made to go on; that reads every event's number.

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
        shipped = migrations()
        await connection.execute(_CORRECT, [one.version for one in shipped], [one.bears for one in shipped])
        await connection.fetchval(_FOLLOW, timeout=_LONGEST_SECONDS)
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
    rows = await connection.fetch(_APPLIED)
    shipped = migrations()
    known = {migration.version: migration for migration in shipped}
    for row in rows:
        migration = known.pop(row["version"], None)
        if migration is None:
            _demand_that_it_bears(row, shipped)
        elif migration.sha256 != row["sha256"]:
            message = (
                f"migration {migration.version} ({migration.name}) was edited after it ran; "
                "restore the file and add a new one"
            )
            raise SchemaMismatch(message)
    return sorted(known.values())


def _demand_that_it_bears(row: asyncpg.Record, shipped: Sequence[Migration]) -> None:
    own = shipped[-1].version
    if row["bears"] is None or row["bears"] > own:
        message = (
            f"the database has migration {row['version']} ({row['name']}), which bears no program as old as this one, "
            f"whose last is {own}: run the release that migrated the database, or a newer one"
        )
        raise SchemaMismatch(message)


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    remember = "INSERT INTO schema_migration (version, name, sha256, bears) VALUES ($1, $2, $3, $4)"
    values = (migration.version, migration.name, migration.sha256, migration.bears)
    if migration.text.startswith("-- without transaction"):
        await connection.execute(migration.text, timeout=_LONGEST_SECONDS)
        await connection.execute(remember, *values)
        return
    async with connection.transaction():
        await connection.execute(migration.text, timeout=_LONGEST_SECONDS)
        await connection.execute(remember, *values)
