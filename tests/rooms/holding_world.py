"""One account with an endpoint, and everything that holds, drains and replays its deliveries."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import asyncpg

from dispatcher.kit import clock
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Link, Pool
from dispatcher.ledger.holding import HoldingLedger
from dispatcher.ledger.replay_steps import StepLedger
from dispatcher.ledger.replays import ReplayLedger
from dispatcher.ledger.wishes import DeliveryName, Fate, Wish, WishLedger
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.outcome import Outcome, OutcomeKind, Verdict, VerdictKind
from dispatcher.model.replay import Replay, Selection, Tally, Wanted
from tests.rooms.ledger_world import Process, World, a_batch, an_event
from tests.rooms.test_api_harness import a_deed

NOTHING = Tally(0, is_minimum=False)
_parts = count()


class Wishes:
    """Wishes of a tenant for deliveries, told in short."""

    def __init__(self, pool: Pool) -> None:
        self._ledger = WishLedger(pool, show=repr_bytes)

    async def resend(self, tenant: Tenant, number: int) -> Wish:
        return _wish(await self._ledger.resend(a_deed(tenant), DeliveryName(number, "dlv_1")))

    async def cancel(self, tenant: Tenant, number: int) -> Wish:
        return _wish(await self._ledger.cancel(a_deed(tenant), DeliveryName(number, "dlv_1")))

    async def retry(self, tenant: Tenant, number: int) -> Wish:
        return _wish(await self._ledger.retry(a_deed(tenant), DeliveryName(number, "dlv_1")))


def _wish(fate: Fate) -> Wish:
    return fate if isinstance(fate, Wish) else Wish.GRANTED


def repr_bytes(thing: object) -> bytes:
    """Return some bytes for an answer that nobody reads."""
    return repr(thing).encode()


class Stage:
    """A world with one enabled endpoint, a process that accepts and settles, and a runner's ledger."""

    def __init__(self, world: World, pool: Pool, tenant: Tenant, account: str) -> None:
        self.world = world
        self.pool = pool
        self.tenant = tenant
        self.account = account
        self.holding = HoldingLedger(pool)
        self.replays = ReplayLedger(pool)
        self.wishes = Wishes(pool)
        self.links: list[Link] = []
        self.process: Process
        self.number = 0
        self.public_id = ""

    def steps(self, **options: Any) -> StepLedger:
        """Return a runner's ledger on a link of its own."""
        self.links.append(Link(self.world.url, "replays"))
        return StepLedger(self.links[-1], **options)

    async def endpoint(self, **columns: Any) -> tuple[int, str]:
        """Make an endpoint; return its number and its public id."""
        number = await self.world.endpoint(self.account, **columns)
        return number, await self.world.value("SELECT public_id FROM endpoint WHERE endpoint_id = $1", number)

    async def accept(self, n: int = 1, **event: Any) -> list[Delivery]:
        """Accept `n` events and return the deliveries that they made, once the feed may show the events."""
        made = await self.accept_unseen(n, **event)
        # Any transaction of the server that began earlier holds the feed back, autovacuum's too.
        while await self.world.value("SELECT EXISTS (SELECT FROM event WHERE xid >= feed_floor())"):
            pass
        return made

    async def accept_unseen(self, n: int = 1, **event: Any) -> list[Delivery]:
        """Accept `n` events and return the deliveries that they made."""
        batch = a_batch([an_event(self.account, **event) for _ in range(n)], part=next(_parts))
        placed = tuple(one._replace(event_day=one.event.occurred_at.date()) for one in batch.events)
        return list((await self.process.accept(batch._replace(events=placed))).fresh)

    async def settle(self, deliveries: Sequence[Delivery], kind: VerdictKind = VerdictKind.DELIVERED) -> None:
        """Let the attempts under way end so."""
        is_final = kind in (VerdictKind.DELIVERED, VerdictKind.EXHAUSTED)
        outcome = Outcome(OutcomeKind.DELIVERED if kind is VerdictKind.DELIVERED else OutcomeKind.HTTP_5XX, 0.01, 200)
        now = clock.mono()
        await self.process.settlements.settle(
            [
                Settlement(
                    one,
                    None if kind in (VerdictKind.HELD, VerdictKind.PARKED) else outcome,
                    Verdict(kind, one.attempts + 1, None if is_final else 0.0),
                    one.attempts + 1,
                    now,
                    now,
                )
                for one in deliveries
            ]
        )

    async def deliver_all(self) -> list[Delivery]:
        """Claim what is due and deliver it, until nothing is left; return everything in order."""
        done: list[Delivery] = []
        while claimed := await self.process.claim(rows_per_host=1_000):
            await self.settle(claimed)
            done += claimed
        return done

    async def run(self, steps: StepLedger | None = None, *, most: int = 500) -> None:
        """Take steps until no job has anything to do, rates and waits left out."""
        steps = steps or self.steps()
        for _ in range(most):
            await self.world.sql.execute("UPDATE replay SET ready_at = now() - interval '1 hour'")
            step = await steps.step()
            state = await self.world.value("SELECT count(*) FROM replay WHERE state = 'running'")
            if step is None or not state:
                return

    async def age(self, seconds: float = 60.0) -> None:
        """Let every job have been made so long ago."""
        await self.world.sql.execute("UPDATE replay SET created_at = created_at - make_interval(secs => $1)", seconds)

    async def drained(self) -> None:
        """Run everything to its end, as time would."""
        await self.age()
        # Any transaction of the server that began earlier holds the feed back, autovacuum's too.
        while await self.world.value("SELECT count(*) FROM replay WHERE state = 'running'"):
            await self.run(most=20)

    async def replay(self, wanted: Wanted, **selection: Any) -> Replay:
        """Ask for a replay of the endpoint."""
        chosen = Selection(wanted, **selection)
        expected = await self.replays.count(self.number, chosen)
        made = await self.replays.create(
            a_deed(self.tenant), self.public_id, chosen, rate=None, expected=expected, show=repr_bytes
        )
        assert isinstance(made, Replay)
        return made

    async def attempts(self) -> dict[bytes, int]:
        """Count the successes of each event at the endpoint."""
        rows = await self.world.rows(
            "SELECT event_id, count(*) AS n FROM attempt WHERE endpoint_id = $1 AND verdict = 'delivered' GROUP BY 1",
            self.number,
        )
        return {row["event_id"]: row["n"] for row in rows}

    async def event_ids(self) -> set[bytes]:
        """Return the id of every stored event that came from a producer."""
        query = "SELECT event_id FROM event WHERE event_type NOT LIKE ALL ('{endpoint.%,delivery.%}')"
        return {row["event_id"] for row in await self.world.rows(query)}


@asynccontextmanager
async def open_stage(url: str) -> AsyncIterator[Stage]:
    """Give a stage on a migrated database."""
    connection = await asyncpg.connect(url)
    await connection.execute("SET TIME ZONE 'UTC'")
    pool = await Pool.open(url)
    world = World(url, connection)
    account = await world.account()
    number = await world.value("SELECT account_id FROM account WHERE public_id = $1", account)
    stage = Stage(world, pool, Tenant(number, "live"), account)
    stage.number, stage.public_id = await stage.endpoint()
    stage.process = await world.process()
    try:
        yield stage
    finally:
        for link in stage.links:
            await link.aclose()
        for process in world.processes:
            await process.close()
        await pool.aclose()
        await connection.close()
