"""One daemon, and everything that can be wrong with its Postgres short of a crash: late, and nothing else.

The daemon, its server and its endpoint live through all of these tests: each starts where the last one left off, and
must leave a world that is whole. `DISPATCHER_TEST_TROUBLE_SECONDS` (2.5 unless set) is how long each trouble lasts.
"""

import asyncio
import datetime as dt
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest

from dispatcher.embedded.postgres import EmbeddedPostgres
from dispatcher.kit.supervise import spawn
from dispatcher.ledger.statements import STATEMENTS
from tests.journey.world import Message, World, open_world, successes
from tests.support.daemon import Daemon, running
from tests.support.faults import FaultProxy
from tests.support.servers import KafkaServer, fresh_topic
from tests.support.sink import Sink

pytestmark = pytest.mark.timeout(300)

SECONDS = float(os.environ.get("DISPATCHER_TEST_TROUBLE_SECONDS", "2.5"))
PER_SECOND = 100
MOST_CONNECTIONS = 40
STEPS = ("accept", "settle", "claim")
KILL_SESSIONS = (
    """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'dispatcher-%'"""
)
NEEDS_ROOT = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a small file system can be mounted by root on Linux only"
)


@dataclass
class Patient:
    """A daemon that reaches Postgres through a proxy; `sql` goes around it."""

    world: World
    postgres: EmbeddedPostgres
    proxy: FaultProxy
    daemon: Daemon
    sink: Sink
    sent: list[Message] = field(default_factory=list)
    n_lines: int = 0

    async def live_through(self, trouble: Callable[[], Awaitable[None]]) -> None:
        """Send events before, during and after a trouble; then all of them must have arrived once, soon."""
        await self.publish(20)
        publishing = spawn(self.publish(round(PER_SECOND * SECONDS), per_second=PER_SECOND), name="publish")
        async with asyncio.timeout(60):
            await trouble()
            await publishing
        await self.publish(20)
        await self.is_whole()

    async def publish(self, n: int, *, per_second: float | None = None) -> None:
        """Produce `n` events that were never sent before."""
        fresh = [self.world.good(len(self.sent) + number) for number in range(n)]
        self.sent += fresh
        await self.world.publish(fresh, per_second=per_second)

    async def is_whole(self) -> None:
        """Check that nothing was lost, repeated or left behind, and that the log was not flooded."""
        await self.world.until_settled(len(self.sent), seconds=60)
        got = successes(self.sink)
        assert {event for _, event in got} == {message.event_id for message in self.sent}
        assert set(got.values()) == {1}, "the process lived: nothing may be sent twice"
        (row,) = await self.world.fetch(
            "SELECT count(*) AS n, count(DISTINCT delivery_id) AS deliveries FROM attempt WHERE verdict = 'delivered'"
        )
        assert row["n"] == row["deliveries"] == len(self.sent), "each success is recorded once"
        assert self.daemon.is_running
        ours = [line for line in self.lines() if line["event"] != "library_reported"]
        assert not [line for line in ours if line["level"] == "error"]
        self.log_is_quiet()

    def lines(self) -> list[dict[str, Any]]:
        """Return what the daemon said in this test so far."""
        return self.daemon.logged()[self.n_lines :]

    async def until_said(self, words: str) -> None:
        """Return when the daemon has named a cause with these words in this test."""
        while not any(words in line.get("reason", "") for line in self.lines()):
            await asyncio.sleep(0.05)

    def log_is_quiet(self) -> None:
        """Check that no cause was told more often than once in ten seconds; a test takes less than thirty."""
        told = Counter(
            line["reason"].partition(": ")[2]
            for line in self.lines()
            if line["level"] == "warning"
            and line["event"] not in {"attempt_settled", "record_died"}
            and "reason" in line
        )
        assert max(told.values(), default=0) <= 1 + 30 // 10, told

    @asynccontextmanager
    async def outsider(self) -> AsyncIterator[asyncpg.Connection]:
        """Give a session of somebody else."""
        connection = await asyncpg.connect(self.postgres.url)
        try:
            yield connection
        finally:
            connection.terminate()

    async def ask_api(self) -> tuple[int, str | None, str]:
        """Try to make an endpoint that nobody sends to; return status, Retry-After and the problem's detail."""
        headers = {"authorization": f"Bearer {self.world.api_key}", "idempotency-key": os.urandom(8).hex()}
        body = {"url": "https://nobody.example/hook", "events": ["check.completed"]}
        url = self.daemon.ready["api_url"] + "/v1/webhook_endpoints"
        async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json=body) as answer:
            return answer.status, answer.headers.get("retry-after"), (await answer.json()).get("detail", "")


