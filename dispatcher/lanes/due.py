"""The due-reader: deliveries that wait in Postgres come back to the lanes."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog

from dispatcher.kit import clock, failpoints
from dispatcher.kit.supervise import sleep_until_set
from dispatcher.model.batch import ClaimWish
from dispatcher.model.delivery import Delivery
from dispatcher.model.errors import Unavailable

_PERIOD_SECONDS: Final = 0.4
_BUSY_SECONDS: Final = 0.1
_WORTH_A_LOOK: Final = 5
_BACKLOG_SECONDS: Final = 5.0
_MOST_ROWS: Final = 2_000
_ROWS_PER_HOST: Final = 50
_MOST_BYTES: Final = 16 * 1_048_576
"""No claim brings more, however much room there is: its answer has to come within the statement's limit."""

_SECOND_LOOK_SECONDS: Final = 6.0
"""A statement whose answer was lost may still commit until its server-side limit (4 s) is over."""

_STRAY_SECONDS: Final = 60.0
"""And one that was held up on the way there may commit at any time: its limit begins when it arrives."""

_log = structlog.get_logger("lanes")


class Claims(Protocol):
    """What the due-reader needs of the ledger."""

    async def backlog(self) -> list[tuple[int, int]]:
        """Return pairs of host and endpoint with rows due for long."""
        ...

    async def claim(self, wish: ClaimWish) -> list[Delivery]:
        """Take due rows, their hosts' tokens charged."""
        ...

    async def adopt(self) -> list[Delivery]:
        """Find some of the rows that are ours without our knowing; none when there are no more."""
        ...

    async def has_strays(self) -> bool:
        """Tell whether there may be such rows."""
        ...


class Lanes(Protocol):
    """What the due-reader needs of the board."""

    @property
    def room_bytes(self) -> int:
        """Return how many bytes more are welcome."""
        ...

    def has_room(self) -> bool:
        """Tell whether more deliveries are welcome."""
        ...

    def full_hosts(self) -> list[int]:
        """Return hosts that want none."""
        ...

    def unwilling_endpoints(self) -> list[int]:
        """Return endpoints that want no more."""
        ...

    def credit(self, host_id: int, n: int, sent: float) -> None:
        """Take the tokens that were charged for claimed rows."""
        ...


class DueReader:
    """Claims due rows a few times per second and hands them to `submit`; a slow period when nothing is due.

    `submit` takes deliveries that this process owns now; `learn` reads what is to be known of their hosts before a lane
    is opened for one. Both may await the directory, neither raises.
    """

    def __init__(
        self,
        claims: Claims,
        lanes: Lanes,
        submit: Callable[[Sequence[Delivery]], Awaitable[None]],
        *,
        learn: Callable[[Sequence[Delivery]], Awaitable[None]],
        on_adopted: Callable[[int], None],
        jitter: Callable[[], float],
    ) -> None:
        self._claims = claims
        self._lanes = lanes
        self._submit = submit
        self._learn = learn
        self._on_adopted = on_adopted
        self._jitter = jitter
        self._stop = asyncio.Event()
        self._backlog: list[tuple[int, int]] = []
        self._next_backlog = 0.0
        self._adopt_at: list[float] = []
        self._next_strays = clock.mono() + _STRAY_SECONDS
        self.last_success = clock.mono()
        """Monotonic time of the last claim that was answered, or not needed for want of room; for readiness."""

    def answer_was_lost(self) -> None:
        """Look for rows that became ours without an answer: at once, and after the statement's limit."""
        now = clock.mono()
        self._adopt_at = [now, now + _SECOND_LOOK_SECONDS]

    def stop(self) -> None:
        """Claim nothing more; `run` returns after the claim under way."""
        self._stop.set()

    async def run(self) -> None:
        """Claim until `stop`. Survives Postgres being away; raises Fenced when this replica was taken over."""
        period = _PERIOD_SECONDS
        while not await sleep_until_set(self._stop, period * self._jitter()):
            claimed: list[Delivery] = []
            try:
                claimed = await self._claim()
                self.last_success = clock.mono()
                # Afterwards: what cannot be found must not keep what is due from being claimed.
                await self._adopt()
            except Unavailable as fault:
                _log.warning("claim_failed", reason=str(fault))
            period = _BUSY_SECONDS if self._is_worth_a_look(claimed) else _PERIOD_SECONDS

    def _is_worth_a_look(self, claimed: Sequence[Delivery]) -> bool:
        """Tell whether to look again soon: for a backlog, not for what is due now and then.

        A host of a small burst gives a few rows at a time, however long its backlog.
        """
        if not claimed or len(claimed) >= _WORTH_A_LOOK:
            return bool(claimed)
        backlog = set(self._backlog)
        return any((delivery.host_id, delivery.endpoint_id) in backlog for delivery in claimed)

    async def _adopt(self) -> None:
        now = clock.mono()
        if now >= self._next_strays:
            self._next_strays = now + _STRAY_SECONDS
            if await self._claims.has_strays():
                self.answer_was_lost()
        if self._adopt_at and clock.mono() >= self._adopt_at[0] and self._lanes.has_room():
            found = await self._claims.adopt()
            if not found:
                self._adopt_at = self._adopt_at[1:]
                return
            self._on_adopted(len(found))
            await self._submit(found)

    async def _claim(self) -> list[Delivery]:
        if not self._lanes.has_room():
            return []
        now = clock.mono()
        if now >= self._next_backlog:
            self._backlog = await self._claims.backlog()
            self._next_backlog = now + _BACKLOG_SECONDS
        sent = clock.mono()
        failpoints.reach_soon(failpoints.Point.CLAIM_SENT)
        claimed = await self._claims.claim(
            ClaimWish(
                _ROWS_PER_HOST,
                _MOST_ROWS // _ROWS_PER_HOST,
                self._lanes.full_hosts(),
                self._lanes.unwilling_endpoints(),
                self._backlog,
                min(_MOST_BYTES, self._lanes.room_bytes),
            )
        )
        if claimed:
            failpoints.reach(failpoints.Point.CLAIM_ANSWERED)
            # A host's limits say how long the tokens live that were charged for it.
            await self._learn(claimed)
            for host_id, n in Counter(delivery.host_id for delivery in claimed).items():
                self._lanes.credit(host_id, n, sent)
            await self._submit(claimed)
        return claimed
