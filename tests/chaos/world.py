"""The world to be hurt: several processes on real servers, endpoints on several hosts, and a steady producer."""

import asyncio
import base64
import contextlib
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp
import asyncpg
from aiokafka.errors import KafkaError

from dispatcher.embedded.kafka import EmbeddedKafka
from dispatcher.embedded.postgres import EmbeddedPostgres
from dispatcher.kit.failpoints import VARIABLE
from tests.chaos.history import Arrival, Attempt, Endpoint, Fault, History, Sent
from tests.journey.world import World, open_world
from tests.support.daemon import Daemon
from tests.support.producer import CloudEvent, Publisher, an_event, publishing
from tests.support.servers import fresh_topic
from tests.support.sink import SinkProcess, Step, sink_process

HOSTS: Final = ("127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.14")
HOST_RATE: Final = 40.0
HOST_BURST: Final = 10
"""Little more than the load: what piles up while partitions change hands is then sent at the limit."""
_RECENT_SECONDS: Final = 0.25
_TICK_SECONDS: Final = 0.05
_DUPLICATES: Final = 0.02
_LAST_WORDS: Final = re.compile(r"^failpoint \S+ exposed=(\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Size:
    """How big the world is."""

    n_processes: int = 3
    per_second: float = 25.0
    lease_seconds: int = 6


@dataclass(frozen=True, slots=True)
class _Plan:
    path: str
    host: str
    events: tuple[str, ...]
    steps: tuple[Step, ...]


_BUSY = ("verification.*",)
_PLANS: Final = (
    _Plan("/quick", HOSTS[0], _BUSY, (Step(),)),
    # So that a kill finds requests under way.
    _Plan("/slow", HOSTS[1], _BUSY, (Step(delay_seconds=0.1),)),
    # So that there are rows to claim. Not with 503, and seldom: its rate and its breaker are not what is tested here.
    _Plan("/flaky", HOSTS[2], _BUSY, (Step(status=500), Step(), Step(), Step(delay_seconds=0.02))),
    _Plan("/picky", HOSTS[3], ("verification.started",), (Step(),)),
)


@dataclass
class Processes:
    """The daemons: started one after the other in numbered slots, each start under a name of its own."""

    world: World
    sink: SinkProcess
    n: int
    slots: list[Daemon] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    deaths: dict[int, float] = field(default_factory=dict)
    fallen: list[str] = field(default_factory=list)
    """Processes that ended without being asked to, with the end of their log."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def make(self, slot: int, failpoint: str = "") -> Daemon:
        """Put a fresh daemon into a slot, not started. Its name is in the User-Agent of its requests."""
        self._look_at(slot)
        name = f"p{slot}-{next(self._numbers)}"
        made = self.world.daemon(name, HTTP__PUBLIC_URL=f"http://{name}.test")
        if failpoint:
            made.environment[VARIABLE] = failpoint
        self.slots[slot : slot + 1] = [made]
        return made

    def _look_at(self, slot: int) -> None:
        for old in self.slots[slot : slot + 1]:
            code = None if old.process is None else old.process.returncode
            if code and old.name not in {fault.sender for fault in self.faults}:
                words = " | ".join(old.log.read_text(errors="replace").splitlines()[-3:])
                self.fallen.append(f"{old.name} ended by itself with {code}: {words[-300:]}")

    async def start_all(self) -> None:
        """Fill every slot."""
        fresh = [self.make(slot) for slot in range(self.n)]
        async with asyncio.TaskGroup() as group:
            for daemon in fresh:
                group.create_task(daemon.start())

    async def exposed(self, daemon: Daemon) -> int:
        """Return at most how many requests a kill right now may repeat: under way, unwritten, or being written.

        The gauges do not count the batch under way to the database, so what was sent just now is added.
        """
        try:
            seen = await daemon.metrics()
        except (aiohttp.ClientError, OSError):
            return 0
        recent = sum(
            bool(one["at_unix"] > time.time() - _RECENT_SECONDS and sender_of(one) == daemon.name)
            for one in tail(self.sink.log)
        )
        return round(seen["dispatcher_in_flight"] + seen["dispatcher_unsettled"]) + recent

    def died(self, daemon: Daemon, what: str, exposed: int) -> Fault:
        """Note the end of a process, by its last words if it had any."""
        log = daemon.log.read_text(errors="replace")
        if words := _LAST_WORDS.findall(log):
            exposed = int(words[-1])
        fault = Fault(daemon.name, what, time.time(), exposed)
        self.faults.append(fault)
        if (replica := replica_of(log)) is not None:
            self.deaths[replica] = fault.at
        return fault

    async def end(self) -> list[int]:
        """Stop all that live and return their exit codes."""
        for slot in range(self.n):
            self._look_at(slot)
        living = [one for one in self.slots if one.is_running]
        async with asyncio.TaskGroup() as group:
            stops = [group.create_task(one.stop()) for one in living]
        return [stop.result() for stop in stops]

    async def kill_all(self) -> None:
        """Leave nothing behind."""
        for one in self.slots:
            if one.is_running:
                await one.kill()


@dataclass
class Load:
    """A producer that publishes at a pace until stopped, two in a hundred events twice."""

    publisher: Publisher
    account: str
    per_second: float
    chance: Random
    n_sent: int = 0
    stopped: bool = False
    _recent: list[CloudEvent] = field(default_factory=list)

    async def run(self) -> None:
        """Publish until `stopped`."""
        began = asyncio.get_running_loop().time()
        while not self.stopped:
            await asyncio.sleep(_TICK_SECONDS)
            due = int((asyncio.get_running_loop().time() - began) * self.per_second) - self.n_sent
            events = [self._next() for _ in range(due)]
            again = [self.chance.choice(self._recent) for _ in events if self.chance.random() < _DUPLICATES]
            # Refused is refused: the ledger has it as not acknowledged.
            with contextlib.suppress(KafkaError):
                await self.publisher.publish_all(events + again)

    def _next(self) -> CloudEvent:
        self.n_sent += 1
        kind = "verification.started" if self.n_sent % 5 == 0 else "verification.completed"
        event = an_event(self.n_sent, account=self.account, type=kind, environment="test")
        self._recent = [*self._recent[-200:], event]
        return event


@dataclass
class Takeovers:
    """Watches how long after its end the row of a dead process is removed by another."""

    url: str
    processes: Processes
    seconds: list[float] = field(default_factory=list)

    async def run(self) -> None:
        """Look ten times a second until canceled; a database that is away is looked at again."""
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                connection = await asyncpg.connect(self.url, timeout=2)
                try:
                    while True:
                        await self._look(connection)
                        await asyncio.sleep(0.1)
                finally:
                    connection.terminate()
            await asyncio.sleep(0.1)

    async def _look(self, connection: asyncpg.Connection) -> None:
        if not (deaths := self.processes.deaths):
            return
        living = {row["replica_id"] for row in await connection.fetch("SELECT replica_id FROM replica", timeout=2)}
        for replica in [one for one in deaths if one not in living]:
            self.seconds.append(time.time() - deaths.pop(replica))


@dataclass
class ChaosWorld:
    """Everything; made by `chaos_world`."""

    size: Size
    world: World
    postgres: "Database"
    sink: SinkProcess
    processes: Processes
    load: Load
    takeovers: Takeovers
    endpoints: tuple[Endpoint, ...]

    async def quiesce(self, seconds: float) -> None:
        """Stop producing and wait until nothing is open, at most so long; what is left is the checker's to find."""
        self.load.stopped = True
        n_events = len(self.load.publisher.acknowledged_ids())
        with contextlib.suppress(TimeoutError):
            await self.world.until_settled(n_events, seconds=seconds)

    async def history(self) -> History:
        """Collect what everybody knows."""
        rows = await self.world.fetch(
            "SELECT delivery_id, event_id, endpoint_id, attempt_no, verdict,"
            " extract(epoch FROM started_at)::float8 AS started, extract(epoch FROM next_at)::float8 AS next"
            " FROM attempt"
        )
        bodies = await self.world.fetch("SELECT event_id, encode(sha256(body), 'hex') AS digest FROM event")
        still = await self.world.fetch("SELECT event_id, endpoint_id FROM delivery")
        with self.sink.log.open("rb") as log:
            arrivals = [arrival(json.loads(line)) for line in log]
        return History(
            sent=[
                Sent(one.event_id, one.type, one.is_acknowledged)
                for one in self.load.publisher.ledger
                if one.event_id is not None
            ],
            endpoints=self.endpoints,
            arrivals=arrivals,
            attempts=[
                Attempt(r["delivery_id"], shown(r["event_id"]), *(r[name] for name in list(r.keys())[2:])) for r in rows
            ],
            bodies={shown(row["event_id"]): row["digest"] for row in bodies},
            open_deliveries=frozenset((shown(row["event_id"]), row["endpoint_id"]) for row in still),
            faults=tuple(self.processes.faults),
        )


@dataclass
class Database:
    """A durable server that can be crashed and comes back where it was."""

    folder: Path
    server: EmbeddedPostgres

    def crash(self) -> None:
        """Kill it as a power cut would, for its clients; blocks."""
        self.server.kill()

    def recover(self) -> None:
        """Start it again on the same port; blocks."""
        self.server = EmbeddedPostgres.start(self.folder, durable=True, port=self.server.port)


def replica_of(log: str) -> int | None:
    """Return the number that a process's log says it registered under."""
    for line in log.splitlines():
        if "replica_registered" in line and (found := re.search(r'"?replica"?[=:]\s*(\d+)', line)):
            return int(found[1])
    return None


def sender_of(logged: dict[str, Any]) -> str:
    """Return the name of the process that made a request."""
    headers = {name.lower(): value for name, value in logged["headers"].items()}
    found = re.search(r"http://([^.]+)\.test", headers.get("user-agent", ""))
    return found[1] if found else ""


def arrival(logged: dict[str, Any]) -> Arrival:
    """Return what the checker wants of a line of the sink's log."""
    headers = {name.lower(): value for name, value in logged["headers"].items()}
    return Arrival(
        logged["at_unix"],
        logged["path"],
        headers.get("webhook-id", ""),
        int(headers.get("x-webhook-attempt", "0").partition("/")[0]),
        logged["body_sha256"],
        logged["status"],
        logged["signature"],
        sender_of(logged),
    )


def shown(event_id: bytes) -> str:
    """Return the public form of a stored event id."""
    return "evt_" + base64.b32encode(event_id).decode().lower()


def tail(log: Path, size: int = 400_000) -> list[dict[str, Any]]:
    """Return the last whole lines of the sink's log."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - size))
        lines = file.read().split(b"\n")
    return [json.loads(line) for line in lines[1:-1]]


@contextmanager
def _servers(folder: Path) -> Iterator[tuple[Database, EmbeddedKafka]]:
    database = Database(folder / "postgres", EmbeddedPostgres.start(folder / "postgres", durable=True))
    broker = None
    try:
        broker = EmbeddedKafka.start(folder / "kafka")
        yield database, broker
    finally:
        if broker is not None:
            broker.stop()
        database.server.stop()


@asynccontextmanager
async def chaos_world(folder: Path, size: Size, seed: int) -> AsyncIterator[ChaosWorld]:
    """Start servers, endpoints, processes and the load; end all of it with the block."""
    with _servers(folder) as (database, broker), sink_process(folder, hosts=HOSTS) as sink:
        topic = await fresh_topic(broker.bootstrap)
        url = database.server.url
        async with (
            open_world(folder, bootstrap=broker.bootstrap, database_url=url, topic=topic) as world,
            publishing(broker.bootstrap, topic, linger_ms=0) as publisher,
        ):
            world.settings |= {
                "LEASE__SECONDS": str(size.lease_seconds),
                "LIMITS__HOST_RATE": str(HOST_RATE),
                "LIMITS__HOST_BURST": str(HOST_BURST),
            }
            processes = Processes(world, sink, size.n_processes)
            load = Load(publisher, world.account, size.per_second, Random(seed))
            takeovers = Takeovers(url, processes)
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(takeovers.run())
                try:
                    await processes.start_all()
                    endpoints = await _subscribe(world, processes.slots[0], sink)
                    tasks.create_task(load.run())
                    yield ChaosWorld(size, world, database, sink, processes, load, takeovers, endpoints)
                finally:
                    load.stopped = True
                    watching.cancel()
                    await processes.kill_all()


async def _subscribe(world: World, daemon: Daemon, sink: SinkProcess) -> tuple[Endpoint, ...]:
    api = world.api(daemon)
    numbers = {}
    for plan in _PLANS:
        made = await api.add_endpoint(sink.url(plan.path, host=plan.host), list(plan.events))
        sink.verify(plan.path, made["secret"])
        sink.script(plan.path, plan.steps, cycle=True)
        numbers[made["id"]] = plan
    rows = await world.fetch("SELECT public_id, endpoint_id FROM endpoint")
    return tuple(
        Endpoint(row["endpoint_id"], numbers[row["public_id"]].host, numbers[row["public_id"]].path, plan_events)
        for row in rows
        for plan_events in (numbers[row["public_id"]].events,)
    )