async def seconds(n: float) -> None:
    # The trouble itself has to last; nothing in the world tells when it was long enough.
    await asyncio.sleep(n)


@pytest.fixture(scope="module")
async def shared(kafka_server: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Patient]:
    folder = tmp_path_factory.mktemp("trouble")
    topic = await fresh_topic(kafka_server.bootstrap)
    settings = {"max_connections": str(MOST_CONNECTIONS), "superuser_reserved_connections": "1"}
    postgres = EmbeddedPostgres.start(folder / "postgres", durable=False, settings=settings)
    try:
        async with (
            open_world(folder, bootstrap=kafka_server.bootstrap, database_url=postgres.url, topic=topic) as world,
            FaultProxy.between("127.0.0.1", postgres.port) as proxy,
            Sink.serving() as sink,
        ):
            through = urlsplit(postgres.url)
            url = through._replace(netloc=f"{through.username}:{through.password}@127.0.0.1:{proxy.port}").geturl()
            async with running(world.daemon(DATABASE__URL=url)) as daemon:
                made = await world.api(daemon).add_endpoint(sink.url("/hook"), ["verification.*"])
                sink.verify("/hook", made["secret"])
                yield Patient(world, postgres, proxy, daemon, sink)
                assert await daemon.stop() == 0
    finally:
        postgres.stop()


@pytest.fixture
def patient(shared: Patient) -> Patient:
    """Give the patient as the last test left it, with a clean page for this one's log."""
    assert shared.daemon.is_running, shared.daemon.log.read_text()[-4_000:]
    shared.n_lines = len(shared.daemon.logged())
    return shared


async def test_connections_killed_twice_a_second_cost_nothing(patient: Patient) -> None:
    async def trouble() -> None:
        async with patient.outsider() as sql:
            for _ in range(round(SECONDS * 2)):
                async with asyncio.timeout(10):
                    while not await sql.fetchval(KILL_SESSIONS):
                        await asyncio.sleep(0.01)
                await seconds(0.5)

    await patient.live_through(trouble)


async def test_replies_to_every_step_that_get_lost_leave_neither_gap_nor_repeat(patient: Patient) -> None:
    missing = set(STEPS)

    async def trouble() -> None:
        async with patient.outsider() as sql:
            while missing:
                missing.difference_update(await lose_replies(patient, sql, missing))

    await patient.live_through(trouble)


async def lose_replies(patient: Patient, sql: asyncpg.Connection, wanted: set[str]) -> set[str]:
    """Let no answer through until a wanted step was done, or for two seconds; return those whose answer is gone.

    Events go on coming meanwhile, so that there is something to accept and to settle.
    """
    # After a lost answer the due-reader looks for what is ours, and claims no sooner than that is found.
    await until_done(sql, "claim")
    publishing = spawn(patient.publish(200, per_second=50), name="publish")
    await until_done(sql, "settle")
    lost: set[str] = set()
    patient.proxy.downstream.drop()
    try:
        since = await sql.fetchval("SELECT clock_timestamp()")
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                while not wanted <= lost:
                    lost |= await done_since(sql, since)
                    await asyncio.sleep(0.01)
    finally:
        # What was asked is done; the answer never comes.
        patient.proxy.reset()
        patient.proxy.heal()
    await publishing
    return lost


async def until_done(sql: asyncpg.Connection, step: str) -> None:
    """Return when the daemon has come to the end of a step that had not ended yet."""
    since = await sql.fetchval("SELECT clock_timestamp()")
    while step not in await done_since(sql, since):
        await asyncio.sleep(0.01)


async def done_since(sql: asyncpg.Connection, since: dt.datetime) -> set[str]:
    """Return the steps that the daemon's sessions have come to the end of since then."""
    rows = await sql.fetch(
        "SELECT query FROM pg_stat_activity"
        " WHERE application_name LIKE 'dispatcher-%' AND state = 'idle' AND state_change > $1",
        since,
    )
    return {name for name in STEPS for row in rows if row["query"].startswith(STATEMENTS[name][:500])}


