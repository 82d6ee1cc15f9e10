"""The lag, of what is known of a partition: its end by two ways, where it stands, how far the library has read."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from dispatcher.intake.lag import Lag
from dispatcher.intake.positions import Partition
from dispatcher.kit.supervise import spawn

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]

HERE: Partition = ("t", 0)


@dataclass
class Kafka:
    """A consumer that knows what the test says; `told` is where the broker says that the log ends."""

    told: int | None = None
    fetched: int | None = None
    read: int | None = None
    n_asked: int = 0
    answers: asyncio.Event = field(default_factory=asyncio.Event)

    async def ends(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        self.n_asked += 1
        if self.told is None:
            await self.answers.wait()
            raise TimeoutError
        return dict.fromkeys(partitions, self.told)

    def highwater(self, partition: Partition) -> int | None:
        return self.fetched

    def read_to(self, partition: Partition) -> int | None:
        return self.read


class Told:
    """Keeps every word."""

    def __init__(self) -> None:
        self.lags: list[Mapping[Partition, int | None]] = []

    def lagged(self, lags: Mapping[Partition, int | None]) -> None:
        self.lags.append(lags)


async def lag_of(kafka: Any, *, stood: int, stands: int) -> int | None:
    """Return what a look tells of a partition that stood elsewhere when the loop last was between two polls."""
    told, places = Told(), {HERE: stood}
    lag = Lag(told, places)
    watching = spawn(lag.watch(kafka), name="lag")
    await asyncio.sleep(0.5)
    lag.note_read(kafka)
    places[HERE] = stands
    await asyncio.sleep(1)
    watching.cancel()
    return told.lags[-1][HERE]


@pytest.mark.parametrize(
    ("kafka", "stood", "stands", "lag"),
    [
        (Kafka(), 5, 5, None),
        (Kafka(told=12), 5, 5, 7),
        (Kafka(told=12, fetched=5, read=5), 5, 5, 7),
        (Kafka(told=3, fetched=12, read=5), 5, 5, 7),
        (Kafka(told=12, fetched=12, read=12), 5, 5, 0),
        (Kafka(told=12, fetched=12, read=7), 5, 9, 3),
        (Kafka(told=5, fetched=5, read=0), 100, 100, 5),
        (Kafka(told=3), 5, 5, 0),
    ],
    ids=[
        "an unknown end is no lag of 0",
        "nothing was fetched yet",
        "nothing is fetched any more",
        "the broker tells too little",
        "what nobody may read was read",
        "more was accepted since",
        "a log that became shorter is read again",
        "never below 0",
    ],
)
async def test_the_lag_is_what_is_left_to_accept(kafka: Kafka, stood: int, stands: int, lag: int | None) -> None:
    kafka.answers.set()

    assert await lag_of(kafka, stood=stood, stands=stands) == lag


async def test_a_broker_that_does_not_answer_is_not_asked_twice_at_once_and_the_last_ends_count_on() -> None:
    kafka, told, places = Kafka(told=12), Told(), {HERE: 5}
    watching = spawn(Lag(told, places).watch(kafka), name="lag")  # type: ignore[arg-type]
    await asyncio.sleep(1.5)
    kafka.told = None
    await asyncio.sleep(60)
    n_asked = kafka.n_asked
    places[HERE] = 6
    kafka.answers.set()
    await asyncio.sleep(0.1)
    watching.cancel()

    assert n_asked == 2
    assert [lags[HERE] for lags in told.lags] == [7, 6]


async def test_without_partitions_nobody_is_asked() -> None:
    kafka, told = Kafka(told=12), Told()
    watching = spawn(Lag(told, {}).watch(kafka), name="lag")  # type: ignore[arg-type]
    await asyncio.sleep(3.5)
    watching.cancel()

    assert (kafka.n_asked, told.lags) == (0, [{}, {}, {}])
