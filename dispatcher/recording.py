"""Settlements are collected here and written in batches (S2); lanes slow down when writing falls behind.

One flush at a time. The next one starts when the previous has returned and 20 ms have passed since the first
settlement came in, or 500 wait: batches grow with the load, and an idle process writes a lone result after 20 ms.
A busy one waits up to 80 ms: what a statement costs beside its rows is spent on more of them.
A flush whose answer was lost is sent again with the same number until Postgres says what became of it. Nothing
leaves the buffer before that, so a result is lost only with the process, and then its delivery is sent again.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Final, Protocol

import structlog

from dispatcher.kit import clock, failpoints
from dispatcher.model.delivery import Settlement
from dispatcher.model.errors import PoisonBatch, Unavailable
from dispatcher.model.news import News
from dispatcher.model.outcome import OutcomeKind, VerdictKind

_LINGER_SECONDS: Final = 0.02
_BUSY_LINGER_SECONDS: Final = 0.08
_BATCH: Final = 500
_BUSY: Final = 100
"""A batch of so many says that more are coming fast."""
_HIGH: Final = 1_000
"""Results that may wait: each is a duplicate if the process is killed now. Two full batches keep the writer busy."""
_LOW: Final = 500
_MOST_BYTES: Final = 64 * 1_048_576
_OVERHEAD_BYTES: Final = 1_024
"""What a result costs beside its bodies and headers; as generous as the lanes are with a delivery."""
_RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)

_place = attrgetter("delivery.endpoint_id", "delivery.host_id")

_log = structlog.get_logger("recording")


class SettlementBook(Protocol):
    """What recording needs of the ledger."""

    async def settle(
        self, batch: Sequence[Settlement], *, first_successes: Collection[tuple[int, int]] = ()
    ) -> Sequence[News]:
        """Write one batch and return the news in it; idempotent when called again with the same one."""
        ...


class Meter(Protocol):
    """What recording tells the metrics."""

    def settled(self, n_settlements: int, seconds: float) -> None:
        """Note one written batch."""
        ...

    def announced(self, news: Sequence[News]) -> None:
        """Note what an account was told."""
        ...


class Recorder:
    """Collects settlements and writes them. `settle` may be called from anywhere in the loop; `run` writes.

    `most_bytes` is what may wait before it `is_behind`; what attempts under way bring comes on top.
    """

    def __init__(self, book: SettlementBook, meter: Meter, *, most_bytes: int = _MOST_BYTES) -> None:
        self._book = book
        self._meter = meter
        self._most_bytes = most_bytes
        # `_waiting` grows by settle() and shrinks by run(), `_bytes` when written; both in one loop.
        self._waiting: deque[tuple[Settlement, int]] = deque()
        self._bytes = 0
        self._unproven: set[tuple[int, int]] = set()
        self._arrived = asyncio.Event()
        self._many = asyncio.Event()
        self._closing = asyncio.Event()
        self._is_behind = False
        self._is_busy = False
        self._n_under_way = 0

    @property
    def is_behind(self) -> bool:
        """Tell whether starting more attempts would only grow the buffer.

        That is from 1,000 waiting, or their most bytes, until half of both are left.
        """
        if self._is_behind:
            self._is_behind = len(self._waiting) > _LOW or self._bytes * 2 > self._most_bytes
        else:
            self._is_behind = len(self._waiting) >= _HIGH or self._bytes >= self._most_bytes
        return self._is_behind

    @property
    def n_waiting(self) -> int:
        """Return the number of settlements not yet written, those under way to the database included."""
        return len(self._waiting) + self._n_under_way

    @property
    def held_bytes(self) -> int:
        """Return the counted bytes of the settlements not yet written."""
        return self._bytes

    def settle(self, settlement: Settlement) -> None:
        """Take one settlement; it is written soon, in order."""
        n_bytes = _bytes_of(settlement)
        self._bytes += n_bytes
        if not self._waiting:
            # It is cleared only while nothing waits.
            self._arrived.set()
        self._waiting.append((settlement, n_bytes))
        if len(self._waiting) >= _BATCH:
            self._many.set()

    def first_success(self, endpoint_id: int, host_id: int) -> None:
        """Note that an endpoint without any success so far answered 2xx at this host; written with its settlement."""
        self._unproven.add((endpoint_id, host_id))

    def close(self) -> None:
        """Let `run` return once everything taken so far is written."""
        self._closing.set()
        self._arrived.set()
        self._many.set()

    async def run(self) -> None:
        """Write batches until `close` and nothing is left. Raises Fenced when this replica was taken over.

        A cancel leaves the batch under way of unknown outcome and the rest unwritten.
        """
        while True:
            await self._arrived.wait()
            if not self._waiting:
                if self._closing.is_set():
                    return
                self._arrived.clear()
                continue
            await self._linger()
            taken = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            self._n_under_way = len(taken)
            self._is_busy = len(taken) >= _BUSY
            await self._write([settlement for settlement, _ in taken])
            self._n_under_way = 0
            self._bytes -= sum(n_bytes for _, n_bytes in taken)

    async def _linger(self) -> None:
        if len(self._waiting) >= _BATCH:
            return
        self._many.clear()
        if self._closing.is_set():
            return
        try:
            async with asyncio.timeout(_BUSY_LINGER_SECONDS if self._is_busy else _LINGER_SECONDS):
                await self._many.wait()
        except TimeoutError:
            return

    async def _write(self, batch: list[Settlement]) -> None:
        first = self._unproven & set(map(_place, batch)) if self._unproven else set()
        began = clock.mono()
        tries = 0
        while True:
            failpoints.reach_soon(failpoints.Point.SETTLE_SENT)
            try:
                news = await self._book.settle(batch, first_successes=first)
            except Unavailable as fault:
                if tries == 0:
                    _log.warning("settle_failed", n_settlements=len(batch), reason=str(fault))
                await asyncio.sleep(_RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)])
                tries += 1
            except PoisonBatch as fault:
                await self._write_apart(batch, fault)
                return
            else:
                failpoints.reach(failpoints.Point.SETTLE_ANSWERED)
                self._unproven -= first
                self._meter.settled(len(batch), clock.mono() - began)
                self._meter.announced(news)
                return

    async def _write_apart(self, batch: list[Settlement], fault: PoisonBatch) -> None:
        if len(batch) > 1:
            half = len(batch) // 2
            await self._write(batch[:half])
            await self._write(batch[half:])
            return
        guilty = batch[0]
        plain = _without_details(guilty)
        if plain == guilty:
            _log.error("settlement_refused", delivery_id=guilty.delivery.delivery_id, reason=str(fault))
            plain = _without_attempt(guilty)
        if plain != guilty:
            await self._write([plain])


def _bytes_of(settlement: Settlement) -> int:
    n_bytes = _OVERHEAD_BYTES + len(settlement.delivery.body)
    outcome = settlement.outcome
    if outcome is not None:
        n_bytes += len(outcome.body)
        for name, value in outcome.headers:
            n_bytes += len(name) + len(value)
    return n_bytes


def _without_attempt(settlement: Settlement) -> Settlement:
    """Return what only moves the delivery on: without a row of its attempt rather than here until this process ends."""
    return settlement._replace(outcome=None, verdict=settlement.verdict._replace(kind=VerdictKind.PARKED))


def _without_details(settlement: Settlement) -> Settlement:
    """Return the settlement without anything that a peer could have a say in."""
    outcome = settlement.outcome
    if outcome is not None:
        outcome = outcome._replace(reason="", peer=None, body=b"", headers=(), retry_after=None)
        if outcome.status is not None and not 100 <= outcome.status <= 599:
            outcome = outcome._replace(status=None, kind=OutcomeKind.PROTOCOL_ERROR)
    delivery = settlement.delivery._replace(subject=None, client_reference=None)
    return settlement._replace(delivery=delivery, outcome=outcome)
