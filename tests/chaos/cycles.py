"""The ways to hurt a world: each cycle harms one process or the database, waits for the harm, and repairs it."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import Final, NamedTuple

from dispatcher.kit.failpoints import Point
from tests.chaos.world import ChaosWorld
from tests.support.daemon import Daemon

_DEATH_SECONDS: Final = 25.0
_TAKEOVER_AFTER_LEASES: Final = 2.0
"""A process judges others only after it has held its own lease for longer than one; what is dead waits 2 s more."""

MOST_HITS: Final[Mapping[Point, int]] = MappingProxyType(
    {
        Point.POLL: 20,
        Point.INTAKE_POLLED: 20,
        Point.ACCEPT_SENT: 20,
        Point.ACCEPT_ANSWERED: 20,
        Point.KAFKA_COMMITTED: 2,
        Point.ATTEMPT_WRITTEN: 60,
        Point.ATTEMPT_ANSWERED: 60,
        Point.SETTLE_SENT: 20,
        Point.SETTLE_ANSWERED: 20,
        Point.CLAIM_SENT: 4,
        Point.CLAIM_ANSWERED: 3,
        Point.TAKEOVER_LOCKED: 1,
        Point.STOPPING: 1,
        Point.DAYS_SENT: 1,
        Point.DAYS_MADE: 1,
        Point.DETACH_SENT: 1,
        Point.DAY_DETACHED: 1,
    }
)
"""How far into a process's life a point may be armed, so that it is hit within seconds."""


_REPAIR: Final = 0.3
"""How often a cycle at a point is followed by a repair, so that the next one harms another place."""


class Cycle(NamedTuple):
    """What one cycle did. `n_kills` counts processes killed or frozen; `reached` is false when nothing happened."""

    name: str
    n_kills: int
    exposed: int
    seconds: float
    reached: bool = True


class Tormentor:
    """Runs cycles against one world, choosing by `chance`."""

    def __init__(self, world: ChaosWorld, chance: Random) -> None:
        self._world = world
        self._processes = world.processes
        self._chance = chance

    async def at_point(self, point: Point) -> Cycle:
        """Arm a fresh process with one point and wait for its death. Its place is the next one's, or is repaired."""
        began = time.monotonic()
        armed = f"{point}:{self._chance.randint(1, MOST_HITS[point])}"
        n_before = len(self._processes.faults)
        slot = await self._free_slot()
        victim = self._processes.make(slot, armed)
        if point in (Point.DETACH_SENT, Point.DAY_DETACHED):
            # So that there is something to drop.
            await self._processes.world.fetch("SELECT make_day((now() AT TIME ZONE 'UTC')::date - 40)")
        ready = await victim.launch()
        if point is Point.TAKEOVER_LOCKED:
            await self._leave_it_to(victim, slot, ready.exists)
        elif point is Point.STOPPING:
            await _until(ready.exists, _DEATH_SECONDS)
            victim.send(signal.SIGTERM)
        reached = await self._dies_by_itself(victim)
        self._processes.died(victim, armed, 0)
        if self._chance.random() < _REPAIR or point is Point.TAKEOVER_LOCKED:
            await self.repair()
        exposed = sum(fault.exposed for fault in self._processes.faults[n_before:])
        n_kills = len(self._processes.faults) - n_before
        return Cycle(armed, n_kills, exposed, time.monotonic() - began, reached)

    async def at_random(self) -> Cycle:
        """Do something at no particular moment."""
        await self.repair()
        await asyncio.sleep(self._chance.uniform(0.0, 1.0))
        acts: tuple[Callable[[], Awaitable[Cycle]], ...] = (self._kill, self._freeze, self._restart, self._crash)
        (act,) = self._chance.choices(acts, weights=(12, 2, 3, 3))
        return await act()

    async def repair(self) -> None:
        """Start a process in every slot whose own has ended."""
        async with asyncio.TaskGroup() as group:
            for slot, daemon in enumerate(self._processes.slots):
                if not daemon.is_running:
                    group.create_task(self._processes.make(slot).start())

    async def _kill(self) -> Cycle:
        slot, victim = self._pick()
        began = time.monotonic()
        exposed = await self._processes.exposed(victim)
        await victim.kill()
        fault = self._processes.died(victim, "kill -9", exposed)
        await self._processes.make(slot).start()
        return Cycle(f"kill -9 {victim.name}", 1, fault.exposed, time.monotonic() - began)

    async def _freeze(self) -> Cycle:
        """Stop a process in its tracks for longer than its lease; when it wakes it must find itself replaced."""
        slot, victim = self._pick()
        began = time.monotonic()
        exposed = await self._processes.exposed(victim)
        victim.send(signal.SIGSTOP)
        fault = self._processes.died(victim, "SIGSTOP", exposed)
        replacement = self._processes.make(slot)
        try:
            await replacement.start()
            await asyncio.sleep(max(0.0, self._world.size.lease_seconds + 4.0 - (time.monotonic() - began)))
        finally:
            victim.send(signal.SIGCONT)
        try:
            code = await victim.wait(_DEATH_SECONDS)
        except TimeoutError:
            # Nobody was there for long enough to take over: it lives on, one too many.
            await victim.kill()
            code = -signal.SIGKILL
        return Cycle(f"SIGSTOP {victim.name}, exit {code}", 1, fault.exposed, time.monotonic() - began, code != 0)

    async def _restart(self) -> Cycle:
        slot, victim = self._pick()
        began = time.monotonic()
        code = await victim.stop()
        await self._processes.make(slot).start()
        return Cycle(f"SIGTERM {victim.name}, exit {code}", 0, 0, time.monotonic() - began, code == 0)

    async def _crash(self) -> Cycle:
        began = time.monotonic()
        self._world.postgres.crash()
        await asyncio.sleep(self._chance.uniform(0.0, 1.5))
        self._world.postgres.recover()
        return Cycle("Postgres crashed and recovered", 0, 0, time.monotonic() - began)

    def _pick(self) -> tuple[int, Daemon]:
        slot = self._chance.randrange(self._world.size.n_processes)
        return slot, self._processes.slots[slot]

    async def _free_slot(self) -> int:
        """Return a slot whose process has ended; kill one where all live."""
        for slot, daemon in enumerate(self._processes.slots):
            if not daemon.is_running:
                return slot
        slot, victim = self._pick()
        await self._retire(victim)
        return slot

    async def _retire(self, daemon: Daemon) -> None:
        exposed = await self._processes.exposed(daemon)
        await daemon.kill()
        self._processes.died(daemon, "kill -9", exposed)

    async def _leave_it_to(self, victim: Daemon, slot: int, is_ready: Callable[[], bool]) -> None:
        """Let one process live long enough to judge others, then kill all the others: it alone can take over."""
        await _until(is_ready, _DEATH_SECONDS)
        await asyncio.sleep(self._world.size.lease_seconds + _TAKEOVER_AFTER_LEASES)
        for other, daemon in enumerate(self._processes.slots):
            if other != slot and daemon.is_running and victim.is_running:
                await self._retire(daemon)

    async def _dies_by_itself(self, victim: Daemon) -> bool:
        try:
            await victim.wait(_DEATH_SECONDS)
        except TimeoutError:
            await victim.kill()
            return False
        assert victim.process is not None
        return victim.process.returncode == -signal.SIGKILL and "failpoint " in victim.log.read_text(errors="replace")


async def _until(holds: Callable[[], bool], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.02)
