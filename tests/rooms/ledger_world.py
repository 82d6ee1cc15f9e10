"""A migrated database and everything the ledger's statements need in it."""

import asyncio
import datetime as dt
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import asyncpg

from dispatcher.kit import clock
from dispatcher.ledger.claims import ClaimLedger
from dispatcher.ledger.connections import Link, new_tag
from dispatcher.ledger.health import HealthLedger
from dispatcher.ledger.hosts import HostLedger
from dispatcher.ledger.intake import IntakeLedger
from dispatcher.ledger.replicas import Membership, Replica, register
from dispatcher.ledger.settlement import SettlementLedger
from dispatcher.model.batch import Accepted, Batch, ClaimWish, DeadRecord, PlacedEvent, Span
from dispatcher.model.event import DeadReason, Event
from dispatcher.model.ids import DeliveryIds, show_event_id
from tests.support.servers import DatabaseServer, migrated_database

LOG = "log-1"
TOPIC = "verification.events.v1"
LEASE_SECONDS = 6.0
IDS = DeliveryIds(b"k" * 32)
_numbers = count(1)


def an_event(account: str, **changes: Any) -> Event:
    """Return an event of its own id that happened today; change what matters."""
    number = next(_numbers)
    plain = Event(
        event_id=number.to_bytes(20, "big"),
        public_id=show_event_id(number.to_bytes(20, "big")),
        account=account,
        environment="live",
        type="verification.completed",
        subject=f"ver_{number:012d}",
        client_reference=f"user-{number}",
        outcome="approved",
        workflow_id="wf_kyc_basic",
        occurred_at=clock.utcnow(),
        body=b'{"n":%d}' % number,
        dropped_fields=0,
    )
    return plain._replace(**changes)


def a_batch(
    events: Sequence[Event], *, start: int = 0, part: int = 0, stop: int | None = None, log_id: str = LOG
) -> Batch:
    """Return a batch of one partition that was read from `start` to one past its last event."""
    today = clock.utcnow().date()
    placed = tuple(PlacedEvent(TOPIC, part, start + n, today, event) for n, event in enumerate(events))
    span = Span(TOPIC, part, start, start + len(events) if stop is None else stop)
    return Batch(log_id, (span,), placed, ())


def a_dead_record(offset: int, part: int = 0) -> DeadRecord:
    """Return a record that is no event."""
    return DeadRecord(TOPIC, part, offset, DeadReason.NOT_JSON, "at byte 3", b"key", b"[]", b"sealed")


class Process:
    """One replica as Postgres sees it, with its own links."""

    def __init__(
        self, url: str, *, full_hosts: Sequence[int] = (), delivers: bool = True, payload_days: int = 8
    ) -> None:
        tag = new_tag()
        self.links = {name: Link(url, name, tag=tag) for name in ("intake", "settlement", "claims", "hosts", "control")}
        self.full_hosts = list(full_hosts)
        self.full_endpoints: list[int] = []
        self._delivers = delivers
        self._payload_days = payload_days
        self.replica: Replica
        self.members: Membership

    async def open(self) -> "Process":
        """Register, make tables ahead, build the ledgers."""
        links = self.links
        self.replica = await register(links["control"], "pod", LEASE_SECONDS)
        self.members = Membership(links["control"], self.replica, payload_days=self._payload_days)
        await self.members.make_days()
        self.intake = IntakeLedger(
            links["intake"],
            self.replica,
            days=self.members.days,
            full_hosts=lambda: self.full_hosts,
            full_endpoints=lambda: self.full_endpoints,
            delivers=self._delivers,
        )
        self.settlements = SettlementLedger(links["settlement"], self.replica, IDS)
        self.health = HealthLedger(links["control"])
        self.claims = ClaimLedger(links["claims"], self.replica)
        self.hosts = HostLedger(links["hosts"], self.replica)
        return self

    async def accept(self, batch: Batch) -> Accepted:
        """Accept a batch; its accounts and positions are made when missing."""
        await self.intake.known_accounts({placed.event.account for placed in batch.events}, create=True)
        await self.intake.open_positions(batch.log_id, {(span.topic, span.partition): 0 for span in batch.spans})
        return await self.intake.accept(batch)

    async def claim(self, **changes: Any) -> list[Any]:
        """Claim with generous bounds."""
        return await self.claims.claim(ClaimWish(100, 200)._replace(**changes))

    async def close(self) -> None:
        """Terminate the links; the replica's row stays, as after a kill."""
        for link in self.links.values():
            await link.aclose()


