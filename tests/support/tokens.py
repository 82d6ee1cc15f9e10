"""Tokens granted in memory, by the definition of GCRA and in virtual time: what Postgres does, without Postgres."""

import asyncio
from collections.abc import Sequence

from dispatcher.kit import clock
from dispatcher.model.endpoint import HostLimits
from dispatcher.policy.pacing import Ask, Grant, grants_of


class MemoryTokens:
    """Grants tokens of hosts with the given limits and of endpoints as asked; an answer takes `seconds`."""

    def __init__(self, limits: HostLimits, *, seconds: float = 0.001) -> None:
        self.limits = limits
        self.paused: dict[int, float] = {}
        self.faults: list[Exception] = []
        self.asked: list[tuple[float, list[Ask]]] = []
        self.granted: list[tuple[float, int, int]] = []
        self._seconds = seconds
        self._arrival: dict[int, float] = {}

    async def lease(self, asks: Sequence[Ask]) -> list[Grant]:
        """Grant what there is."""
        self.asked.append((clock.mono(), list(asks)))
        grants = grants_of(self.limits.rate, self.limits.burst)
        return await self._grant([(ask, grants.interval_us / 1e6, grants.burst) for ask in asks], 1)

    async def lease_for_endpoints(self, asks: Sequence[Ask]) -> list[Grant]:
        """Grant what there is; endpoints are kept apart from hosts by a negative number."""
        return await self._grant([(ask, ask.interval_us / 1e6, ask.burst) for ask in asks], -1)

    async def _grant(self, asks: Sequence[tuple[Ask, float, int]], sign: int) -> list[Grant]:
        await asyncio.sleep(self._seconds / 2)
        if self.faults:
            raise self.faults.pop(0)
        now, made = clock.mono(), []
        for ask, interval, burst in asks:
            base = max(self._arrival.get(sign * ask.number, 0.0), now)
            paused = max(0.0, self.paused.get(sign * ask.number, 0.0) - now)
            n = 0 if paused else max(0, min(ask.want, int((now - base) / interval + burst + 1e-9)))
            self._arrival[sign * ask.number] = base + n * interval
            wait = max(0.0, base + n * interval - now - (burst - 1) * interval)
            self.granted.append((now, sign * ask.number, n))
            made.append(Grant(ask.number, n, 1.0, wait, paused))
        await asyncio.sleep(self._seconds / 2)
        return made
