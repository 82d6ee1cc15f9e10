"""The sweep: every named point of the program, each reached by a fresh process that dies, raises or hangs there."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from random import Random
from types import MappingProxyType
from typing import Final, NamedTuple

import asyncpg

from dispatcher.kit.failpoints import HANG, Point
from tests.chaos.world import ChaosWorld
from tests.support.daemon import Daemon

_DEATH_SECONDS: Final = 30.0
_OLD_DAY_SECONDS: Final = 0.1
_AFTERMATH_SECONDS: Final = 3.0
"""How long a process that raised may take to end; one that is still there then goes on."""

_TAKEOVER_AFTER_LEASES: Final = 2.0
"""A process judges others only after it has held its own lease for longer than one; what is dead waits 2 s more."""

_BEYOND_LEASE_SECONDS: Final = 4.0

MOST_HITS: Final[Mapping[Point, int]] = MappingProxyType(
    {
        Point.POLL: 20,
        Point.PARTITIONS_REVOKED: 1,
        Point.INTAKE_POLLED: 20,
        Point.ACCEPT_SENT: 20,
        Point.ACCEPT_ANSWERED: 20,
        Point.KAFKA_COMMITTED: 2,
        Point.ATTEMPT_LOOKED_UP: 4,
        Point.ATTEMPT_CONNECTED: 4,
        Point.ATTEMPT_WRITTEN: 60,
        Point.ATTEMPT_ANSWERED: 60,
        Point.SETTLE_SENT: 20,
        Point.SETTLE_ANSWERED: 20,
        Point.CLAIM_SENT: 4,
        Point.CLAIM_ANSWERED: 3,
        Point.REPLAY_STEPPED: 4,
        Point.TAKEOVER_LOCKED: 1,
        Point.STOPPING: 1,
        Point.DRAINING: 1,
        Point.DAYS_SENT: 1,
        Point.DAYS_MADE: 1,
        Point.DETACH_SENT: 1,
        Point.DAY_DETACHED: 1,
    }
)
"""How far into a process's life a point may be armed, so that it is hit within seconds."""


class Action(StrEnum):
    """What a process does at a point; `HANG` outlasts its lease."""

    KILL = "kill"
    RAISE = "raise"
    HANG = HANG


class Target(NamedTuple):
    """A point and what is to happen there."""

    point: Point
    action: Action = Action.KILL


class Cycle(NamedTuple):
    """What one cycle did. `n_kills` counts processes killed or frozen; `reached` is false when nothing happened."""

    name: str
    n_kills: int
    exposed: int
    seconds: float
    reached: bool = True
    target: Target | None = None


