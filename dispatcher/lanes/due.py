"""The due-reader: deliveries that wait in Postgres come back to the lanes."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, Protocol

import structlog

from dispatcher.kit import clock
from dispatcher.kit.supervise import sleep_until_set
from dispatcher.model.delivery import Delivery
from dispatcher.model.errors import Unavailable

_PERIOD_SECONDS: Final = 0.4
_BACKLOG_SECONDS: Final = 5.0
_MOST_ROWS: Final = 2_000
_ROWS_PER_HOST: Final = 50
_SECOND_LOOK_SECONDS: Final = 6.0
"""A statement whose answer was lost may still commit until its server-side limit (4 s) is over."""

_log = structlog.get_logger("lanes")


class Claims(Protocol):
    """What the due-reader needs of the ledger."""

    async def backlog_hosts(self) -> list[int]:
        """Return hosts with rows due for long."""
        ...

    async def claim(
        self, *, rows_per_host: int, n_hosts: int, full_hosts: Sequence[int], backlog_hosts: Collection[int]
    ) -> list[Delivery]:
        """Take due rows."""
        ...

    async def adopt(self) -> list[Delivery]:
        """Find rows that are ours without our knowing."""
        ...


class Lanes(Protocol):
    """What the due-reader needs of the board."""

    def has_room(self) -> bool:
        """Tell whether more deliveries are welcome."""
        ...

    def unwilling_hosts(self) -> list[int]:
        """Return hosts that want no more."""
        ...


class DueReader:
    """Claims due rows a few times per second and hands them to `submit`; a slow period when nothing is due.

    `submit` takes deliveries that this process owns now and may await the directory.
    """

    def __init__(
        self,
        claims: Claims,
        lanes: Lanes,
        submit: Callable[[Sequence[Delivery]], Awaitable[None]],
        *,
        on_adopted: Callable[[int], None],
        jitter: Callable[[], float],
    ) -> None:
        self._claims = claims
        self._lanes = lanes
        self._submit = submit
        self._on_adopted = on_adopted
        self._jitter = jitter
        self._stop = asyncio.Event()
        self._backlog: list[int] = []
        self._next_backlog = 0.0
        self._adopt_at: list[float] = []
        self.last_success = clock.mono()
        """Monotonic time of the last answered claim; for readiness."""

    def answer_was_lost(self) -> None:
        """Look for rows that became ours without an answer: at once, and after the statement's limit."""
        now = clock.mono()
        self._adopt_at = [now, now + _SECOND_LOOK_SECONDS]

    def stop(self) -> None:
        """Claim nothing more; `run` returns after the claim under way."""
        self._stop.set()

    async def run(self) -> None:
        """Claim until `stop`. Survives Postgres being away; raises Fenced when this replica was taken over."""
        while not await sleep_until_set(self._stop, _PERIOD_SECONDS * self._jitter()):
            try:
                await self._adopt()
                await self._claim()
                self.last_success = clock.mono()
            except Unavailable as fault:
                _log.warning("claim_failed", reason=str(fault))

    async def _adopt(self) -> None:
        if self._adopt_at and clock.mono() >= self._adopt_at[0]:
            found = await self._claims.adopt()
            self._adopt_at = self._adopt_at[1:]
            if found:
                self._on_adopted(len(found))
                await self._submit(found)

    async def _claim(self) -> None:
        if not self._lanes.has_room():
            return
        now = clock.mono()
        if now >= self._next_backlog:
            self._backlog = await self._claims.backlog_hosts()
            self._next_backlog = now + _BACKLOG_SECONDS
        claimed = await self._claims.claim(
            rows_per_host=_ROWS_PER_HOST,
            n_hosts=_MOST_ROWS // _ROWS_PER_HOST,
            full_hosts=self._lanes.unwilling_hosts(),
            backlog_hosts=self._backlog,
        )
        if claimed:
            await self._submit(claimed)
