"""Copies of dead records: bounded in number, bytes and time; no Kafka."""

import asyncio
from collections import Counter
from typing import Any, Self

import pytest

from dispatcher.intake import dead_letters
from dispatcher.intake.consumer import KafkaSettings
from dispatcher.intake.dead_letters import MOST_WAITING, DeadLetters, Letter
from dispatcher.kit import clock
from dispatcher.model.batch import DeadRecord
from dispatcher.model.errors import Unavailable
from dispatcher.model.event import DeadReason, Record

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]

SETTINGS = KafkaSettings("localhost:1", ("t",), "group")


class Topic:
    """A dead-letter topic in place of the producer's way to it: takes a copy, refuses it, or says nothing.

    The way itself `falls_over` one offset.
    """

    def __init__(
        self, *, lets_in: bool = True, takes: bool = True, answers: bool = True, falls_over: int | None = None
    ) -> None:
        self.lets_in, self.takes, self.answers, self._falls_over = lets_in, takes, answers, falls_over
        self.offsets: list[int] = []

    def __call__(self, _: KafkaSettings) -> Self:
        return self

    async def __aenter__(self) -> Self:
        if not self.lets_in:
            raise Unavailable("Kafka does not let us in")
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def send(self, topic: str, value: bytes, **more: Any) -> None:
        if not self.answers:
            await asyncio.Event().wait()
        if not self.takes:
            raise Unavailable("Kafka did not acknowledge the record")
        offset = int(dict(more["headers"])["x-dlq-offset"])
        assert offset != self._falls_over
        self.offsets.append(offset)


class Meter:
    """Counts copies by what became of them."""

    def __init__(self) -> None:
        self.copies: Counter[str] = Counter()

    def copied(self, n_records: int, result: str) -> None:
        self.copies[result] += n_records


def letters(n: int, *, n_bytes: int = 10) -> list[Letter]:
    return [
        (
            Record("t", 0, offset, 0, b"key", b"x" * n_bytes, ()),
            DeadRecord("t", 0, offset, DeadReason.NOT_JSON, "at byte 1", b"key", b"[]", b"sealed"),
        )
        for offset in range(n)
    ]


async def copied(monkeypatch: pytest.MonkeyPatch, topic: Topic, *dead: list[Letter]) -> tuple[Counter[str], float]:
    """Offer records, close, and return what became of them and how long closing took."""
    monkeypatch.setattr(dead_letters, "Producer", topic)
    meter = Meter()
    async with DeadLetters(SETTINGS, "copies", meter) as copies:
        for some in dead:
            copies.offer(some)
        began = clock.mono()
    return meter.copies, clock.mono() - began


async def test_what_waits_at_a_stop_is_sent_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    topic = Topic()

    found, _ = await copied(monkeypatch, topic, letters(3), letters(2))

    assert topic.offsets == [0, 1, 2, 0, 1]
    assert found == {"sent": 5}


async def test_a_topic_that_says_nothing_holds_a_stop_up_for_seconds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found, seconds = await copied(monkeypatch, Topic(answers=False), letters(3))

    assert found == {"failed": 1, "dropped": 2}
    assert seconds <= 6


async def test_more_than_fit_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = await copied(monkeypatch, Topic(), letters(MOST_WAITING + 7))

    assert found == {"sent": MOST_WAITING, "dropped": 7}


async def test_bytes_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = await copied(monkeypatch, Topic(), letters(12, n_bytes=1 << 20))

    assert found == {"sent": 8, "dropped": 4}


@pytest.mark.parametrize("topic", [Topic(lets_in=False), Topic(takes=False)], ids=["no way in", "no record taken"])
async def test_copies_that_fail_are_counted_and_room_is_there_again(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "Producer", topic)
    meter = Meter()
    async with DeadLetters(SETTINGS, "copies", meter) as copies:
        for _ in range(2):
            copies.offer(letters(8, n_bytes=1 << 20))
            await asyncio.sleep(1)
        topic.lets_in = topic.takes = True
        copies.offer(letters(8, n_bytes=1 << 20))

    assert meter.copies == {"failed": 16, "sent": 8}


async def test_a_fall_waits_for_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "Producer", Topic(answers=False))
    meter = Meter()
    copies = DeadLetters(SETTINGS, "copies", meter)
    await copies.__aenter__()
    copies.offer(letters(3))
    began = clock.mono()

    await copies.__aexit__(ZeroDivisionError)

    assert meter.copies.total() == 3
    assert meter.copies["sent"] == 0
    assert clock.mono() - began <= 1


async def test_one_copy_that_falls_does_not_end_the_copying(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = await copied(monkeypatch, Topic(falls_over=1), letters(5))

    assert found == {"sent": 4, "failed": 1}
