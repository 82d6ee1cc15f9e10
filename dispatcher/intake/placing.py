"""Where partitions stand: found out when they are assigned, and again after every refusal."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

import structlog
from aiokafka.errors import KafkaError

from dispatcher.intake.consumer import Consumer, OutsideLog
from dispatcher.intake.positions import Partition
from dispatcher.intake.waiting import Waiting
from dispatcher.model.errors import Unavailable

_log = structlog.get_logger("intake")


class PositionLedger(Protocol):
    """What placing needs of Postgres."""

    async def positions(self, log_id: str, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Return where known partitions stand."""
        ...

    async def has_positions(self, log_id: str, topic: str) -> bool:
        """Tell whether a topic was ever read in this log."""
        ...

    async def open_positions(self, log_id: str, starts: Mapping[Partition, int]) -> dict[Partition, int]:
        """Make missing positions and return the truth."""
        ...

    async def record_lost(self, log_id: str, topic: str, partition: int, from_offset: int, to_offset: int) -> None:
        """Note records that were deleted before they were read."""
        ...


class LossMeter(Protocol):
    """What placing tells the metrics and the log."""

    def lost(self, topic: str, partition: int, from_offset: int, to_offset: int) -> None:
        """Note records deleted before they were read."""
        ...

    def beyond(self, topic: str, partition: int, position: int) -> None:
        """Note a position that lies beyond the end of its log."""
        ...


class Places:
    """Where this process believes each of its partitions stands; `start` is earliest or latest, for new ones.

    `stands` is written by the loop, and by the library while partitions are assigned or revoked. `generation` counts
    assignments: what was found out for one is nothing to the next.
    """

    def __init__(self, ledger: PositionLedger, meter: LossMeter, waiting: Waiting, *, start: str) -> None:
        self.stands: dict[Partition, int] = {}
        self.generation = 0
        self._ledger = ledger
        self._meter = meter
        self._waiting = waiting
        self._start = start
        self._placing = asyncio.Lock()

    def forget(self) -> None:
        """Know nothing any more: the partitions may be others' now."""
        self.stands.clear()
        self.generation += 1

    def are_known(self, consumer: Consumer) -> bool:
        """Tell whether there is something to read, and every partition of ours has its place."""
        return consumer.has_topics() and all(partition in self.stands for partition in consumer.assignment())

    async def place(self, consumer: Consumer, partitions: Sequence[Partition]) -> None:
        """Find out where partitions stand and send the consumer there. Failures leave them unplaced for later.

        The library calls this with an assignment, the loop with what is left; one at a time, or the slower one would
        send the consumer back.
        """
        async with self._placing:
            if await consumer.is_same_log():
                await self._place(consumer, [partition for partition in partitions if partition not in self.stands])

    async def _place(self, consumer: Consumer, partitions: Sequence[Partition]) -> None:
        generation = self.generation
        if not partitions or not consumer.log_id:
            return
        try:
            known = await self._ledger.positions(consumer.log_id, partitions)
            fresh = [partition for partition in partitions if partition not in known]
            if fresh:
                opened = await self._ledger.open_positions(consumer.log_id, await self._starts(consumer, fresh))
                known |= {partition: opened[partition] for partition in fresh}
        except (Unavailable, KafkaError, TimeoutError) as fault:
            self._waiting.tell(fault)
            await self._waiting.pause()
            return
        if generation == self.generation:
            for partition, offset in known.items():
                consumer.seek(partition, offset)
                self.stands[partition] = offset
            _log.info("partitions_placed", partitions=sorted(f"{t}/{p}@{offset}" for (t, p), offset in known.items()))

    async def _starts(self, consumer: Consumer, fresh: Sequence[Partition]) -> dict[Partition, int]:
        """Return where partitions without a position begin, and with `latest` those of others in a topic new to all.

        A new partition of a topic that is being read begins at its beginning, whatever is configured. So a topic that
        nobody read yet is opened whole: to who comes second its partitions would look like new ones.
        """
        starts: dict[Partition, int] = {}
        for topic in {topic for topic, _ in fresh}:
            mine = [partition for partition in fresh if partition[0] == topic]
            if self._start == "latest" and not await self._ledger.has_positions(consumer.log_id, topic):
                found = await consumer.ends({*mine, *consumer.partitions(topic)})
            else:
                found = await consumer.beginnings(mine)
            for partition, offset in found.items():
                committed = await consumer.committed(partition)
                starts[partition] = offset if committed is None else committed
        return starts

    async def come_back_in(self, consumer: Consumer, fault: OutsideLog) -> None:
        """Go on where the log has records again, and say loudly what was lost.

        Below the log's beginning: records were deleted before they were read. Beyond its end: a known log became
        shorter; everything in it is read again, and the events' ids absorb the repeats.
        """
        beginnings = await consumer.beginnings(fault.where)
        for partition, position in fault.where.items():
            beginning = beginnings[partition]
            if position < beginning:
                self._meter.lost(*partition, position, beginning)
                await self._waiting.until_available(
                    partial(self._ledger.record_lost, consumer.log_id, *partition, position, beginning)
                )
            else:
                self._meter.beyond(*partition, position)
            consumer.seek(partition, beginning)

    async def resume(self, consumer: Consumer, partitions: list[Partition]) -> None:
        """Send the consumer to where refused partitions really stand."""
        generation = self.generation
        truth = await self._waiting.until_available(lambda: self._ledger.positions(consumer.log_id, partitions))
        if truth is None or generation != self.generation:
            return
        for partition in partitions:
            if partition in truth:
                consumer.seek(partition, truth[partition])
                self.stands[partition] = truth[partition]
            else:
                self.stands.pop(partition, None)
