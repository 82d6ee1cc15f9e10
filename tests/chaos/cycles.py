"""The ways to hurt a world: each cycle harms one process, its links or the database, and repairs what it can.

A cycle at random does not wait for the process that it starts: the next one takes whoever is ready. One process, the
oldest, is spared until it has lived for several leases, for only one that has held its lease for longer than one may
judge the others.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

from tests.chaos.points import Cycle
from tests.chaos.world import ChaosWorld
from tests.support.daemon import Daemon

_DEATH_SECONDS: Final = 25.0
_READY_SECONDS: Final = 60.0
_ELDER_LEASES: Final = 4.0
_N_SPOILERS: Final = 2
_LONGEST_LIFE_SECONDS: Final = 2.0
_BEYOND_LEASE_SECONDS: Final = 5.0
"""Whoever is silent for a lease and this is taken over by then, if anybody is there to do it."""


class Tormentor:
    """Runs cycles at random against one world, choosing by `chance`; `tell` is told of each when it is over."""

    def __init__(self, world: ChaosWorld, chance: Random, tell: Callable[[Cycle], None]) -> None:
        self._world = world
        self._processes = world.processes
        self._chance = chance
        self._tell = tell
        # Names of those that are about to be harmed, and of those whose links are.
        self._spared: set[str] = set()
        self._spoilt: set[str] = set()

    async def run(self, n_cycles: int, until: float) -> None:
        """Run so many cycles, beginning none after monotonic time `until`, while links are spoilt all the time."""
        quick = (self._kill, self._restart, self._rescale, self._crash)
        slow = (self._freeze, self._cut_off)
        waiting: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as group:
            spoiling = [group.create_task(self._spoil_links()) for _ in range(_N_SPOILERS)]
            for _ in range(n_cycles):
                if time.monotonic() > until:
                    break
                await self._repair()
                (act,) = self._chance.choices((*quick, *slow), weights=(30, 2, 2, 2, 2, 1))
                if act not in slow:
                    await self._do(act)
                elif waiting is None or waiting.done():
                    # Others die meanwhile.
                    waiting = group.create_task(self._do(act))
                else:
                    await self._do(self._kill)
            if waiting is not None:
                await waiting
            for task in spoiling:
                task.cancel()

    async def _do(self, act: Callable[[], Awaitable[Cycle]]) -> None:
        self._tell(await act())

    async def _repair(self) -> None:
        """Start a process in every slot whose own has ended."""
        for slot, daemon in enumerate(list(self._processes.slots)):
            if slot < len(self._processes.slots) and self._processes.is_free(slot):
                await self._processes.launch(slot, after=daemon)

    async def _spoil_links(self) -> None:
        """Spoil links of processes that are ready, one after the other, until canceled."""
        while True:
            await asyncio.sleep(self._chance.uniform(0.1, 1.0))
            names = {self._processes.slots[slot].name for slot in self._processes.ready()}
            if free := sorted(names - self._spoilt - self._spared):
                name = self._chance.choice(free)
                self._spoilt.add(name)
                try:
                    await self._world.links.spoil(name, self._chance)
                finally:
                    self._spoilt.discard(name)

    async def _kill(self) -> Cycle:
        began = time.monotonic()
        slot, victim = await self._pick()
        fault = await self._processes.kill(victim)
        await self._processes.launch(slot, after=victim)
        return Cycle("kill -9", 1, fault.exposed, time.monotonic() - began)

    async def _freeze(self) -> Cycle:
        """Stop a process in its tracks for longer than its lease; when it wakes it must find itself replaced."""
        began = time.monotonic()
        slot, victim = await self._pick()
        fault = await self._processes.freeze(victim, "SIGSTOP")
        try:
            await self._processes.launch(slot, after=victim)
            await asyncio.sleep(self._world.size.lease_seconds + _BEYOND_LEASE_SECONDS)
        finally:
            victim.send(signal.SIGCONT)
        code = await self._ends(victim)
        return Cycle("SIGSTOP beyond the lease", 1, fault.exposed, time.monotonic() - began, code != 0)

    async def _cut_off(self) -> Cycle:
        """Keep a process from Postgres for longer than its lease; it must send nothing, and find itself replaced."""
        began = time.monotonic()
        _, victim = await self._pick()
        self._spoilt.add(victim.name)
        at = time.time()
        first = await self._processes.freeze(victim, "cut off")
        cut = asyncio.get_running_loop().create_task(
            self._world.links.cut_off(victim.name, self._world.size.lease_seconds + _BEYOND_LEASE_SECONDS)
        )
        victim.send(signal.SIGCONT)
        try:
            await cut
            more = self._processes.blame(victim, "cut off", self._processes.sent_since(victim.name, at))
            code = await self._ends(victim)
        finally:
            self._spoilt.discard(victim.name)
        exposed = first.exposed + more.exposed
        return Cycle("cut off beyond the lease", 1, exposed, time.monotonic() - began, code != 0)

    async def _restart(self) -> Cycle:
        began = time.monotonic()
        slot, victim = await self._pick()
        code = await self._stop(victim)
        await self._processes.launch(slot, after=victim)
        return Cycle(f"SIGTERM, exit {code}", 0, 0, time.monotonic() - began, code == 0)

    async def _rescale(self) -> Cycle:
        """Let there be another number of processes, from one to the most."""
        began = time.monotonic()
        processes = self._processes
        n = self._chance.choice([one for one in range(1, self._world.size.most + 1) if one != len(processes.slots)])
        before = len(processes.slots)
        codes = [await self._stop(processes.slots[slot]) for slot in range(n, before)]
        for slot in range(n, before):
            processes.look_at(slot)
        del processes.slots[n:]
        for slot in range(before, n):
            await processes.launch(slot)
        return Cycle(f"scaled from {before} to {n}", 0, 0, time.monotonic() - began, not any(codes))

    async def _crash(self) -> Cycle:
        began = time.monotonic()
        self._world.postgres.crash()
        await asyncio.sleep(self._chance.uniform(0.0, 1.5))
        self._world.postgres.recover()
        return Cycle("Postgres crashed", 0, 0, time.monotonic() - began)

    async def _pick(self) -> tuple[int, Daemon]:
        """Return a process that is ready, waiting for one if need be; the oldest only when it has lived for long.

        From then on it is nobody else's.
        """
        async with asyncio.timeout(_READY_SECONDS):
            while True:
                if ready := self._unsheltered():
                    slot = self._chance.choice(ready)
                    victim = self._processes.slots[slot]
                    self._spared.add(victim.name)
                    # Not always at the beginning of its work.
                    await asyncio.sleep(self._chance.uniform(0.0, _LONGEST_LIFE_SECONDS))
                    if victim.is_running and victim in self._processes.slots[slot : slot + 1]:
                        return slot, victim
                await self._repair()
                await asyncio.sleep(0.05)

    def _unsheltered(self) -> list[int]:
        slots, born = self._processes.slots, self._processes.born
        ready = [slot for slot in self._processes.ready() if slots[slot].name not in self._spared]
        if len(slots) == 1 or not ready:
            return ready
        age = time.monotonic() - born[slots[ready[0]].name]
        return ready if age > _ELDER_LEASES * self._world.size.lease_seconds else ready[1:]

    async def _stop(self, daemon: Daemon) -> int:
        """Stop a process in good order, on links that are well; return its exit code, 0 for one not yet at work."""
        self._spared.add(daemon.name)
        while daemon.name in self._spoilt:
            await asyncio.sleep(0.05)
        was_ready = daemon.is_ready
        code = await self._processes.stop(daemon) if daemon.is_running else 0
        return 0 if code == -signal.SIGTERM and not was_ready else code

    async def _ends(self, victim: Daemon) -> int:
        """Return how a process ended that had been replaced; kill it where nobody was there to take over."""
        try:
            code = await victim.wait(_DEATH_SECONDS)
        except TimeoutError:
            await victim.kill()
            code = -signal.SIGKILL
        self._processes.ends[f"replaced, exit {code}"] += 1
        return code
