"""S1, S2 and S3 committed, and the answer lost on the way: the outcome is found out, never guessed (I12)."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from dispatcher.kit import clock
from dispatcher.kit.supervise import spawn
from dispatcher.lanes.courier import parked
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.errors import Unavailable
from dispatcher.model.outcome import Outcome, OutcomeKind, Phases, Verdict, VerdictKind
from tests.rooms.ledger_world import TOPIC, Process, World, a_batch, an_event, open_ledger
from tests.support.faults import FaultProxy
from tests.support.servers import DatabaseServer


@dataclass
class Far:
    """A replica whose answers can get lost, in a world that can be asked directly."""

    world: World
    process: Process
    proxy: FaultProxy
    account: str

    async def unanswered(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let Postgres do what is asked, and cut the line before its answer is through.

        The statement was run before on this connection: its first bytes are the answer to the whole.
        """
        self.proxy.downstream.drop()
        seen = self.proxy.downstream.n_bytes
        asking = spawn(work, name="asking")
        async with asyncio.timeout(10):
            await self.proxy.downstream.until(seen + 1)
        self.proxy.reset()
        self.proxy.heal()
        with pytest.raises(Unavailable):
            await asking

    async def accept(self, n: int, *, start: int) -> list[Delivery]:
        """Accept `n` events and return their deliveries."""
        batch = a_batch([an_event(self.account) for _ in range(n)], start=start)
        return list((await self.process.accept(batch)).fresh)


@pytest.fixture
async def far(postgres_server: DatabaseServer) -> AsyncIterator[Far]:
    server = urlsplit(postgres_server.url)
    assert server.hostname is not None
    assert server.port is not None
    before = asyncio.all_tasks()
    async with open_ledger(postgres_server) as world, FaultProxy.between(server.hostname, server.port) as proxy:
        account = await world.account()
        await world.endpoint(account)
        process = Process(world.url.replace(f":{server.port}/", f":{proxy.port}/"))
        world.processes.append(await process.open())
        yield Far(world, process, proxy, account)
    # What a closed connection leaves behind ends by itself, within a turn of the loop or two.
    async with asyncio.timeout(5):
        while {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}:
            await asyncio.sleep(0.01)


def delivered(delivery: Delivery) -> Settlement:
    now = clock.mono()
    outcome = Outcome(OutcomeKind.DELIVERED, 0.03, 200, Phases(0.001, 0.002, 0.003, 0.02), reason="", peer="127.0.0.1")
    return Settlement(delivery, outcome, Verdict(VerdictKind.DELIVERED, 1, None), 1, now - 0.05, now, (1,))


async def test_an_accept_without_an_answer_is_found_in_the_position_and_its_deliveries_are_adopted(far: Far) -> None:
    await far.accept(1, start=0)
    batch = a_batch([an_event(far.account) for _ in range(5)], start=1)

    await far.unanswered(far.process.intake.accept(batch))
    stands = await far.process.intake.positions(batch.log_id, [(TOPIC, 0)])
    again = await far.process.intake.accept(batch)
    adopted = await far.process.claims.adopt()

    assert stands == {(TOPIC, 0): 6}
    assert again.refused == {(TOPIC, 0)}
    assert {delivery.event_id for delivery in adopted} == {placed.event.event_id for placed in batch.events}
    assert await far.process.claims.adopt() == []
    assert await far.world.value("SELECT count(*) FROM delivery") == 6


async def settle_unanswered(far: Far) -> int:
    """Settle five deliveries, the answer lost, and again as the recorder does; return how many attempts there are."""
    first, *rest = await far.accept(6, start=0)
    await far.process.settlements.settle([delivered(first)])
    batch = [delivered(delivery) for delivery in rest]

    await far.unanswered(far.process.settlements.settle(batch))
    await far.process.settlements.settle(batch)

    assert await far.world.value("SELECT count(*) FROM delivery") == 0
    n: int = await far.world.value("SELECT count(*) FROM attempt")
    return n


async def test_a_settlement_without_an_answer_is_written_once(far: Far) -> None:
    assert await settle_unanswered(far) == 6
    assert far.process.replica.held == set()


async def test_a_delivery_claimed_before_its_settlement_is_answered_is_held_on(far: Far) -> None:
    first, delivery = await far.accept(2, start=0)
    await far.process.settlements.settle([delivered(first)])
    batch = [parked(delivery, 0.0, clock.mono())]

    await far.unanswered(far.process.settlements.settle(batch))
    (claimed,) = await far.process.claim()
    await far.process.settlements.settle(batch)

    # Were it not held, it would be adopted beside itself and sent twice.
    assert await far.process.claims.adopt() == []
    await far.process.settlements.settle([delivered(claimed)])
    assert far.process.replica.held == set()


async def test_without_its_number_a_repeated_settlement_would_be_recorded_twice(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = STATEMENTS["settle"]
    assert text.count(" AND flush_seq = $2 - 1") == 1
    monkeypatch.setitem(STATEMENTS, "settle", text.replace(" AND flush_seq = $2 - 1", ""))

    assert await settle_unanswered(far) == 6 + 5


async def test_rows_claimed_without_an_answer_are_adopted_once(far: Far) -> None:
    endpoint = await far.world.value("SELECT endpoint_id FROM endpoint")
    assert await far.process.claim() == []
    await far.world.waiting(far.account, endpoint, 7)

    await far.unanswered(far.process.claim())
    adopted = await far.process.claims.adopt()

    assert len(adopted) == 7
    assert all(delivery.body for delivery in adopted)
    assert await far.process.claims.adopt() == []
    assert await far.process.claim() == []
