"""The standing duties of a replica: its lease, the takeover of dead ones, daily tables, the backlog's gauges."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import structlog

from dispatcher.kit import clock
from dispatcher.ledger.claims import ClaimLedger
from dispatcher.ledger.replicas import MARGIN_SECONDS, Membership, Replica
from dispatcher.ledger.retention import Daily, Retention
from dispatcher.model.endpoint import EndpointStatus
from dispatcher.model.errors import Unavailable
from dispatcher.telemetry.metrics import Metrics

_log = structlog.get_logger("upkeep")

_ORPHAN_SECONDS: Final = 30
_BACKLOG_SECONDS: Final = 15.0
_ROUNDS_PER_HOUR: Final = 240


class Upkeep:
    """What a replica owes the others and itself, again and again. Unavailable is waited out, Fenced passes."""

    def __init__(
        self,
        members: Membership,
        replica: Replica,
        claims: ClaimLedger,
        metrics: Metrics,
        *,
        retention: Retention,
        keep_days: Mapping[Daily, int],
    ) -> None:
        self._members = members
        self._retention = retention
        self._keep_days = keep_days
        self._replica = replica
        self._claims = claims
        self._counts = metrics.counts
        self._lease_seconds = replica.lease_seconds

    async def keep_lease(self) -> None:
        """Renew the lease at least every third of it; settlements renew it, too."""
        while True:
            await asyncio.sleep(min(1.0, self._lease_seconds / 10))
            if self._replica.lease_left(clock.mono()) < self._lease_seconds * 2 / 3 - MARGIN_SECONDS:
                await self._try("heartbeat", self._heartbeat)

    async def _heartbeat(self) -> None:
        self._counts("live_replicas").put(await self._members.heartbeat())

    async def take_over(self) -> None:
        """Look for replicas whose lease ended every second, for orphaned rows every thirty."""
        seconds = 0
        while True:
            await asyncio.sleep(1.0)
            seconds += 1
            await self._try("take_over", self._take_over)
            if seconds % _ORPHAN_SECONDS == 0:
                await self._try("free_orphans", self._members.free_orphans)

    async def _take_over(self) -> None:
        n_replicas, n_rows = await self._members.take_over()
        if n_replicas:
            self._counts("takeovers").add(by=n_replicas)
            self._counts("taken_over_rows").add(by=n_rows)
            _log.warning("replicas_taken_over", n_replicas=n_replicas, n_deliveries=n_rows)

    async def keep_up(self) -> None:
        """Make tables ahead and forget what is too old every hour, read the backlog every fifteen seconds."""
        rounds = 0
        while True:
            if rounds % _ROUNDS_PER_HOUR == 0:
                await self._try("make_days", self._make_days)
                await self._try("forget", self._members.forget)
                for daily, days in self._keep_days.items():
                    await self._try("drop_old", partial(self._drop_old, daily, days))
            await self._try("backlog", self._read_backlog)
            rounds += 1
            await asyncio.sleep(_BACKLOG_SECONDS)

    async def _make_days(self) -> None:
        _, last = await self._members.make_days()
        self._counts("partitions_ahead_days").put((last - clock.utcnow().date()).days)

    async def _drop_old(self, daily: Daily, keep_days: int) -> None:
        done = await self._retention.drop_old(daily, keep_days)
        if done is None:
            return
        if done.dropped:
            self._counts("dropped_tables").add(daily, by=len(done.dropped))
            _log.info("days_dropped", table=daily, days=[day.isoformat() for day in done.dropped])
        if done.kept:
            _log.warning("days_kept_back", table=daily, days=[day.isoformat() for day in done.kept])
        if daily is Daily.EVENT:
            self._counts("kept_back_tables").put(len(done.kept))

    async def _read_backlog(self) -> None:
        backlog = await self._claims.count_backlog()
        self._counts("due_deliveries").put(backlog.due)
        self._counts("held_deliveries").put(backlog.held)
        self._counts("oldest_due_age_seconds").put(backlog.oldest_due_seconds)
        found = await self._claims.endpoints_by_status()
        for status in EndpointStatus:
            self._counts("endpoints").put(found.get(status, 0), status)

    async def _try(self, name: str, duty: Callable[[], Awaitable[None]]) -> None:
        try:
            await duty()
        except Unavailable as fault:
            _log.warning("duty_failed", duty=name, reason=str(fault))
