"""Where to send, kept in memory: fresh within a second, loaded in one go, one bad secret harming nobody else."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from dispatcher.directory import Directory
from dispatcher.model.endpoint import EndpointStatus, HostLimits, SealedKey, SealedTarget, Target
from dispatcher.model.errors import SealBroken, Unavailable

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]

LIMITS = HostLimits(100.0, 100, 64)
READ_AT = dt.datetime(2026, 11, 3, 9, tzinfo=dt.UTC)


def a_row(number: int = 1) -> SealedTarget:
    """Return an endpoint's row."""
    return SealedTarget(
        endpoint_id=number,
        public_id=f"we_{number}",
        account="acct_5hQ2vN8rTb",
        environment="live",
        status=EndpointStatus.ENABLED,
        host_id=10 + number,
        url="https://example.com/hook?x=1",
        sealed_headers=None,
        sealed_keys=(SealedKey(9, b"new", None), SealedKey(7, b"old", READ_AT + dt.timedelta(hours=1))),
        read_at=READ_AT,
        schedule=None,
        is_verified=True,
        limits=LIMITS,
    )


class Book:
    """Rows by number, and what changed lately."""

    def __init__(self, *rows: SealedTarget) -> None:
        self.rows = {row.endpoint_id: row for row in rows}
        self.changes: list[int] = []
        self.asked: list[list[int]] = []
        self.is_away = False
        self.seconds = 0.0

    async def targets(self, endpoint_ids: Collection[int]) -> list[SealedTarget]:
        if self.is_away:
            raise Unavailable("away")
        self.asked.append(sorted(endpoint_ids))
        await asyncio.sleep(self.seconds)
        return [self.rows[number] for number in endpoint_ids if number in self.rows]

    async def changed(self, within_seconds: float) -> list[int]:
        assert within_seconds > 5
        if self.is_away:
            raise Unavailable("away")
        return self.changes


class Seals:
    """Opens everything but what is broken, until it is mended."""

    is_mended = False

    def open(self, sealed: bytes, place: str) -> bytes:
        assert place.startswith(("endpoint_secret:we_", "endpoint_headers:we_"))
        if sealed == b"broken" and not self.is_mended:
            raise SealBroken(place)
        return b"{}" if place.startswith("endpoint_headers") else b"open " + sealed


