"""What waits in Postgres comes back: in time, only while there is room, and after any outage."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from dispatcher.lanes.due import DueReader
from dispatcher.model.batch import ClaimWish
from dispatcher.model.delivery import Delivery
from dispatcher.model.errors import Fenced, Unavailable
from tests.support.builders import a_delivery

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]


class Claims:
    """Hands out what it was given, and remembers how it was asked."""

    def __init__(self) -> None:
        self.due: list[list[Delivery]] = []
        self.lost: list[list[Delivery]] = []
        self.faults: list[Exception] = []
        self.adopt_faults: list[Exception] = []
        self.asked: list[tuple[list[int], list[int], list[tuple[int, int]]]] = []
        self.most_bytes = 0
        self.n_backlog_looks = 0
        self.adopted_at: list[float] = []
        self.strays = False

    async def backlog(self) -> list[tuple[int, int]]:
        self.n_backlog_looks += 1
        return [(77, 7)]

    async def claim(self, wish: ClaimWish) -> list[Delivery]:
        assert wish.rows_per_host * wish.n_hosts <= 2_000
        self.most_bytes = wish.most_bytes
        self.asked.append((list(wish.full_hosts), list(wish.full_endpoints), list(wish.backlog)))
        if self.faults:
            raise self.faults.pop(0)
        return self.due.pop(0) if self.due else []

    async def adopt(self) -> list[Delivery]:
        self.adopted_at.append(asyncio.get_running_loop().time())
        if self.adopt_faults:
            raise self.adopt_faults.pop(0)
        return self.lost.pop(0) if self.lost else []

    async def has_strays(self) -> bool:
        return self.strays


class Lanes:
    """Has room, or not."""

    def __init__(self) -> None:
        self.room = True
        self.room_bytes = 1_000_000_000
        self.credits: list[tuple[int, int, float]] = []

    def has_room(self) -> bool:
        return self.room

    def full_hosts(self) -> list[int]:
        return [5]

    def unwilling_endpoints(self) -> list[int]:
        return [6]

    def credit(self, host_id: int, n: int, sent: float) -> None:
        self.credits.append((host_id, n, sent))


class World:
    """A due-reader with its fakes."""

    def __init__(self) -> None:
        self.claims, self.lanes = Claims(), Lanes()
        self.submitted: list[Delivery] = []
        self.n_adopted = 0
        self.known: list[Delivery] = []
        self.known_before_credits = False
        self.reader = DueReader(
            self.claims,
            self.lanes,
            self._submit,
            learn=self._learn,
            on_adopted=self._adopted,
            jitter=lambda: 1.0,
        )

    async def _learn(self, deliveries: Sequence[Delivery]) -> None:
        self.known_before_credits = not self.lanes.credits
        self.known = list(deliveries)

    async def _submit(self, deliveries: Sequence[Delivery]) -> None:
        self.submitted += deliveries

    def _adopted(self, n_deliveries: int) -> None:
        self.n_adopted += n_deliveries

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.get_running_loop().create_task(self.reader.run())
        yield
        self.reader.stop()
        async with asyncio.timeout(5):
            await task


async def test_due_rows_are_handed_on_within_half_a_second() -> None:
    world, deliveries = World(), [a_delivery(), a_delivery()]
    world.claims.due = [deliveries]

    async with world.running():
        await asyncio.sleep(0.5)

    assert world.submitted == deliveries
    assert world.claims.asked[0] == ([5], [6], [(77, 7)])


async def test_limits_of_hosts_are_read_before_their_tokens_are_taken() -> None:
    world, deliveries = World(), [a_delivery(host_id=1), a_delivery(host_id=2)]
    world.claims.due = [deliveries]

    async with world.running():
        await asyncio.sleep(0.5)

    assert world.known == deliveries
    assert world.known_before_credits
    assert [credit[:2] for credit in world.lanes.credits] == [(1, 1), (2, 1)]


async def test_nothing_is_claimed_while_there_is_no_room() -> None:
    world = World()
    world.lanes.room = False

    async with world.running():
        await asyncio.sleep(10)
        assert world.claims.asked == []
        world.lanes.room = True
        await asyncio.sleep(1)

    assert world.claims.asked


async def test_the_backlog_is_looked_for_every_five_seconds() -> None:
    world = World()

    async with world.running():
        await asyncio.sleep(21)

    assert world.claims.n_backlog_looks in (4, 5)


@pytest.mark.parametrize(("host", "n_rows", "least", "most"), [(77, 3, 80, 100), (78, 3, 24, 26), (78, 5, 80, 100)])
async def test_a_backlog_is_looked_at_again_soon_however_few_rows_its_host_gives_at_a_time(
    host: int, n_rows: int, least: int, most: int
) -> None:
    world = World()
    world.claims.due = [[a_delivery(host_id=host, endpoint_id=7) for _ in range(n_rows)] for _ in range(500)]

    async with world.running():
        await asyncio.sleep(10)
        n_looks = len(world.claims.asked)

    assert least <= n_looks <= most


async def test_an_outage_is_waited_out() -> None:
    world, delivery = World(), a_delivery()
    world.claims.faults = [Unavailable("away")] * 5
    world.claims.due = [[delivery]]

    async with world.running():
        await asyncio.sleep(5)

    assert world.submitted == [delivery]


async def test_after_a_lost_answer_own_rows_are_looked_for_twice() -> None:
    world, found = World(), [a_delivery()]
    world.claims.lost = [[], found]
    began = asyncio.get_running_loop().time()

    async with world.running():
        world.reader.answer_was_lost()
        await asyncio.sleep(10)

    first, second, and_no_more = (at - began for at in world.claims.adopted_at)
    assert first < 1.0
    assert 6.0 <= second < and_no_more < 8.0
    assert (world.submitted, world.n_adopted) == (found, 1)


async def test_rows_that_became_ours_at_any_time_are_found_within_a_minute() -> None:
    world, found = World(), [a_delivery()]
    world.claims.lost = [found]

    async with world.running():
        await asyncio.sleep(30)
        world.claims.strays = True
        await asyncio.sleep(31)

    assert (world.submitted, world.n_adopted) == (found, 1)


async def test_without_a_sign_of_them_nobody_looks_for_own_rows() -> None:
    world = World()

    async with world.running():
        await asyncio.sleep(200)

    assert world.claims.adopted_at == []


async def test_being_taken_over_ends_it() -> None:
    world = World()
    world.claims.faults = [Fenced("taken over")]

    with pytest.raises(Fenced):
        await world.reader.run()


async def test_a_look_for_own_rows_that_fails_is_taken_again() -> None:
    world, found = World(), [a_delivery()]
    world.claims.lost = [found]
    world.claims.adopt_faults = [Unavailable("away")] * 3

    async with world.running():
        world.reader.answer_was_lost()
        await asyncio.sleep(3)

    assert (world.submitted, world.n_adopted) == (found, 1)


async def test_own_rows_are_looked_for_bit_by_bit_until_there_are_no_more_and_only_while_there_is_room() -> None:
    world, found = World(), [[a_delivery()] for _ in range(5)]
    world.claims.lost = [*found]
    world.lanes.room = False

    async with world.running():
        world.reader.answer_was_lost()
        await asyncio.sleep(3)
        assert world.claims.adopted_at == []
        world.lanes.room = True
        await asyncio.sleep(3)

    assert world.submitted == [delivery for some in found for delivery in some]
    assert world.n_adopted == 5


async def test_own_rows_that_cannot_be_found_keep_nothing_from_being_claimed() -> None:
    world, delivery = World(), a_delivery()
    world.claims.adopt_faults = [Unavailable("too long")] * 1_000
    world.claims.due = [[], [], [delivery]]

    async with world.running():
        world.reader.answer_was_lost()
        await asyncio.sleep(3)

    assert world.submitted == [delivery]


async def test_no_more_bytes_are_claimed_than_there_is_room_for() -> None:
    world = World()

    async with world.running():
        await asyncio.sleep(1)
        assert world.claims.most_bytes == 16 * 1_048_576
        world.lanes.room_bytes = 70_000
        await asyncio.sleep(1)

    assert world.claims.most_bytes == 70_000


async def test_the_last_success_stands_still_while_postgres_is_away() -> None:
    world = World()
    world.claims.faults = [Unavailable("away")] * 1_000
    began = world.reader.last_success

    async with world.running():
        await asyncio.sleep(10)
        assert world.reader.last_success == began
        world.claims.faults = []
        await asyncio.sleep(1)

    assert world.reader.last_success >= began + 10
