"""Copies of bad records on a topic of their own, for those who watch topics and not tables.

They are no part of an event's way: intake hands them over and reads on, a task sends them. A topic that refuses for
long fills the room that they wait in, and then copies are left out, counted; the table has every record.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, Self

import structlog

from dispatcher.intake.consumer import KafkaSettings
from dispatcher.intake.producer import Producer
from dispatcher.kit import clock
from dispatcher.kit.supervise import finish_within, spawn
from dispatcher.model.batch import DeadRecord
from dispatcher.model.errors import Unavailable
from dispatcher.model.event import Record

_log = structlog.get_logger("intake")

MOST_WAITING: Final = 1_000
_MOST_BYTES: Final = 8 << 20
_FLUSH_SECONDS: Final = 5.0

Letter = tuple[Record, DeadRecord]


class CopyMeter(Protocol):
    """What copying tells the metrics and the log."""

    def copied(self, n_records: int, result: str) -> None:
        """Note copies that were sent, failed or dropped."""
        ...


class DeadLetters:
    """Copies bad records to a topic of their own; an async context manager.

    A clean exit waits five seconds for what is left, an exit by a fault for nothing.
    """

    def __init__(self, kafka: KafkaSettings, topic: str, meter: CopyMeter) -> None:
        self._kafka = kafka
        self._topic = topic
        self._meter = meter
        self._waiting: deque[Letter] = deque()
        self._n_bytes = 0
        self._came = asyncio.Event()
        self._is_closing = False

    async def __aenter__(self) -> Self:
        self._sending = spawn(self._send_all(), name="dead-letters")
        return self

    async def __aexit__(self, fault: object, *_: object) -> None:
        self._is_closing = True
        self._came.set()
        is_done = await finish_within(self._sending, _FLUSH_SECONDS if fault is None else 0.0)
        if not is_done and self._waiting:
            self._meter.copied(len(self._waiting), "dropped")

    def offer(self, dead: Sequence[Letter]) -> None:
        """Take records to be copied; what finds no room is left out. Never waits."""
        n_dropped = 0
        for letter in dead:
            if len(self._waiting) >= MOST_WAITING or self._n_bytes + _size(letter) > _MOST_BYTES:
                n_dropped += 1
                continue
            self._waiting.append(letter)
            self._n_bytes += _size(letter)
        if n_dropped:
            self._meter.copied(n_dropped, "dropped")
        self._came.set()

    async def _send_all(self) -> None:
        while self._waiting or not self._is_closing:
            await self._came.wait()
            self._came.clear()
            if self._waiting:
                await self._send_waiting()

    async def _send_waiting(self) -> None:
        """Send what waits, over a connection of its own; without one, what waits by then has failed."""
        try:
            async with Producer(self._kafka) as producer:
                while self._waiting:
                    await self._send(producer, *self._next())
        except Unavailable as fault:
            n_records = len(self._waiting)
            self._waiting.clear()
            self._n_bytes = 0
            self._meter.copied(n_records, "failed")
            _log.warning("dead_letter_copy_failed", n_records=n_records, reason=str(fault))

    def _next(self) -> Letter:
        letter = self._waiting.popleft()
        self._n_bytes -= _size(letter)
        return letter

    async def _send(self, producer: Producer, record: Record, one: DeadRecord) -> None:
        """Send the original key, value and headers, and where and why in `x-dlq-` headers."""
        why = {
            "reason": one.reason.value,
            "topic": one.topic,
            "partition": str(one.partition),
            "offset": str(one.offset),
            "at": clock.utcnow().isoformat(),
        }
        marks = tuple((f"x-dlq-{name}", text.encode()) for name, text in why.items())
        result = "failed"
        try:
            await producer.send(self._topic, record.value, key=record.key, headers=(*record.headers, *marks))
            result = "sent"
        except Unavailable as fault:
            _log.warning("dead_letter_copy_failed", n_records=1, reason=str(fault))
        except Exception as fault:  # noqa: BLE001 - one record that cannot be sent must not end the copying of others
            _log.exception("dead_letter_copy_failed", n_records=1, reason=type(fault).__name__)
        finally:
            # Also of the one that is cut off by the end.
            self._meter.copied(1, result)


def _size(letter: Letter) -> int:
    record, _ = letter
    return len(record.value or b"") + sum(len(name) + len(value or b"") for name, value in record.headers)
