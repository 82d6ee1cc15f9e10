"""What was learned about hosts reaches Postgres, however long that takes and whatever is learned meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dispatcher.kit import clock
from dispatcher.kit.supervise import spawn
from dispatcher.lanes.keeper import HostKeeper
from dispatcher.model.endpoint import HostLimits
from dispatcher.model.errors import Unavailable
from tests.support.hosts import HostRow, MemoryHosts

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]


class Lanes:
    """Remembers until when endpoints are paused here."""

    def __init__(self) -> None:
        self.until: dict[int, float] = {}

    def pause_host(self, host_id: int, seconds: float) -> None:
        pass

    def pause_endpoint(self, endpoint_id: int, seconds: float) -> None:
        self.until[endpoint_id] = clock.mono() + seconds

    def set_pauses(self, hosts: dict[int, float], endpoints: dict[int, float]) -> None:
        pass

    def set_replicas(self, n: int, rank: int) -> None:
        pass


class World:
    """A keeper between one host with two endpoints in memory and lanes that remember."""

    def __init__(self) -> None:
        self.hosts = MemoryHosts({1: HostRow(HostLimits(10.0, 10, 4))}, {1: 1, 2: 1})
        self.lanes = Lanes()
        self.limits: dict[int, HostLimits] = {}
        self.keeper = HostKeeper(self.hosts, on_limits=self.limits.__setitem__)
        self.keeper.lanes = self.lanes

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        task = spawn(self.keeper.run(), name="keeper")
        yield
        task.cancel()


async def test_a_longer_pause_that_is_asked_for_while_a_shorter_one_is_written_is_written_too() -> None:
    world = World()
    world.hosts.answer_seconds = 1.0

    async with world.keeping():
        world.keeper.pause(1, 1, None)
        await asyncio.sleep(0.5)
        world.keeper.pause(1, 1, 600.0)
        await asyncio.sleep(10.0)

    assert world.hosts.endpoints[1].paused_until > 500.0
    assert world.lanes.until[1] > 500.0


async def test_a_breaker_does_not_shorten_a_pause_that_was_asked_for_and_is_not_written_yet() -> None:
    world = World()

    async with world.keeping():
        await asyncio.sleep(0.5)
        world.keeper.pause(1, 1, 600.0)
        world.keeper.pause(1, 1, None)
        world.keeper.pause(1, 1, 20.0)
        await asyncio.sleep(1.0)

    assert world.hosts.endpoints[1].paused_until > 590.0
    assert world.lanes.until[1] > 590.0


async def test_what_could_not_be_written_is_written_when_postgres_is_back() -> None:
    world = World()
    world.hosts.rows[1].scale = 0.25
    world.hosts.endpoints[2].opens = 3
    world.hosts.fault = Unavailable("away")

    async with world.keeping():
        world.keeper.recovers(1)
        world.keeper.forgive(2)
        await asyncio.sleep(10.0)
        world.hosts.fault = None
        await asyncio.sleep(10.0)

    assert world.hosts.rows[1].scale > 0.25
    assert world.hosts.endpoints[2].opens == 0


async def test_a_host_is_slowed_down_after_an_outage_too() -> None:
    world = World()
    world.hosts.fault = Unavailable("away")

    async with world.keeping():
        world.keeper.slow_down(1)
        await asyncio.sleep(0.1)
        world.hosts.fault = None
        await asyncio.sleep(10.0)

    assert world.hosts.rows[1].scale == 0.5


async def test_limits_that_changed_during_a_long_outage_are_adopted_after_it() -> None:
    world = World()
    slow = HostLimits(1.0, 2, 1)

    async with world.keeping():
        await asyncio.sleep(100.0)
        world.hosts.fault = Unavailable("away")
        world.hosts.set_limits(1, slow)
        await asyncio.sleep(30.0)
        world.hosts.fault = None
        await asyncio.sleep(3.0)

    assert world.limits == {1: slow}


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.6, 0.9])
async def test_limits_set_anew_hold_on_every_replica_within_five_seconds(phase: float) -> None:
    world = World()
    world.hosts.answer_seconds = 0.5
    others: dict[int, HostLimits] = {}
    other = HostKeeper(world.hosts, on_limits=others.__setitem__)
    other.lanes = Lanes()
    slow = HostLimits(1.0, 2, 1)

    async with world.keeping():
        await asyncio.sleep(phase)
        second = spawn(other.run(), name="second")
        await asyncio.sleep(100.0)
        world.hosts.set_limits(1, slow)
        await asyncio.sleep(5.0)
        second.cancel()

    assert world.limits == others == {1: slow}


async def test_a_pause_that_cannot_be_written_holds_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    write, locked = world.hosts.pause, True

    async def pause(endpoint_id: int, host_id: int, seconds: float | None) -> tuple[float, float]:
        if endpoint_id == 1 and locked:
            raise Unavailable("the row is locked")
        return await write(endpoint_id, host_id, seconds)

    monkeypatch.setattr(world.hosts, "pause", pause)
    async with world.keeping():
        for endpoint_id in (1, 2):
            world.keeper.pause(endpoint_id, 1, 600.0)
        world.keeper.slow_down(1)
        await asyncio.sleep(5.0)
        world.hosts.set_limits(1, HostLimits(20.0, 10, 4))
        await asyncio.sleep(5.0)

        written = world.hosts.endpoints[2].paused_until
        locked = False
        await asyncio.sleep(5.0)

    assert written > 500.0
    assert world.hosts.rows[1].scale == 0.5
    assert world.limits[1] == HostLimits(20.0, 10, 4)
    assert world.hosts.endpoints[1].paused_until > 500.0
