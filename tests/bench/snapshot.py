"""Claims while a transaction holds the oldest snapshot: nothing that died since can be cleaned away."""

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass, field
from unittest.mock import patch

import asyncpg

from dispatcher.kit import clock
from dispatcher.ledger import claims
from dispatcher.model.batch import ClaimWish
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.outcome import Outcome, OutcomeKind, Verdict, VerdictKind
from tests.bench.hot_table import HotTable, open_hot_table
from tests.bench.lab import Lab
from tests.rooms.ledger_world import a_batch, an_event

PER_SECOND = 1_000
_N_HOSTS = 50
_RETRIED = 0.2
_TICK_SECONDS = 0.1
_CLAIM_SECONDS = 0.4
_BACKLOG_SECONDS = 5.0
_WISH = ClaimWish(50, 40)
_DELIVERED = Verdict(VerdictKind.DELIVERED, 1, None)


@dataclass
class Course:
    """What a run saw: milliseconds of each claim in order, dead rows at the end, deliveries settled per second."""

    claims: list[float] = field(default_factory=list)
    backlogs: list[float] = field(default_factory=list)
    n_dead: int = 0
    per_second: float = 0.0

    def quarter(self, number: int) -> list[float]:
        """Return the claims of one quarter of the time, 0 to 3, ascending."""
        size = max(1, len(self.claims) // 4)
        return sorted(self.claims[number * size : (number + 1) * size])


async def snapshot(lab: Lab, seconds: float, *, has_floor: bool = True) -> Course:
    """Take in and settle 1,000 deliveries/s, one in five twice, while an old snapshot is held.

    Without the floor claims look at all that ever was due, as they would if nobody knew of dead index entries.
    """
    async with open_hot_table(lab) as table:
        await table.world.sql.execute("DELETE FROM endpoint")
        hosts = await table.hosts(_N_HOSTS)
        await table.world.sql.execute("UPDATE endpoint SET workflows = ARRAY['wf_' || (host_id % $1::int)]", _N_HOSTS)
        old = await asyncpg.connect(table.world.url)
        holding = old.transaction(isolation="repeatable_read")
        await holding.start()
        await old.fetch("SELECT count(*) FROM delivery")
        with patch.object(claims, "FLOOR_SECONDS", claims.FLOOR_SECONDS if has_floor else 1e7):
            course = await _Journey(table, hosts).run(seconds)
        await asyncio.sleep(1.1)
        course.n_dead = await table.world.value("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'delivery'")
        await holding.rollback()
        await old.close()
        return course


class _Journey:
    """One replica's statements at the rate that is asked for, without anything in between."""

    def __init__(self, table: HotTable, hosts: list[int]) -> None:
        self._table = table
        self._process = table.process
        self._hosts = hosts
        self._open: deque[Delivery] = deque()
        self._course = Course()
        self._n_settled = 0
        self._backlog: list[tuple[int, int]] = []

    async def run(self, seconds: float) -> Course:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            settling = group.create_task(self._settle())
            claiming = group.create_task(self._claim())
            await self._accept(seconds)
            claiming.cancel()
            settling.cancel()
        self._course.per_second = self._n_settled / (time.monotonic() - began)
        return self._course

    async def _accept(self, seconds: float) -> None:
        began = time.monotonic()
        n = 0
        while (now := time.monotonic() - began) < seconds:
            due = int(now * PER_SECOND) - n
            if due > 0:
                events = [
                    an_event(self._table.account, workflow_id=f"wf_{number % _N_HOSTS}") for number in range(n, n + due)
                ]
                self._open.extend((await self._process.accept(a_batch(events, start=n))).fresh)
                n += due
            await asyncio.sleep(_TICK_SECONDS)

    async def _settle(self) -> None:
        while True:
            batch = [self._result(self._open.popleft()) for _ in range(min(500, len(self._open)))]
            if batch:
                await self._process.settlements.settle(batch)
                self._n_settled += len(batch)
            await asyncio.sleep(0.02)

    def _result(self, delivery: Delivery) -> Settlement:
        now = clock.mono()
        outcome = Outcome(OutcomeKind.DELIVERED, 0.005, 204)
        verdict = _DELIVERED
        if not delivery.attempts and random.random() < _RETRIED:
            verdict = Verdict(VerdictKind.RETRY, 1, random.uniform(1.0, 3.0))
        return Settlement(delivery, outcome, verdict, delivery.attempts + 1, now, now)

    async def _claim(self) -> None:
        next_backlog = 0.0
        while True:
            if time.monotonic() > next_backlog:
                began = time.perf_counter()
                self._backlog = await self._process.claims.backlog()
                self._course.backlogs.append((time.perf_counter() - began) * 1e3)
                next_backlog = time.monotonic() + _BACKLOG_SECONDS
            began = time.perf_counter()
            rows = await self._process.claims.claim(_WISH._replace(backlog=self._backlog))
            self._course.claims.append((time.perf_counter() - began) * 1e3)
            self._open.extend(rows)
            await asyncio.sleep(_CLAIM_SECONDS)
