"""Where partitions begin that nobody has read before."""

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from dispatcher.intake.placing import Places
from dispatcher.intake.waiting import Waiting

Partition = tuple[str, int]

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]


class Ledger:
    """Positions as Postgres keeps them: whoever comes first makes one."""

    def __init__(self) -> None:
        self.at: dict[Partition, int] = {}

    async def positions(self, log_id: str, partitions: Collection[Partition]) -> dict[Partition, int]:
        assert log_id == "log"
        return {partition: self.at[partition] for partition in partitions if partition in self.at}

    async def has_positions(self, log_id: str, topic: str) -> bool:
        assert log_id == "log"
        return any(name == topic for name, _ in self.at)

    async def open_positions(self, log_id: str, starts: Mapping[Partition, int]) -> dict[Partition, int]:
        self.at = {**starts, **self.at}
        return await self.positions(log_id, list(starts))


class Kafka:
    """A consumer of a topic with as many partitions as are given; each begins at 10 and ends at 1,000."""

    log_id = "log"

    def __init__(self, n_partitions: int, committed: Mapping[Partition, int] | None = None) -> None:
        self.n_partitions = n_partitions
        self.sent_to: dict[Partition, int] = {}
        self._committed = dict(committed or {})

    async def is_same_log(self) -> bool:
        return True

    async def committed(self, partition: Partition) -> int | None:
        return self._committed.get(partition)

    async def ends(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(partitions, 1_000)

    async def beginnings(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(partitions, 10)

    def partitions(self, topic: str) -> list[Partition]:
        return [(topic, number) for number in range(self.n_partitions)]

    def seek(self, partition: Partition, offset: int) -> None:
        self.sent_to[partition] = offset


def places(ledger: Ledger, start: str) -> Places:
    meter: Any = None
    return Places(ledger, meter, Waiting(), start=start)  # type: ignore[arg-type]  # nothing is lost here


async def placed(ledger: Ledger, kafka: Any, start: str, *numbers: int) -> dict[Partition, int]:
    one = places(ledger, start)
    await one.place(kafka, [("t", number) for number in numbers])
    return one.stands


async def test_with_latest_whoever_comes_second_begins_at_the_end_as_well() -> None:
    ledger = Ledger()

    first = await placed(ledger, Kafka(2), "latest", 0)
    second = await placed(ledger, Kafka(2), "latest", 1)

    assert (first, second) == ({("t", 0): 1_000}, {("t", 1): 1_000})


async def test_a_partition_that_is_added_later_begins_at_its_beginning() -> None:
    ledger = Ledger()
    await placed(ledger, Kafka(2), "latest", 0, 1)

    assert await placed(ledger, Kafka(3), "latest", 2) == {("t", 2): 10}


async def test_a_committed_offset_of_the_group_goes_before_what_is_configured() -> None:
    committed = {("t", 0): 400, ("t", 1): 500}
    ledger = Ledger()

    assert await placed(ledger, Kafka(3, committed), "latest", 0) == {("t", 0): 400}
    assert ledger.at == {("t", 0): 400, ("t", 1): 500, ("t", 2): 1_000}


async def test_with_earliest_only_what_is_ones_own_is_opened() -> None:
    ledger = Ledger()

    assert await placed(ledger, Kafka(3), "earliest", 1) == {("t", 1): 10}
    assert ledger.at == {("t", 1): 10}
