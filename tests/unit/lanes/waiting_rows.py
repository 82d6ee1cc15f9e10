"""The hot table in memory: deliveries that are owned or wait, as the lanes' neighbours claim and settle them."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dispatcher.kit import clock
from dispatcher.model.batch import ClaimWish
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.errors import Unavailable
from dispatcher.model.news import News
from dispatcher.model.outcome import VerdictKind
from tests.support.hosts import MemoryHosts

FLUSH_SECONDS = 0.005


@dataclass
class Row:
    """One delivery in the table; `due_at` counts while nobody owns it."""

    delivery: Delivery
    is_owned: bool = True
    due_at: float = 0.0


class WaitingRows:
    """Claims and settlements of one process. While `is_away` half of the flushes apply without an answer."""

    def __init__(self, hosts: MemoryHosts) -> None:
        self.rows: dict[int, Row] = {}
        self.ended: dict[int, VerdictKind] = {}
        self.is_away = False
        self.n_under_claim = 0
        """Rows that a claim took which is not answered yet."""
        self._hosts = hosts
        self._applied: Sequence[Settlement] = ()
        self._n_lost = 0

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Store new deliveries, owned."""
        self.rows.update((delivery.delivery_id, Row(delivery)) for delivery in deliveries)

    @property
    def owned(self) -> set[int]:
        """Return the deliveries that this process has to settle."""
        return {number for number, row in self.rows.items() if row.is_owned}

    async def settle(
        self, batch: Sequence[Settlement], *, first_successes: Collection[tuple[int, int]] = ()
    ) -> Sequence[News]:
        """Write a batch once, however often it is sent."""
        await asyncio.sleep(FLUSH_SECONDS)
        if self.is_away:
            self._n_lost += 1
            if self._n_lost % 2:
                raise Unavailable("away")
        if batch is not self._applied:
            self._apply(batch)
            self._applied = batch
        if self.is_away:
            raise Unavailable("away")
        return []

    def _apply(self, batch: Sequence[Settlement]) -> None:
        now = clock.mono()
        for settlement in batch:
            number, verdict = settlement.delivery.delivery_id, settlement.verdict
            row = self.rows.get(number)
            assert row is not None, f"delivery {number} is settled after its end"
            assert row.is_owned, f"delivery {number} is settled twice"
            assert row.delivery == settlement.delivery, f"delivery {number} is settled as it was before"
            if verdict.retry_in_seconds is None:
                del self.rows[number]
                self.ended[number] = verdict.kind
                continue
            row.is_owned = False
            row.due_at = now + max(0.0, verdict.retry_in_seconds - (now - settlement.decided_mono))
            row.delivery = row.delivery._replace(attempts=verdict.attempts)

    async def backlog(self) -> list[tuple[int, int]]:
        """Return nothing: every claim looks back as far as there is something."""
        return []

    async def adopt(self) -> list[Delivery]:
        """Return nothing: claims here fail before they take anything."""
        return []

    async def has_strays(self) -> bool:
        """Tell that there are none."""
        return False

    async def claim(self, wish: ClaimWish) -> list[Delivery]:
        """Take due rows, their hosts' tokens charged; half of what a host has to give."""
        await asyncio.sleep(FLUSH_SECONDS / 2)
        if self.is_away:
            raise Unavailable("away")
        now = clock.mono()
        claimed: list[Delivery] = []
        for host_id, host in self._hosts.rows.items():
            if host.paused_until > now or host_id in wish.full_hosts or host_id in self._hosts.busy:
                continue
            due = sorted(
                (row for row in self.rows.values() if self._is_due(row, host_id, now, wish)),
                key=lambda row: row.due_at,
            )
            n = host.take(min(len(due), max(1, host.limits.burst // 2), wish.rows_per_host), now) if due else 0
            for row in due[:n]:
                row.is_owned = True
                row.delivery = row.delivery._replace(accepted_mono=now)
                claimed.append(row.delivery)
        self.n_under_claim = len(claimed)
        await asyncio.sleep(FLUSH_SECONDS / 2)
        self.n_under_claim = 0
        return claimed

    def _is_due(self, row: Row, host_id: int, now: float, wish: ClaimWish) -> bool:
        delivery = row.delivery
        return (
            not row.is_owned
            and row.due_at <= now
            and delivery.host_id == host_id
            and delivery.endpoint_id not in wish.full_endpoints
            and self._hosts.endpoints[delivery.endpoint_id].paused_until <= now
        )