async def test_a_server_that_takes_no_writes_is_waited_for(patient: Patient) -> None:
    answers: list[tuple[int, str | None, str]] = []

    async def trouble() -> None:
        async with patient.outsider() as sql:
            await sql.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await sql.execute("SELECT pg_reload_conf()")
            await seconds(SECONDS)
            answers.append(await patient.ask_api())
            await sql.execute("SET default_transaction_read_only = off")
            await sql.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await sql.execute("SELECT pg_reload_conf()")

    await patient.live_through(trouble)

    assert answers == [(503, "1", "the database takes no writes at the moment; try again shortly")]
    assert (await patient.ask_api())[0] == 201


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a file system of a few megabytes."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=777", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def fill(disk: Path) -> Path:
    """Write a file that leaves no space."""
    ballast = disk / "ballast"
    # Postgres writes, too: only a refusal tells that nothing is left.
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4_096)):
            pass
    return ballast


@NEEDS_ROOT
async def test_a_full_disk_is_waited_for_and_the_api_says_so(patient: Patient, tmp_path: Path) -> None:
    answers: list[tuple[int, str | None, str]] = []

    async def trouble() -> None:
        ballast = fill(disk)
        await seconds(SECONDS)
        answers.append(await patient.ask_api())
        await patient.until_said("53100")
        ballast.unlink()

    # Walked to by the server's user: every folder above must let it pass.
    with small_disk(Path(f"/tmp/dispatcher-full-{os.getpid()}"), 8) as disk:
        async with patient.outsider() as sql:
            where = disk / "space"
            where.mkdir()
            os.chown(where, *owner_of(patient.postgres))
            await sql.execute(f"CREATE TABLESPACE small LOCATION '{where}'")
            await sql.execute("SELECT set_config('lock_timeout', '10s', false)")
            tables = await tables_that_grow(sql)
            for table in tables:
                await sql.execute(f"ALTER TABLE {table} SET TABLESPACE small")
            # No page with room for one more answer.
            await sql.execute("TRUNCATE idempotency_key")
        await patient.live_through(trouble)
        async with patient.outsider() as sql:
            for table in tables:
                await sql.execute(f"ALTER TABLE {table} SET TABLESPACE pg_default")
            await sql.execute("DROP TABLESPACE small")

    assert answers == [(503, "1", "the database has no disk space left; try again shortly")]


def owner_of(postgres: EmbeddedPostgres) -> tuple[int, int]:
    status = Path(f"/proc/{postgres.pid}").stat()
    return status.st_uid, status.st_gid


async def tables_that_grow(sql: asyncpg.Connection) -> list[str]:
    """Return the events of today, and of tomorrow, which may begin meanwhile; and the answers of the API."""
    days = await sql.fetch(
        "SELECT to_char(now() AT TIME ZONE 'UTC' + n * interval '1 day', 'YYYYMMDD') FROM generate_series(0, 1) n"
    )
    return [*(f"event_{day}" for (day,) in days), "idempotency_key"]


async def test_others_who_hold_every_connection_are_waited_for(patient: Patient) -> None:
    async def trouble() -> None:
        hogs: list[asyncpg.Connection] = []
        try:
            while len(hogs) < MOST_CONNECTIONS:
                with suppress(asyncpg.TooManyConnectionsError):
                    hogs.append(await asyncpg.connect(patient.postgres.url))
                    continue
                # Whoever was there first leaves now, and the place is ours.
                found = await hogs[0].fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM"
                    " (SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'dispatcher-%' LIMIT 1) one"
                )
                if not found:
                    break
            await seconds(SECONDS)
            await patient.until_said("TooManyConnections")
        finally:
            for hog in hogs:
                hog.terminate()

    await patient.live_through(trouble)


async def test_tables_and_rows_that_others_keep_locked_are_waited_for(patient: Patient) -> None:
    async def trouble() -> None:
        async with patient.outsider() as sql:
            async with sql.transaction():
                await sql.execute("LOCK TABLE delivery IN ACCESS EXCLUSIVE MODE")
                await seconds(SECONDS)
                await patient.until_said("55P03")
            async with sql.transaction():
                await sql.execute("SELECT 1 FROM ingest_progress FOR UPDATE")
                await sql.execute("SELECT 1 FROM replica FOR UPDATE")
                await seconds(SECONDS)

    await patient.live_through(trouble)


async def test_a_transaction_that_never_ends_changes_nothing_that_is_sent(patient: Patient) -> None:
    async def trouble() -> None:
        async with patient.outsider() as sql:
            await sql.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await sql.fetchval("SELECT count(*) FROM delivery")
            await patient.sink.arrival(len(patient.sink.requests) + 50, seconds=30)
            await sql.execute("ROLLBACK")

    await patient.live_through(trouble)
