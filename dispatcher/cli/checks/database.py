"""Postgres: reachable, of a good version, migrated, on time, with tables ahead and somebody at work."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from dispatcher.cli.checks.finding import Finding, clock_finding, fail, ok, skip, warn
from dispatcher.cli.checks.places import Places
from dispatcher.kit import clock
from dispatcher.ledger.checkup import Checkup, SealedSecret, Vitals, Waiting
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.migrate import DatabaseMoved, migrations, pending
from dispatcher.model.errors import ConfigurationError, DispatcherError, SealBroken, Unavailable
from dispatcher.vault import Vault

_OLDEST_VERSION: Final = 150_000
_SLOW_SECONDS: Final = 0.05
_LATE_SECONDS, _TOO_LATE_SECONDS = 60.0, 600.0
_DAYS_WARN, _DAYS_FAIL = 3, 1


async def look_at_database(places: Places) -> AsyncIterator[Finding]:
    """Give what there is to say of Postgres and of the key ring."""
    if places.database_url is None:
        yield skip("database", "no address is known", "set DISPATCHER_DATABASE__URL")
        return
    cure = "check DISPATCHER_DATABASE__URL, the password file, and that Postgres lets this machine in (pg_hba.conf)"
    try:
        missing = await pending(places.database_url)
        pool = await Pool.open(places.database_url, size=1)
    except Unavailable as fault:
        yield fail("database", str(fault), cure)
        return
    except DatabaseMoved as fault:
        yield fail("schema", str(fault), "`dispatcher migrate`")
        return
    except DispatcherError as fault:
        yield fail("schema", str(fault), "run the version of the dispatcher that made this database, or a newer one")
        return
    try:
        latest = migrations()[-1].version
        if missing:
            yield fail("schema", f"{len(missing)} of {latest} migrations are missing", "`dispatcher migrate`")
            return
        async for finding in _look_inside(Checkup(pool), places.key_file):
            yield finding
        yield ok("schema", f"version {latest}, nothing is missing")
    except Unavailable as fault:
        yield fail("database", str(fault), cure)
    finally:
        await pool.aclose()


async def _look_inside(checkup: Checkup, key_file: Path | None) -> AsyncIterator[Finding]:
    vitals = await checkup.vitals()
    yield _server(vitals)
    yield clock_finding("clock-database", vitals.clock_ahead_seconds, "the database's")
    yield days_finding((await checkup.last_day() - clock.utcnow().date()).days)
    yield replicas_finding(vitals)
    yield waiting_finding(await checkup.waiting(), n_live=vitals.n_live)
    yield key_ring_finding(key_file, await checkup.secret())


def _server(vitals: Vitals) -> Finding:
    detail = f"PostgreSQL {vitals.version_text}, a statement takes {vitals.round_trip_seconds * 1_000:.1f} ms"
    if vitals.version < _OLDEST_VERSION:
        return fail("database", detail, "upgrade to PostgreSQL 15 or newer")
    if vitals.round_trip_seconds > _SLOW_SECONDS:
        cure = "every event costs two statements: put the database near, or look at its load"
        return warn("database", detail, cure)
    return ok("database", detail)


def days_finding(n_days: int) -> Finding:
    """Judge for how many days ahead there are tables."""
    detail = f"tables for {n_days} days ahead"
    cure = "a running dispatcher makes them every hour: start one, and look for `duty_failed` in its log"
    if n_days >= _DAYS_WARN:
        return ok("partitions", detail)
    return warn("partitions", detail, cure) if n_days >= _DAYS_FAIL else fail("partitions", detail, cure)


def replicas_finding(vitals: Vitals) -> Finding:
    """Judge who is alive."""
    if vitals.n_live == 0:
        return fail("replicas", "no dispatcher is alive on this database", "`dispatcher run`")
    detail = f"{vitals.n_live} alive"
    if vitals.n_overdue:
        cure = "the others take over within seconds, unless they cannot write: look at their logs"
        return warn("replicas", f"{detail}, {vitals.n_overdue} gone and not taken over", cure)
    return ok("replicas", detail)


def waiting_finding(waiting: Waiting, *, n_live: int) -> Finding:
    """Judge how long the oldest due delivery has waited."""
    age = waiting.oldest_due_seconds
    detail = f"{waiting.due} due, the oldest for {age:.0f} s; {waiting.held} held"
    cure = "`dispatcher hosts list` shows who is slowed down or paused; "
    cure += "more processes or higher limits send more" if n_live else "nothing sends while no dispatcher is alive"
    if age < _LATE_SECONDS:
        return ok("due", detail)
    return warn("due", detail, cure) if age < _TOO_LATE_SECONDS else fail("due", detail, cure)


def key_ring_finding(key_file: Path | None, secret: SealedSecret | None) -> Finding:
    """Judge whether the key ring can be read, and opens what is sealed."""
    if key_file is None:
        return skip("key-ring", "no file is known", "set DISPATCHER_SECRETS__KEY_FILE")
    try:
        vault = Vault.load(key_file)
        if secret is not None:
            vault.open(secret.sealed, secret.place)
    except ConfigurationError as fault:
        cure = "give the file that this database's dispatchers use; without it no stored secret opens again"
        return fail("key-ring", str(fault), cure)
    except SealBroken as fault:
        cure = "this is another ring than the one that sealed the secrets: bring that one back"
        return fail("key-ring", str(fault), cure)
    return ok("key-ring", f"{key_file} opens what is sealed" if secret else f"{key_file} can be read")