class World:
    """A directory with its fakes."""

    def __init__(self, *rows: SealedTarget) -> None:
        self.book = Book(*rows)
        self.seals = Seals()
        self.limits: dict[int, HostLimits] = {}
        self.directory = Directory(
            self.book,
            self.seals,
            schedules={"live": (0.0, 5.0), "test": (0.0,)},
            default_limits=HostLimits(1.0, 1, 1),
            on_limits=self.limits.__setitem__,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.get_running_loop().create_task(self.directory.run())
        yield
        task.cancel()

    async def target(self, number: int) -> Target:
        found = await self.directory.target(number)
        assert found is not None
        return found


async def test_a_target_holds_everything_that_sending_needs() -> None:
    world = World(a_row())

    target = await world.target(1)

    assert (target.scheme, target.hostname, target.port, target.path) == ("https", "example.com", 443, "/hook?x=1")
    assert [(key.key_id, key.key) for key in target.keys] == [(9, b"open new"), (7, b"open old")]
    assert target.schedule == (0.0, 5.0)
    assert world.limits == {11: LIMITS}
    assert (world.directory.limits_of(11), world.directory.limits_of(99)) == (LIMITS, HostLimits(1.0, 1, 1))
    assert "open" not in repr(target)


async def test_limits_that_somebody_else_read_hold_for_whoever_asks_later() -> None:
    world, slow = World(a_row()), HostLimits(2.0, 1, 1)
    await world.target(1)

    world.directory.adopt_limits(11, slow)

    assert world.limits == {11: slow}
    assert world.directory.limits_of(11) == slow


async def test_a_batch_is_loaded_in_one_query_and_known_ones_cost_none() -> None:
    world = World(a_row(1), a_row(2))

    await world.directory.load([1, 2, 2, 1])
    await world.directory.load([1, 2])
    await world.target(1)

    assert world.book.asked == [[1, 2]]


async def test_an_endpoint_that_does_not_exist_is_none() -> None:
    assert await World().directory.target(1) is None


async def test_a_change_is_seen_within_about_a_second_and_what_did_not_change_stays_the_same_object() -> None:
    world = World(a_row(1), a_row(2))
    one, two = await world.target(1), await world.target(2)
    world.book.rows[1] = replace(a_row(1), url="https://other.example/", limits=HostLimits(5.0, 5, 5))
    world.book.changes = [1, 2, 3]

    async with world.running():
        await asyncio.sleep(1.5)

    changed = await world.target(1)
    assert changed is not one
    assert changed.hostname == "other.example"
    assert await world.target(2) is two
    assert world.limits[11] == HostLimits(5.0, 5, 5)


async def test_a_vanished_row_is_forgotten() -> None:
    world = World(a_row())
    await world.target(1)
    del world.book.rows[1]
    world.book.changes = [1]

    async with world.running():
        await asyncio.sleep(1.5)

    assert await world.directory.target(1) is None


async def test_everything_is_read_again_once_a_minute() -> None:
    world = World(a_row())
    await world.target(1)
    # What somebody takes away by hand leaves no trace in what changed.
    world.book.rows[1] = replace(a_row(), sealed_keys=(SealedKey(9, b"new", None),))

    async with world.running():
        await asyncio.sleep(61)

    assert [key.key_id for key in (await world.target(1)).keys] == [9]


async def test_a_secret_whose_time_is_over_signs_no_more_from_that_moment_on_even_in_an_outage() -> None:
    world = World(a_row())
    both = await world.target(1)
    world.book.is_away = True

    async with world.running():
        await asyncio.sleep(3_599.5)
        assert await world.target(1) is both
        await asyncio.sleep(0.5)
        left = await world.target(1)

    assert [key.key_id for key in left.keys] == [9]
    assert await world.target(1) is left


async def test_a_slow_answer_makes_no_secret_live_longer() -> None:
    world = World(a_row())
    world.book.seconds = 2.0
    await world.target(1)

    await asyncio.sleep(3_598.0)

    assert [key.key_id for key in (await world.target(1)).keys] == [9]


async def test_reading_the_same_row_later_changes_nothing() -> None:
    world = World(a_row())
    target = await world.target(1)
    world.book.rows[1] = replace(a_row(), read_at=READ_AT + dt.timedelta(seconds=60))

    async with world.running():
        await asyncio.sleep(61)

    assert await world.target(1) is target


async def test_an_outage_leaves_what_is_known() -> None:
    world = World(a_row())
    target = await world.target(1)
    world.book.is_away = True

    async with world.running():
        await asyncio.sleep(5)
        assert await world.target(1) is target
        with pytest.raises(Unavailable):
            await world.directory.target(2)


async def test_a_secret_that_does_not_open_quarantines_its_own_endpoint_alone() -> None:
    world = World(replace(a_row(1), sealed_keys=(SealedKey(9, b"broken", None),)), a_row(2))
    await world.directory.load([1, 2])

    with pytest.raises(SealBroken):
        await world.directory.target(1)
    assert (await world.target(2)).endpoint_id == 2


async def test_a_secret_that_opens_again_ends_the_quarantine_though_its_row_never_changed() -> None:
    world = World(replace(a_row(1), sealed_keys=(SealedKey(9, b"broken", None),)))
    with pytest.raises(SealBroken):
        await world.directory.target(1)

    world.seals.is_mended = True
    async with world.running():
        await asyncio.sleep(61)

    assert [key.key_id for key in (await world.target(1)).keys] == [9]


async def test_two_who_need_the_same_endpoint_at_once_ask_once() -> None:
    world = World(a_row(1), a_row(2))
    world.book.seconds = 0.1

    async with asyncio.TaskGroup() as group:
        group.create_task(world.directory.load([1]))
        group.create_task(world.directory.load([1, 2]))
        group.create_task(world.directory.load([2]))

    assert world.book.asked == [[1], [2]]


async def test_closing_holds_at_once_and_forgetting_reads_again() -> None:
    world = World(a_row())
    await world.target(1)

    world.directory.close(1, 11)
    assert (await world.target(1)).status is EndpointStatus.DISABLED
    world.directory.forget(1)

    assert (await world.target(1)).status is EndpointStatus.ENABLED
    assert world.book.asked == [[1], [1]]


async def test_a_host_that_the_endpoint_has_left_neither_proves_nor_closes_it() -> None:
    world = World(replace(a_row(), is_verified=False))
    await world.target(1)

    world.directory.close(1, 99)
    assert not world.directory.prove(1, 99)
    target = await world.target(1)
    assert (target.status, target.is_verified) == (EndpointStatus.ENABLED, False)

    assert world.directory.prove(1, 11)
    assert not world.directory.prove(1, 11)
    assert (await world.target(1)).is_verified
