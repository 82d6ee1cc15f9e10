"""The host keeper: what this process learned about hosts goes to Postgres, what others learned comes from there.

Pauses, slower rates and recoveries are written as soon as they are known; who is paused, how many replicas deliver and
which limits were changed is read every second. Everything here may fail and be tried again: a pause that is not
written only means that this process alone keeps it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog

from dispatcher.kit import clock
from dispatcher.model.endpoint import HostLimits
from dispatcher.model.errors import Unavailable
from dispatcher.policy.pacing import Pauses

_LOOK_SECONDS: Final = 1.0
_LOOK_BACK_SECONDS: Final = 15.0
"""Changes are looked for this much further back than the last look, so that one that committed late is seen."""

_BREAKER_SECONDS: Final = 5.0
_MOST_ORDERS: Final = 1_000

_log = structlog.get_logger("lanes")


class Hosts(Protocol):
    """What the keeper needs of the ledger. Raises Unavailable."""

    async def pause(self, endpoint_id: int, host_id: int, seconds: float | None) -> tuple[float, float]:
        """Pause an endpoint and maybe its host; return the seconds for each, 0 for none."""
        ...

    async def slow_down(self, host_ids: Sequence[int]) -> None:
        """Halve rates."""
        ...

    async def recover(self, host_ids: Sequence[int], endpoint_ids: Sequence[int]) -> None:
        """Double rates, forget pauses in a row."""
        ...

    async def pauses(self) -> Pauses:
        """Read who is paused, or was and has not answered well since."""
        ...

    async def delivering(self) -> tuple[int, int]:
        """Return how many replicas deliver and this one's rank among them, from 0."""
        ...

    async def changed_limits(self, within_seconds: float) -> dict[int, HostLimits]:
        """Read limits that changed lately."""
        ...


class Lanes(Protocol):
    """What the keeper tells the board."""

    def pause_host(self, host_id: int, seconds: float) -> None:
        """Stop sending to a host."""
        ...

    def pause_endpoint(self, endpoint_id: int, seconds: float) -> None:
        """Stop sending to an endpoint."""
        ...

    def set_pauses(self, hosts: dict[int, float], endpoints: dict[int, float]) -> None:
        """Adopt what all replicas know."""
        ...

    def set_replicas(self, n: int, rank: int) -> None:
        """Adopt the number of replicas that share hosts' caps."""
        ...


class HostKeeper:
    """Writes orders and reads the common state. Orders may be given from anywhere in the loop."""

    def __init__(self, hosts: Hosts, *, on_limits: Callable[[int, HostLimits], None]) -> None:
        self._hosts = hosts
        self._on_limits = on_limits
        self._pauses: dict[int, tuple[int, float | None]] = {}
        self._slow: set[int] = set()
        self._well: set[int] = set()
        self._forgiven: set[int] = set()
        self._ordered = asyncio.Event()
        self._looked_at = clock.mono()
        self.lanes: Lanes
        self.n_paused = 0
        """Hosts paused when last looked."""

    def pause(self, endpoint_id: int, host_id: int, seconds: float | None) -> None:
        """Pause an endpoint for as long as it asked, or by the breaker (None); here at once, everywhere soon.

        What was asked for and is not written yet stands, unless more is asked for: the breaker asks for less.
        """
        known = self._pauses.get(endpoint_id)
        if known is not None and known[0] == host_id and (known[1] or 0.0) >= (seconds or 0.0):
            seconds = known[1]
        elif len(self._pauses) < _MOST_ORDERS:
            self._pauses[endpoint_id] = (host_id, seconds)
            self._ordered.set()
        self.lanes.pause_endpoint(endpoint_id, _BREAKER_SECONDS if seconds is None else seconds)

    def slow_down(self, host_id: int) -> None:
        """Halve a host's rate; many calls within a second are one."""
        self._slow.add(host_id)
        self._ordered.set()

    def recovers(self, host_id: int) -> None:
        """Note that a slowed host does well."""
        self._well.add(host_id)
        self._ordered.set()

    def forgive(self, endpoint_id: int) -> None:
        """Note that an endpoint that was paused answers well."""
        self._forgiven.add(endpoint_id)
        self._ordered.set()

    async def run(self) -> None:
        """Serve until canceled; waits Postgres' absences out."""
        next_look = 0.0
        while True:
            jobs = [self._write_pauses, self._write_rates]
            if clock.mono() >= next_look:
                jobs.append(self._look)
                next_look = clock.mono() + _LOOK_SECONDS
            if fault := await _last_fault(jobs):
                _log.warning("hosts_unavailable", reason=str(fault))
                await asyncio.sleep(_LOOK_SECONDS)
            await self._wait(next_look - clock.mono())

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.01, seconds)):
                await self._ordered.wait()
        except TimeoutError:
            return
        self._ordered.clear()

    async def _write_pauses(self) -> None:
        while self._pauses:
            endpoint_id, order = next(iter(self._pauses.items()))
            host_id, seconds = order
            try:
                for_endpoint, for_host = await self._hosts.pause(endpoint_id, host_id, seconds)
            except Unavailable:
                # To the end: one row that somebody has locked must not keep the others' pauses from being written.
                self._pauses[endpoint_id] = self._pauses.pop(endpoint_id)
                raise
            if self._pauses[endpoint_id] is not order:
                # It asked for another pause meanwhile, maybe a longer one: that one is still to be written.
                continue
            del self._pauses[endpoint_id]
            if not for_endpoint:
                # It moved to another host meanwhile: the pause that was kept here ends with the next look.
                continue
            self.lanes.pause_endpoint(endpoint_id, for_endpoint)
            if for_host > 0:
                self.lanes.pause_host(host_id, for_host)
            _log.info(
                "endpoint_paused", endpoint=endpoint_id, host=host_id, seconds=for_endpoint, host_seconds=for_host
            )

    async def _write_rates(self) -> None:
        if self._slow:
            slow = sorted(self._slow)
            await self._hosts.slow_down(slow)
            self._slow.difference_update(slow)
        if self._well or self._forgiven:
            well, forgiven = sorted(self._well), sorted(self._forgiven)
            await self._hosts.recover(well, forgiven)
            self._well.difference_update(well)
            self._forgiven.difference_update(forgiven)

    async def _look(self) -> None:
        pauses = await self._hosts.pauses()
        self.n_paused = sum(left > 0 for left in pauses.hosts.values())
        self.lanes.set_pauses(*pauses)
        self.lanes.set_replicas(*await self._hosts.delivering())
        began = clock.mono()
        missed = began - self._looked_at
        for host_id, limits in (await self._hosts.changed_limits(missed + _LOOK_BACK_SECONDS)).items():
            self._on_limits(host_id, limits)
        self._looked_at = began


async def _last_fault(jobs: Sequence[Callable[[], Awaitable[None]]]) -> Unavailable | None:
    """Do every job, whatever became of those before it; return the last refusal, None when there was none."""
    last = None
    for job in jobs:
        try:
            await job()
        except Unavailable as fault:
            last = fault
    return last
