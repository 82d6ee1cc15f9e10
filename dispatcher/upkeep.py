"""The standing duties of a replica: its lease, dead replicas, failing endpoints, daily tables, gauges."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

import structlog

from dispatcher.kit import clock
from dispatcher.ledger.claims import ClaimLedger
from dispatcher.ledger.connections import Link
from dispatcher.ledger.forgetting import FIRST_DELETED, Deleted, Forgetting, Old
from dispatcher.ledger.health import HealthLedger
from dispatcher.ledger.hours import HourCounter
from dispatcher.ledger.replicas import MARGIN_SECONDS, Membership, Replica
from dispatcher.ledger.retention import Daily, Retention
from dispatcher.model.errors import PoisonBatch, Unavailable
from dispatcher.model.news import News
from dispatcher.telemetry.metrics import ENDPOINT_STATES, Metrics

_log = structlog.get_logger("upkeep")

_ORPHAN_SECONDS: Final = 30
_BACKLOG_SECONDS: Final = 15.0
_ROUNDS_PER_MINUTE: Final = 4
_ROUNDS_PER_HOUR: Final = 240
_ROUNDS_PER_COUNT: Final = 20
_FORGET_SECONDS: Final = 3_600.0
_BATCH_REST_SECONDS: Final = 0.05
_HISTORY_BATCHES: Final = 20


@dataclass(frozen=True, slots=True)
class Books:
    """What upkeep needs of Postgres."""

    members: Membership
    claims: ClaimLedger
    health: HealthLedger
    retention: Retention
    hours: HourCounter
    forgetting: Forgetting

    @classmethod
    def of(cls, members: Membership, claims: ClaimLedger, control: Link, url: str) -> Self:
        """Return the ledgers of a replica; what is long opens connections of its own to the database at `url`."""
        retention = Retention(url, tag=control.tag)
        return cls(members, claims, HealthLedger(control), retention, HourCounter(url), Forgetting(control))


class Upkeep:
    """What a replica owes the others and itself, again and again.

    What Postgres cannot do or refuses is tried again in its next turn; Fenced passes.
    """

    def __init__(
        self,
        replica: Replica,
        books: Books,
        metrics: Metrics,
        *,
        keep_days: Mapping[Daily, int],
        on_announced: Callable[[Sequence[News]], None],
    ) -> None:
        self._replica = replica
        self._books = books
        self._keep_days = keep_days
        self._on_announced = on_announced
        self._counts = metrics.counts
        self._lease_seconds = replica.lease_seconds
        # Touched by keep_up alone: the last endpoint whose history was looked at.
        self._history_after = 0

    async def keep_lease(self) -> None:
        """Renew the lease at least every third of it; settlements renew it, too."""
        while True:
            await asyncio.sleep(min(1.0, self._lease_seconds / 10))
            if self._replica.lease_left(clock.mono()) < self._lease_seconds * 2 / 3 - MARGIN_SECONDS:
                await self._try("heartbeat", self._heartbeat)

    async def _heartbeat(self) -> None:
        self._counts("live_replicas").put(await self._books.members.heartbeat())

    async def take_over(self) -> None:
        """Look for replicas whose lease ended every second, for orphaned rows every thirty."""
        seconds = 0
        while True:
            await asyncio.sleep(1.0)
            seconds += 1
            await self._try("take_over", self._take_over)
            if seconds % _ORPHAN_SECONDS == 0:
                await self._try("free_orphans", self._books.members.free_orphans)

    async def _take_over(self) -> None:
        n_replicas, n_rows = await self._books.members.take_over()
        if n_replicas:
            self._counts("takeovers").add(by=n_replicas)
            self._counts("taken_over_rows").add(by=n_rows)
            _log.warning("replicas_taken_over", n_replicas=n_replicas, n_deliveries=n_rows)

    async def keep_up(self) -> None:
        """Make tables every minute, count hours every five, drop old tables every hour; the rest every 15 s."""
        rounds = 0
        while True:
            if rounds % _ROUNDS_PER_MINUTE == 0:
                # A table that somebody dropped makes intake and recording wait.
                await self._try("make_days", self._make_days)
            if rounds % _ROUNDS_PER_HOUR == 0:
                for daily, days in self._keep_days.items():
                    await self._try("drop_old", partial(self._drop_old, daily, days))
            if rounds % _ROUNDS_PER_COUNT == 0:
                await self._try("count_hours", self._books.hours.count)
            await self._try("judge_health", self._judge_health)
            await self._try("backlog", self._read_backlog)
            await self._try("burden", self._read_burden)
            await self._try("move_waiting", self._books.claims.move_waiting)
            await self._try("close_histories", self._close_histories)
            rounds += 1
            await asyncio.sleep(_BACKLOG_SECONDS)

    async def forget(self) -> None:
        """Delete what is old every hour, each kind for itself and batch by batch, until canceled."""
        while True:
            for old in Old:
                await self._try(old, partial(_all_of, partial(self._books.forgetting.forget, old)))
            await self._try("forget_trial_events", self._forget_trial_events)
            await self._try("forget_endpoints", self._forget_endpoints)
            await self._try("forget_hosts", self._forget_hosts)
            await asyncio.sleep(_FORGET_SECONDS)

    async def _forget_trial_events(self) -> None:
        days = self._keep_days.get(Daily.EVENT)
        if days is not None:
            await _all_of(partial(self._books.forgetting.forget_trial_events, days))

    async def _forget_hosts(self) -> None:
        last: int | None = 0
        while last is not None:
            last = await self._books.forgetting.forget_hosts(last)
            await asyncio.sleep(_BATCH_REST_SECONDS)

    async def _forget_endpoints(self) -> None:
        keep_days = self._keep_days[Daily.ATTEMPT]
        last: Deleted | None = FIRST_DELETED
        while last is not None:
            last = await self._books.forgetting.forget_endpoints(last, keep_days=keep_days)
            await asyncio.sleep(_BATCH_REST_SECONDS)

    async def _close_histories(self) -> None:
        """Some at a time: the next round goes on behind them, so that what stays open keeps nobody from their turn."""
        for _ in range(_HISTORY_BATCHES):
            last = await self._books.forgetting.close_histories(self._history_after)
            self._history_after = last or 0
            if last is None:
                return
            await asyncio.sleep(_BATCH_REST_SECONDS)

    async def _make_days(self) -> None:
        _, last = await self._books.members.make_days()
        self._counts("partitions_ahead_days").put((last - clock.utcnow().date()).days)

    async def _drop_old(self, daily: Daily, keep_days: int) -> None:
        done = await self._books.retention.drop_old(daily, keep_days)
        if done is None:
            return
        if done.dropped:
            self._counts("dropped_tables").add(daily, by=len(done.dropped))
            _log.info("days_dropped", table=daily, days=[day.isoformat() for day in done.dropped])
        if done.kept:
            _log.warning("days_kept_back", table=daily, days=[day.isoformat() for day in done.kept])
        if daily is Daily.EVENT:
            self._counts("kept_back_tables").put(len(done.kept))

    async def _judge_health(self) -> None:
        self._on_announced(await self._books.health.judge())

    async def _read_backlog(self) -> None:
        backlog = await self._books.claims.count_backlog()
        self._counts("due_deliveries").put(backlog.due)
        self._counts("held_deliveries").put(backlog.held)
        self._counts("oldest_due_age_seconds").put(backlog.oldest_due_seconds)
        found = await self._books.claims.endpoints_by_status()
        for state in ENDPOINT_STATES:
            self._counts("endpoints").put(found.get(state, 0), state)

    async def _read_burden(self) -> None:
        burden = await self._books.claims.burden()
        self._counts("delivery_dead_rows").put(burden.n_dead_rows)
        self._counts("oldest_transaction_age_seconds").put(burden.oldest_transaction_seconds)

    async def _try(self, name: str, duty: Callable[[], Awaitable[object]]) -> None:
        try:
            await duty()
        except (Unavailable, PoisonBatch) as fault:
            _log.warning("duty_failed", duty=name, reason=str(fault))


async def _all_of(forget: Callable[[], Awaitable[int]]) -> None:
    n_rows = await forget()
    while n_rows:
        # The link serves the lease, too.
        await asyncio.sleep(_BATCH_REST_SECONDS)
        n_rows = await forget()
