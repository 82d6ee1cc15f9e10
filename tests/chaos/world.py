"""The world to be hurt: several processes on real servers, endpoints on several hosts, and a steady producer."""

import asyncio
import base64
import contextlib
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import asyncpg
from aiokafka.errors import KafkaError

from dispatcher.embedded.kafka import EmbeddedKafka
from dispatcher.embedded.postgres import EmbeddedPostgres
from tests.chaos.history import Arrival, Attempt, Deafness, Endpoint, History, Sent
from tests.chaos.links import Links, open_links
from tests.chaos.processes import Processes, sender_of
from tests.chaos.wards import open_nursery
from tests.journey.world import World, account_with_key, open_world
from tests.kafka.broker import Kafka
from tests.support.daemon import Api, Daemon
from tests.support.producer import CloudEvent, Publisher, an_event, publishing
from tests.support.servers import fresh_topic
from tests.support.sink import SinkProcess, Step, sink_process

HOSTS: Final = ("127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.14")
HOST_RATE: Final = 40.0
HOST_BURST: Final = 10
"""Little more than the load: what piles up while partitions change hands is then sent at the limit."""
_APACHE_SETTINGS: Final = {"KAFKA__FETCH_MAX_WAIT_MS": "500", "KAFKA__SESSION_TIMEOUT_MS": "6000"}
"""It answers a waiting fetch at once, and takes no shorter session."""
_AWAY: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)
_TICK_SECONDS: Final = 0.05
_DUPLICATES: Final = 0.02
_OTHERS_SHARE: Final = 0.2
"""So many of the events are a second account's."""


_HOW_IT_STANDS: Final = (
    "SELECT *, now() AS seen_at FROM replica",
    "SELECT host_id, authority, scale, tat, paused_until FROM host",
    "SELECT endpoint_id, status, public_id FROM endpoint",
    "SELECT topic, part, next_offset FROM ingest_progress",
    "SELECT owner, endpoint_id, host_id, count(*), min(due_at), max(due_at) FROM delivery GROUP BY 1, 2, 3",
    "SELECT pid, application_name, state, wait_event_type, wait_event, xact_start, query FROM pg_stat_activity",
    "SELECT pid, relation::regclass::text AS relation, locktype, mode, granted FROM pg_locks WHERE NOT fastpath",
)


@dataclass(frozen=True, slots=True)
class Size:
    """How big the world is. `n_processes` is how many there are at first; a run may change it up to `most`."""

    n_processes: int = 3
    most: int = 5
    per_second: float = 25.0
    lease_seconds: int = 6


@dataclass(frozen=True, slots=True)
class _Plan:
    path: str
    host: str
    events: tuple[str, ...]
    steps: tuple[Step, ...]
    is_others: bool = False


_BUSY = ("verification.*",)
_PLANS: Final = (
    _Plan("/quick", HOSTS[0], _BUSY, (Step(),)),
    # So that a kill finds requests under way.
    _Plan("/slow", HOSTS[1], _BUSY, (Step(delay_seconds=0.1),)),
    # So that there are rows to claim. Not with 503, and seldom: its rate and its breaker are not what is tested here.
    _Plan("/flaky", HOSTS[2], _BUSY, (Step(status=500), Step(), Step(), Step(delay_seconds=0.02))),
    _Plan("/picky", HOSTS[3], ("verification.started",), (Step(),)),
    _Plan("/others", HOSTS[3], _BUSY, (Step(),), is_others=True),
)


@dataclass
class Load:
    """A producer that publishes at a pace until stopped, two in a hundred events twice; for two accounts."""

    publisher: Publisher
    account: str
    other: str
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
        account = self.other if self.chance.random() < _OTHERS_SHARE else self.account
        event = an_event(self.n_sent, account=account, type=kind, environment="test")
        self._recent = [*self._recent[-200:], event]
        return event


@dataclass
class Takeovers:
    """Watches how long after its end the row of a dead process is removed by another.

    That includes the time in which nobody is there who has lived for long enough to judge.
    """

    url: str
    processes: Processes
    seconds: list[float] = field(default_factory=list)
    at: dict[str, float] = field(default_factory=dict)
    """When, in Unix seconds, by name."""

    async def run(self) -> None:
        """Look ten times a second until canceled; a database that is away is looked at again."""
        while True:
            with contextlib.suppress(OSError, *_AWAY):
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
            fault = deaths.pop(replica)
            self.at[fault.sender] = time.time()
            self.seconds.append(self.at[fault.sender] - fault.at)