class Sweep:
    """Runs cycles at points of one world, choosing by `chance`."""

    def __init__(self, world: ChaosWorld, chance: Random) -> None:
        self._world = world
        self._processes = world.processes
        self._chance = chance

    async def cycle(self, target: Target) -> Cycle:
        """Arm a fresh process and wait until it has done what it was told to. Its place is filled again."""
        began = time.monotonic()
        point, action = target
        armed = f"{point}:{self._chance.randint(1, MOST_HITS[point])}:{action}"
        if action is Action.HANG:
            armed += f":{self._world.size.lease_seconds + _BEYOND_LEASE_SECONDS}"
        n_before = len(self._processes.faults)
        slot = await self._free_slot()
        victim = self._processes.make(slot, armed)
        async with self._something_to_drop(point):
            await victim.launch()
            await self._lead_to(point, victim, slot)
            reached = await self._until(lambda: _has_spoken(victim), _DEATH_SECONDS)
        self._processes.died(victim, armed)
        how = await self._aftermath(victim, action)
        self._processes.ends[how] += 1
        if not victim.is_running:
            await self._processes.make(slot).launch()
        await self.fill()
        exposed = sum(fault.exposed for fault in self._processes.faults[n_before:])
        n_kills = len(self._processes.faults) - n_before
        return Cycle(armed, n_kills, exposed, time.monotonic() - began, reached, target)

    @asynccontextmanager
    async def _something_to_drop(self, point: Point) -> AsyncIterator[None]:
        """See to it that there is an old day where one is needed: again and again, for all processes drop it."""

        async def make() -> None:
            while True:
                # It is refused while the day stands half-detached.
                with contextlib.suppress(asyncpg.PostgresError):
                    await self._world.world.fetch("SELECT make_day((now() AT TIME ZONE 'UTC')::date - 40)")
                await asyncio.sleep(_OLD_DAY_SECONDS)

        if point not in (Point.DETACH_SENT, Point.DAY_DETACHED):
            yield
            return
        making = asyncio.get_running_loop().create_task(make(), name="old-day")
        try:
            yield
        finally:
            making.cancel()
            await asyncio.wait([making])
            if not making.cancelled():
                making.result()

    async def _lead_to(self, point: Point, victim: Daemon, slot: int) -> None:
        """Do what it takes for a process to come to a point that it does not come to by itself."""
        if point in (Point.STOPPING, Point.DRAINING):
            await self._until(lambda: victim.is_ready, _DEATH_SECONDS)
            victim.send(signal.SIGTERM)
        elif point is Point.REPLAY_STEPPED:
            # Replays of an earlier cycle may lead it there before it is ready.
            await self._until(lambda: victim.is_ready or _has_spoken(victim), _DEATH_SECONDS)
            await self._world.replay()
        elif point is Point.PARTITIONS_REVOKED:
            await self._until(lambda: victim.is_ready, _DEATH_SECONDS)
            await self._retire_others(slot, most=1)
        elif point is Point.TAKEOVER_LOCKED:
            # It alone can take over: it lives for long enough to judge, and then all the others die.
            await self._until(lambda: victim.is_ready, _DEATH_SECONDS)
            await asyncio.sleep(self._world.size.lease_seconds + _TAKEOVER_AFTER_LEASES)
            await self._retire_others(slot, most=len(self._processes.slots))

    async def _retire_others(self, slot: int, *, most: int) -> None:
        others = [one for other, one in enumerate(self._processes.slots) if other != slot and one.is_running]
        for daemon in others[:most]:
            await self._processes.kill(daemon)

    async def _aftermath(self, victim: Daemon, action: Action) -> str:
        """Return what became of a process that did what it was told."""
        seconds = _AFTERMATH_SECONDS
        if action is Action.HANG:
            seconds += self._world.size.lease_seconds + _BEYOND_LEASE_SECONDS
        try:
            code = await victim.wait(seconds)
        except TimeoutError:
            if action is Action.KILL:
                await victim.kill()
                return "did not come to its point"
            self._processes.went_on(victim)
            return f"went on after {action}"
        return f"{action}, exit {code}"

    async def fill(self) -> None:
        """Start a process in every slot whose own has ended, and wait for one that is ready."""
        for slot, daemon in enumerate(self._processes.slots):
            if not daemon.is_running:
                await self._processes.make(slot).launch()
        await self._until(lambda: bool(self._processes.ready()), _DEATH_SECONDS)

    async def _free_slot(self) -> int:
        """Return a slot whose process has ended; kill one that is ready where all live."""
        for slot, daemon in enumerate(self._processes.slots):
            if not daemon.is_running:
                return slot
        await self._until(lambda: bool(self._processes.ready()), _DEATH_SECONDS)
        slot = self._chance.choice(self._processes.ready())
        await self._processes.kill(self._processes.slots[slot])
        return slot

    @staticmethod
    async def _until(holds: Callable[[], bool], seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not holds():
                    await asyncio.sleep(0.02)
        return holds()


def _has_spoken(daemon: Daemon) -> bool:
    return daemon.log.exists() and "failpoint " in daemon.log.read_text(errors="replace")