class World:
    """A migrated database with builders, and any number of processes on it."""

    def __init__(self, url: str, connection: asyncpg.Connection) -> None:
        self.url = url
        self.sql = connection
        self.processes: list[Process] = []

    async def process(self, *, url: str | None = None, **options: Any) -> Process:
        """Open one more replica; `url` is another way to the database."""
        made = Process(url or self.url, **options)
        self.processes.append(made)
        return await made.open()

    async def account(self) -> str:
        """Make an account and return its public id."""
        public_id = "acct_" + secrets.token_hex(8)
        await self.sql.execute("INSERT INTO account (public_id) VALUES ($1)", public_id)
        return public_id

    async def host(self, *, rate: float = 1e5, burst: int = 1_000, **columns: Any) -> int:
        """Make a host and return its number."""
        number: int = await self.sql.fetchval(
            "INSERT INTO host (authority, interval_us, grant_burst, in_flight, paused_until)"
            " VALUES ($1, $2, $3, 64, now() + make_interval(secs => $4)) RETURNING host_id",
            f"https://{secrets.token_hex(6)}.example:443",
            max(1, int(1e6 / rate)),
            burst,
            columns.get("paused_seconds", -1.0),
        )
        return number

    async def endpoint(self, account: str, **columns: Any) -> int:
        """Make an endpoint and return its number; `host` None makes one of its own."""
        host = columns.get("host") or await self.host()
        number: int = await self.sql.fetchval(
            "INSERT INTO endpoint (public_id, account_id, environment, host_id, url, events, outcomes, workflows,"
            " api_version, status, verified_at)"
            " VALUES ($1, (SELECT account_id FROM account WHERE public_id = $2), $3, $4,"
            " 'https://x.example/', $5, $6, $7, '2026-11-01', $8, $9) RETURNING endpoint_id",
            "we_" + secrets.token_hex(8),
            account,
            columns.get("environment", "live"),
            host,
            columns.get("events", ["*"]),
            columns.get("outcomes"),
            columns.get("workflows"),
            columns.get("status", "enabled"),
            columns.get("verified_at", clock.utcnow()),
        )
        return number

    async def waiting(self, account: str, endpoint: int, n: int, *, seconds_ago: float = 1.0, **changes: Any) -> None:
        """Make `n` deliveries of one event that wait, due `seconds_ago`; `changes` are the event's."""
        event = an_event(account, **changes)
        today = clock.utcnow().date()
        await self.sql.execute(
            "INSERT INTO event (event_day, event_id, account_id, environment, event_type, occurred_at, body)"
            " SELECT $1, $2, account_id, 'live', $3, now(), $4 FROM account WHERE public_id = $5",
            today,
            event.event_id,
            event.type,
            event.body,
            account,
        )
        await self.sql.execute(
            "INSERT INTO delivery (event_day, event_id, account_id, environment, endpoint_id, host_id, due_at)"
            " SELECT $1, $2, e.account_id, 'live', e.endpoint_id, e.host_id, now() - make_interval(secs => $3)"
            " FROM endpoint e, generate_series(1, $4) WHERE e.endpoint_id = $5",
            today,
            event.event_id,
            seconds_ago,
            n,
            endpoint,
        )

    async def rows(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Ask the database."""
        found: list[asyncpg.Record] = await self.sql.fetch(statement, *arguments)
        return found

    async def value(self, statement: str, *arguments: Any) -> Any:
        """Ask the database for one value."""
        return await self.sql.fetchval(statement, *arguments)

    async def until_blocked(self, n: int) -> None:
        """Return when `n` statements wait for a lock. On a connection of its own: a transaction sees one moment."""
        connection = await asyncpg.connect(self.url)
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        try:
            while await connection.fetchval(query) < n:
                await asyncio.sleep(0.005)
        finally:
            await connection.close()

    async def expire(self, process: Process) -> None:
        """Let a replica's lease be long over."""
        await self.sql.execute(
            "UPDATE replica SET lease_until = now() - interval '1 hour' WHERE replica_id = $1",
            process.replica.replica_id,
        )


@asynccontextmanager
async def open_ledger(server: DatabaseServer) -> AsyncIterator[World]:
    """Give a world on a fresh database; everything is gone afterwards."""
    async with migrated_database(server) as url:
        connection = await asyncpg.connect(url)
        await connection.execute("SET TIME ZONE 'UTC'")
        world = World(url, connection)
        try:
            yield world
        finally:
            for process in world.processes:
                await process.close()
            await connection.close()


def minutes_ago(minutes: float) -> dt.datetime:
    """Return a moment in the past."""
    return clock.utcnow() - dt.timedelta(minutes=minutes)