@dataclass
class ChaosWorld:
    """Everything; made by `chaos_world`."""

    size: Size
    world: World
    postgres: "Database"
    sink: SinkProcess
    processes: Processes
    load: Load
    links: Links
    takeovers: Takeovers
    endpoints: tuple[Endpoint, ...]

    async def quiesce(self, seconds: float) -> float:
        """Stop producing and wait until nothing is open, at most so long; return how long it took.

        What is left is the checker's to find; how it stands then is written to `not-quiet.txt`.
        """
        self.load.stopped = True
        began = time.monotonic()
        n_events = len(self.load.publisher.acknowledged_ids())
        try:
            await self.world.until_settled(n_events, seconds=seconds)
        except TimeoutError:
            await self._tell_how_it_stands()
        return time.monotonic() - began

    async def _tell_how_it_stands(self) -> None:
        with (self.world.folder / "not-quiet.txt").open("w") as file:
            for query in _HOW_IT_STANDS:
                file.write(f"{query}\n")
                file.writelines(f"  {dict(row)}\n" for row in await self.world.fetch(query))

    async def replay(self) -> None:
        """Start a replay of what is missing at every endpoint: nothing, if all is well. Every process steps them."""
        await self.world.fetch(
            "INSERT INTO replay (public_id, account_id, environment, endpoint_id, kind, what, rate, n_expected,"
            " is_minimum, created_at, ready_at)"
            " SELECT 'rpl_' || gen_random_uuid(), account_id, environment, endpoint_id, 'replay', 'missing', 100, 0,"
            " false, clock_timestamp(), now() FROM endpoint ON CONFLICT DO NOTHING"
        )

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
                Sent(one.event_id, one.type, one.is_acknowledged, one.account)
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
            deafness=tuple(
                Deafness(harm.name, harm.toxic, harm.began, harm.ended)
                for harm in self.links.harms
                if harm.is_deafening
            ),
            takeovers=self.takeovers.at,
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
        int(headers.get("webhook-timestamp", "0")),
    )


def shown(event_id: bytes) -> str:
    """Return the public form of a stored event id."""
    return "evt_" + base64.b32encode(event_id).decode().lower()


@contextmanager
def _servers(folder: Path, *, apache: bool) -> Iterator[tuple[Database, str]]:
    """Run a database, and a broker unless one is given by `DISPATCHER_TEST_KAFKA`; give both."""
    database = Database(folder / "postgres", EmbeddedPostgres.start(folder / "postgres", durable=True))
    try:
        with _broker(folder / "kafka", apache=apache) as bootstrap:
            yield database, bootstrap
    finally:
        database.server.stop()


@contextmanager
def _broker(folder: Path, *, apache: bool) -> Iterator[str]:
    if apache:
        kafka = Kafka(folder)
        kafka.start()
        try:
            yield kafka.bootstrap
        finally:
            kafka.stop()
    elif given := os.environ.get("DISPATCHER_TEST_KAFKA"):
        yield given
    else:
        broker = EmbeddedKafka.start(folder)
        try:
            yield broker.bootstrap
        finally:
            broker.stop()


@asynccontextmanager
async def chaos_world(
    folder: Path, size: Size, seed: int, *, without: str | None = None, apache: bool = False
) -> AsyncIterator[ChaosWorld]:
    """Start servers, links, endpoints, processes and the load; end all of it with the block.

    `without` names a guard that the daemons shall lack; `apache` takes Apache Kafka, not the embedded broker.
    """
    with _servers(folder, apache=apache) as (database, bootstrap), sink_process(folder, hosts=HOSTS) as sink:
        topic = await fresh_topic(bootstrap)
        url = database.server.url
        async with (
            open_world(folder, bootstrap=bootstrap, database_url=url, topic=topic) as world,
            publishing(bootstrap, topic, linger_ms=0) as publisher,
            open_nursery(without) as nursery,
        ):
            world.settings |= {
                "LEASE__SECONDS": str(size.lease_seconds),
                "LIMITS__HOST_RATE": str(HOST_RATE),
                "LIMITS__HOST_BURST": str(HOST_BURST),
                **(_APACHE_SETTINGS if apache else {}),
            }
            processes = Processes(world, sink, nursery)
            other, other_key = await account_with_key(url, "acct_others" + secrets.token_hex(4))
            load = Load(publisher, world.account, other, size.per_second, Random(seed))
            takeovers = Takeovers(url, processes)
            with open_links(processes.living) as links:
                ports = links.open_hosts(HOSTS, sink.port)
                processes.links = links
                async with asyncio.TaskGroup() as tasks:
                    watching = tasks.create_task(takeovers.run())
                    try:
                        await _start(processes, size.n_processes)
                        keys = {world.account: world.api_key, other: other_key}
                        endpoints = await _subscribe(world, processes.slots[0], sink, ports, keys)
                        tasks.create_task(load.run())
                        yield ChaosWorld(size, world, database, sink, processes, load, links, takeovers, endpoints)
                    finally:
                        load.stopped = True
                        watching.cancel()
                        await processes.kill_all()


async def _start(processes: Processes, n: int) -> None:
    async with asyncio.TaskGroup() as group:
        for slot in range(n):
            group.create_task(processes.make(slot).start())


async def _subscribe(
    world: World, daemon: Daemon, sink: SinkProcess, ports: dict[str, int], keys: dict[str, str]
) -> tuple[Endpoint, ...]:
    """Register every plan's endpoint, at the proxy of its host; `keys` are the two accounts' with theirs."""
    (account, key), (other, other_key) = keys.items()
    planned = {}
    for plan in _PLANS:
        api = Api(daemon.ready["api_url"], other_key if plan.is_others else key)
        made = await api.add_endpoint(f"http://{plan.host}:{ports[plan.host]}{plan.path}", list(plan.events))
        sink.verify(plan.path, made["secret"])
        sink.script(plan.path, plan.steps, cycle=True)
        planned[made["id"]] = plan
    rows = await world.fetch("SELECT public_id, endpoint_id FROM endpoint")
    return tuple(
        Endpoint(row["endpoint_id"], plan.host, plan.path, plan.events, other if plan.is_others else account)
        for row in rows
        for plan in (planned[row["public_id"]],)
    )
