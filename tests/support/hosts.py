"""Hosts in memory and in virtual time: tokens, slower rates, pauses and limits by the rules of Postgres' statements."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from dispatcher.kit import clock
from dispatcher.model.endpoint import HostLimits
from dispatcher.policy.pacing import Ask, Grant, Pauses, grants_of

_LONGEST_HOST_PAUSE_SECONDS = 300.0
_SLOWEST = 0.05


@dataclass
class HostRow:
    """One host, as Postgres keeps it."""

    limits: HostLimits
    arrival: float = 0.0
    scale: float = 1.0
    scaled_at: float = -60.0
    paused_until: float = 0.0
    opens: int = 0
    changed_at: float = -60.0

    def take(self, want: int, now: float) -> int:
        """Grant up to `want` tokens by GCRA."""
        grants = grants_of(self.limits.rate, self.limits.burst)
        interval, base = grants.interval_us / 1e6 / self.scale, max(self.arrival, now)
        n = 0 if self.paused_until > now else max(0, min(want, int((now - base) / interval + grants.burst + 1e-9)))
        self.arrival = max(self.arrival, base + n * interval) if n else self.arrival
        return n

    def next_seconds(self, now: float) -> float:
        """Return the seconds until there is a token."""
        grants = grants_of(self.limits.rate, self.limits.burst)
        interval = grants.interval_us / 1e6 / self.scale
        return max(0.0, self.arrival - now - (grants.burst - 1) * interval)

    def rescale(self, scale: float, now: float) -> None:
        """Change the rate; tokens granted ahead keep their number."""
        if self.arrival > now:
            self.arrival = now + (self.arrival - now) * self.scale / scale
        self.scale, self.scaled_at = scale, now


@dataclass
class PaceRow:
    """One endpoint that was paused, or has a pace of its own."""

    arrival: float = 0.0
    paused_until: float = 0.0
    opens: int = 0


class MemoryHosts:
    """What the token desk and the host keeper need of the ledger.

    `fault`, while set, is raised by half the calls before and by half after they took effect.
    """

    def __init__(self, hosts: dict[int, HostRow], host_of: dict[int, int]) -> None:
        self.rows = hosts
        self.endpoints = {number: PaceRow() for number in host_of}
        self.replicas = (1, 0)
        self.fault: Exception | None = None
        self.busy: set[int] = set()
        """Hosts whose rows another replica is at."""
        self.answer_seconds = 0.002
        self._host_of = host_of
        self._n_calls = 0

    async def lease(self, asks: Sequence[Ask]) -> list[Grant]:
        """Take tokens of hosts."""
        fails_late = await self._arrive()
        now, grants = clock.mono(), []
        for ask in asks:
            row = self.rows[ask.number]
            if ask.number not in self.busy:
                n = row.take(ask.want, now)
                paused = max(0.0, row.paused_until - now)
                grants.append(Grant(ask.number, n, row.scale, row.next_seconds(now), paused))
        await self._answer(fails_late)
        return grants

    async def lease_for_endpoints(self, asks: Sequence[Ask]) -> list[Grant]:
        """Take tokens of endpoints."""
        assert len({ask.number for ask in asks}) == len(asks)
        fails_late = await self._arrive()
        now, grants = clock.mono(), []
        for ask in asks:
            row, interval = self.endpoints[ask.number], ask.interval_us / 1e6
            base = max(row.arrival, now)
            paused = max(0.0, row.paused_until - now)
            n = 0 if paused else max(0, min(ask.want, int((now - base) / interval + ask.burst + 1e-9)))
            row.arrival = base + n * interval if n else row.arrival
            wait = max(0.0, row.arrival - now - (ask.burst - 1) * interval)
            grants.append(Grant(ask.number, n, 1.0, wait, paused))
        await self._answer(fails_late)
        return grants

    async def pause(self, endpoint_id: int, host_id: int, seconds: float | None) -> tuple[float, float]:
        """Pause an endpoint, and its host when nothing else of it goes."""
        fails_late = await self._arrive()
        now, row, host = clock.mono(), self.endpoints[endpoint_id], self.rows[host_id]
        was_paused = row.paused_until > now
        if not was_paused or seconds is not None:
            asked = min(300.0, 5.0 * 2 ** min(row.opens, 10)) if seconds is None else seconds
            row.paused_until = max(row.paused_until, now + asked)
        row.opens += not was_paused
        for_host = 0.0
        others = [n for n, of in self._host_of.items() if of == host_id and n != endpoint_id]
        if not others or sum(self.endpoints[n].paused_until > now for n in others) >= 2:
            if host.paused_until <= now:
                host.scale = max(host.scale / 2, _SLOWEST)
                host.opens += 1
            host.paused_until = max(host.paused_until, min(row.paused_until, now + _LONGEST_HOST_PAUSE_SECONDS))
            grants = grants_of(host.limits.rate, host.limits.burst)
            host.scaled_at = now
            host.arrival = host.paused_until + (grants.burst - 1) * grants.interval_us / 1e6 / host.scale
            for_host = host.paused_until - now
        await self._answer(fails_late)
        return row.paused_until - now, for_host

    async def slow_down(self, host_ids: Sequence[int]) -> None:
        """Halve rates."""
        fails_late = await self._arrive()
        now = clock.mono()
        for row in (self.rows[number] for number in host_ids):
            if row.scaled_at < now - 1.0 and row.paused_until <= now and row.scale > _SLOWEST:
                row.rescale(max(row.scale / 2, _SLOWEST), now)
        await self._answer(fails_late)

    async def recover(self, host_ids: Sequence[int], endpoint_ids: Sequence[int]) -> None:
        """Double rates, forget pauses in a row."""
        fails_late = await self._arrive()
        now = clock.mono()
        for row in (self.rows[number] for number in host_ids):
            if row.scale < 1.0 and row.scaled_at < now - 2.0 and row.paused_until <= now:
                row.opens = 0 if row.scale >= 0.5 else row.opens
                row.rescale(min(1.0, row.scale * 2), now)
        for pace in (self.endpoints[number] for number in endpoint_ids):
            pace.opens = 0 if pace.paused_until <= now else pace.opens
        await self._answer(fails_late)

    async def pauses(self) -> Pauses:
        """Read who is paused."""
        fails_late = await self._arrive()
        now = clock.mono()
        found = Pauses(
            {number: row.paused_until - now for number, row in self.rows.items() if _is_told(row, now)},
            {number: row.paused_until - now for number, row in self.endpoints.items() if _is_told(row, now)},
        )
        await self._answer(fails_late)
        return found

    async def delivering(self) -> tuple[int, int]:
        """Return the number of replicas and the own rank."""
        await self._answer(fails_late=False)
        return self.replicas

    async def changed_limits(self, within_seconds: float) -> dict[int, HostLimits]:
        """Read limits that changed lately."""
        await self._answer(fails_late=False)
        since = clock.mono() - within_seconds
        return {number: row.limits for number, row in self.rows.items() if row.changed_at > since}

    def set_limits(self, host_id: int, limits: HostLimits) -> None:
        """Give a host limits; tokens granted ahead are forgiven up to the new burst."""
        now, row, grants = clock.mono(), self.rows[host_id], grants_of(limits.rate, limits.burst)
        row.limits, row.changed_at = limits, now
        row.arrival = min(row.arrival, now + grants.burst * grants.interval_us / 1e6)

    def resume(self, host_id: int) -> None:
        """End a host's pause and slow start now; tokens granted ahead are forgiven up to the burst."""
        now, row = clock.mono(), self.rows[host_id]
        grants = grants_of(row.limits.rate, row.limits.burst)
        row.paused_until = min(row.paused_until, now)
        row.arrival = min(row.arrival, now + grants.burst * grants.interval_us / 1e6)
        row.scale, row.opens = 1.0, 0

    async def _arrive(self) -> bool:
        """Travel to Postgres; tell whether the answer will be lost."""
        await asyncio.sleep(self.answer_seconds / 2)
        if self.fault is None:
            return False
        self._n_calls += 1
        if self._n_calls % 2:
            raise self.fault
        return True

    async def _answer(self, fails_late: bool) -> None:
        await asyncio.sleep(self.answer_seconds / 2)
        if fails_late and self.fault is not None:
            raise self.fault


def _is_told(row: HostRow | PaceRow, now: float) -> bool:
    return row.paused_until > now or (row.opens > 0 and row.paused_until > now - 3_600.0)
