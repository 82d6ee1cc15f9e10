"""Intake: polls Kafka, decodes, hands each poll to the ledger as one batch, and its deliveries to the lanes.

The position of a partition lives in Postgres, keyed by the log's id, and is moved by accepting a batch. This
process only believes where a partition stands; a batch that starts elsewhere is refused, and then the truth is read
again and the consumer sent there. Kafka's committed offset is a copy.

Not polling is the back pressure: while the lanes have no room nothing is fetched beyond what is buffered, and the
group membership lives on in the library's background.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import orjson
import structlog
from aiokafka.errors import KafkaError

from dispatcher.intake.consumer import Consumer, KafkaSettings, OutsideLog, Oversized
from dispatcher.intake.decoding import Decoder
from dispatcher.intake.positions import BatchBuilder, Days, Partition, halves, only
from dispatcher.kit import clock, failpoints
from dispatcher.kit.supervise import sleep_until_set, spawn
from dispatcher.model.batch import Accepted, Batch, DeadRecord
from dispatcher.model.delivery import Delivery
from dispatcher.model.errors import PoisonBatch, Unavailable
from dispatcher.model.event import DeadEvent, DeadReason, Record

_log = structlog.get_logger("intake")

_POLL_MS: Final = 100
_MOST_RECORDS: Final = 500
_AGAIN_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 5.0
_COPY_SECONDS: Final = 1.0
_STUCK_SECONDS: Final = 60.0
_QUIET_SECONDS: Final = 10.0
"""At most one line in this time about a broker that is away."""


class Ledger(Protocol):
    """What intake needs of Postgres."""

    def days(self) -> Days:
        """Return the first and last day that can hold events."""
        ...

    async def known_accounts(self, names: Collection[str], *, create: bool) -> frozenset[str]:
        """Return those of the accounts that exist."""
        ...

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

    async def accept(self, batch: Batch) -> Accepted:
        """Store a batch."""
        ...


class Meter(Protocol):
    """What intake tells the metrics and the log."""

    def accepted(self, batch: Batch, accepted: Accepted, seconds: float) -> None:
        """Note one accepted batch."""
        ...

    def skipped(self, n_records: int, reason: str) -> None:
        """Note records that are not for us."""
        ...

    def lost(self, topic: str, partition: int, from_offset: int, to_offset: int) -> None:
        """Note records deleted before they were read."""
        ...

    def lagged(self, lags: dict[Partition, int]) -> None:
        """Note the lag of each assigned partition."""
        ...


@dataclass(frozen=True, slots=True)
class Doors:
    """What intake is given: where deliveries go, whether there is room, how values are sealed.

    `has_room` tells whether there is room, `room` returns when there is. `unknown_outcome` is called when an accept
    may have committed without an answer. `dead_letters` gets the records that died, once their batch is accepted.
    """

    submit: Callable[[Sequence[Delivery]], Awaitable[None]]
    has_room: Callable[[], bool]
    room: Callable[[], Awaitable[None]]
    seal: Callable[[bytes, str], bytes]
    unknown_outcome: Callable[[], None]
    dead_letters: Callable[[Sequence[tuple[Record, DeadRecord]]], Awaitable[None]] | None = None


class Intake:
    """Runs until `stop`. Survives Kafka and Postgres being away; Fenced passes through.

    `unknown_account` is create, skip or dead; `start` earliest or latest.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        ledger: Ledger,
        decoder: Decoder,
        doors: Doors,
        meter: Meter,
        *,
        unknown_account: str,
        start: str,
    ) -> None:
        self._kafka = kafka
        self._ledger = ledger
        self._decoder = decoder
        self._doors = doors
        self._meter = meter
        self._unknown_account = unknown_account
        self._start = start
        self._stopping = asyncio.Event()
        # Written by the loop, and by the library while partitions are assigned or revoked.
        self._stands: dict[Partition, int] = {}
        self._consumer: Consumer | None = None
        self._generation = 0
        self._placing = asyncio.Lock()
        self._copying: asyncio.Task[None] | None = None
        self._next_copy = 0.0
        self._told_away = -_QUIET_SECONDS
        self.last_progress = clock.mono()
        """Monotonic time of the last poll that was answered with records, or found nothing to read."""
        self.joined = asyncio.Event()
        """Set while the group has let this process in and its partitions are placed."""

    @property
    def n_partitions(self) -> int:
        """Return how many partitions this process reads."""
        return len(self._stands)

    def stop(self) -> None:
        """Poll no more; `run` returns after the accept under way and after leaving the group (5 s at most)."""
        self._stopping.set()

    async def run(self) -> None:
        """Read until `stop`; open the consumer again after every fault that a new one may cure."""
        pause = _AGAIN_SECONDS
        while not self._stopping.is_set():
            consumer = self._consumer = Consumer(self._kafka, assigned=self._place, revoked=self._forget)
            try:
                await consumer.start()
                pause = _AGAIN_SECONDS
                await self._read(consumer)
            except (KafkaError, OSError, TimeoutError) as fault:
                self._tell_away(fault)
                await sleep_until_set(self._stopping, pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            finally:
                self.joined.clear()
                self._forget()
                await consumer.stop()

    async def _read(self, consumer: Consumer) -> None:
        while not self._stopping.is_set():
            await self._await_room()
            if consumer.log_changed:
                _log.warning("log_changed", log_id=consumer.log_id)
                return
            await self._place([p for p in consumer.assignment() if p not in self._stands])
            try:
                found = await consumer.poll(milliseconds=_POLL_MS, most=_MOST_RECORDS)
            except OutsideLog as fault:
                await self._come_back_in(consumer, fault)
                continue
            except Oversized as fault:
                await self._bury_unreadable(consumer, fault.where, DeadReason.TOO_LARGE, "larger than a fetch")
                continue
            except (UnicodeDecodeError, ValueError):
                await self._read_one_by_one(consumer)
                continue
            if found and not consumer.log_changed:
                await self._take(consumer, found)
            if await self._after_poll(consumer, n_found=len(found)):
                return

    async def _await_room(self) -> None:
        if self._doors.has_room():
            return
        room = spawn(_awaited(self._doors.room()), name="room")
        stopping = spawn(_awaited(self._stopping.wait()), name="stopping")
        try:
            await asyncio.wait({room, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            room.cancel()
            stopping.cancel()

    # positions

    def _forget(self) -> None:
        self._stands.clear()
        self._generation += 1

    async def _place(self, partitions: Sequence[Partition]) -> None:
        """Find out where partitions stand and send the consumer there. Failures leave them unplaced for later.

        The library calls this with an assignment, the loop with what is left; one at a time, or the slower one would
        send the consumer back.
        """
        async with self._placing:
            await self._place_unplaced([partition for partition in partitions if partition not in self._stands])
        self.joined.set()

    async def _place_unplaced(self, partitions: Sequence[Partition]) -> None:
        consumer, generation = self._consumer, self._generation
        if not partitions or consumer is None or not consumer.log_id:
            return
        try:
            known = await self._ledger.positions(consumer.log_id, partitions)
            fresh = [partition for partition in partitions if partition not in known]
            if fresh:
                starts = {partition: await self._first_offset(consumer, partition) for partition in fresh}
                known |= await self._ledger.open_positions(consumer.log_id, starts)
        except (Unavailable, KafkaError, TimeoutError) as fault:
            self._tell_away(fault)
            await sleep_until_set(self._stopping, _AGAIN_SECONDS)
            return
        if generation == self._generation:
            for partition, offset in known.items():
                consumer.seek(partition, offset)
                self._stands[partition] = offset
            _log.info("partitions_placed", partitions=sorted(f"{t}/{p}@{offset}" for (t, p), offset in known.items()))

    async def _first_offset(self, consumer: Consumer, partition: Partition) -> int:
        """Return where a partition without a position begins: the group's committed offset, else as configured.

        A new partition of a topic that is being read begins at its beginning, whatever is configured.
        """
        committed = await consumer.committed(partition)
        if committed is not None:
            return committed
        if self._start == "latest" and not await self._ledger.has_positions(consumer.log_id, partition[0]):
            return (await consumer.ends([partition]))[partition]
        return (await consumer.beginnings([partition]))[partition]

    async def _come_back_in(self, consumer: Consumer, fault: OutsideLog) -> None:
        """Go on where the log has records again, and say loudly what was lost.

        Below the log's beginning: records were deleted before they were read. Beyond its end: a known log became
        shorter; everything in it is read again, and the events' ids absorb the repeats.
        """
        beginnings = await consumer.beginnings(fault.where)
        for partition, position in fault.where.items():
            beginning = beginnings[partition]
            if position < beginning:
                self._meter.lost(*partition, position, beginning)
                await self._until_available(
                    partial(self._ledger.record_lost, consumer.log_id, *partition, position, beginning)
                )
            else:
                _log.error("position_beyond_log", topic=partition[0], partition=partition[1], position=position)
            consumer.seek(partition, beginning)

    # records

    async def _take(self, consumer: Consumer, found: Mapping[Partition, Sequence[Record]]) -> None:
        failpoints.reach(failpoints.Point.INTAKE_POLLED)
        builder = BatchBuilder(
            consumer.log_id, self._ledger.days(), lambda record, dead: self._buried(consumer.log_id, record, dead)
        )
        for partition, records in found.items():
            stands = self._stands.get(partition)
            if stands is None:
                # Fetched before the position was known: whatever it is, it will be read again from there.
                continue
            builder.add_span(partition, stands, records[-1].offset + 1)
            for record in records:
                builder.add(record, self._decoder.decode(record))
        await self._check_accounts(builder, found)
        batch = builder.build()
        if batch.spans:
            await self._accept(consumer, batch)
            await self._copy_dead(builder.dead_records, batch.dead)
        if builder.n_skipped:
            self._meter.skipped(builder.n_skipped, "unknown_type")

    async def _check_accounts(self, builder: BatchBuilder, found: Mapping[Partition, Sequence[Record]]) -> None:
        names = builder.accounts()
        if not names:
            return
        create = self._unknown_account == "create"
        known = await self._until_available(lambda: self._ledger.known_accounts(names, create=create))
        if unknown := frozenset(names) - (known or frozenset()):
            by_place = {(r.topic, r.partition, r.offset): r for records in found.values() for r in records}
            builder.drop_accounts(unknown, records=by_place if self._unknown_account == "dead" else None)

    def _buried(self, log_id: str, record: Record, dead: DeadEvent) -> DeadRecord:
        place = f"dead_event:{log_id}:{record.topic}:{record.partition}:{record.offset}"
        value = None if record.value is None else self._doors.seal(record.value, place)
        return DeadRecord(
            record.topic, record.partition, record.offset, dead.reason, dead.detail, record.key, _headers(record), value
        )

    async def _accept(self, consumer: Consumer, batch: Batch) -> None:
        """Have a batch accepted, in halves when Postgres refuses what it holds; follow up on what it says."""
        generation = self._generation
        began = clock.mono()
        failpoints.reach_soon(failpoints.Point.ACCEPT_SENT)
        try:
            accepted = await self._ledger.accept(batch)
        except Unavailable as fault:
            self._tell_away(fault)
            self._doors.unknown_outcome()
            await sleep_until_set(self._stopping, _AGAIN_SECONDS)
            await self._find_out(consumer, batch)
            return
        except PoisonBatch as fault:
            await self._accept_apart(consumer, batch, fault)
            return
        failpoints.reach(failpoints.Point.ACCEPT_ANSWERED)
        self._meter.accepted(batch, accepted, clock.mono() - began)
        if generation == self._generation:
            for span in batch.spans:
                self._stands[span.topic, span.partition] = span.stop
        if accepted.fresh:
            await self._doors.submit(accepted.fresh)
        if accepted.refused:
            await self._resume(consumer, list(accepted.refused))

    async def _accept_apart(self, consumer: Consumer, batch: Batch, fault: PoisonBatch) -> None:
        parts = halves(batch)
        if parts is not None:
            for part in parts:
                await self._accept(consumer, part)
            return
        if not batch.events:
            raise fault
        guilty = batch.events[0]
        _log.error(
            "event_refused", topic=guilty.topic, partition=guilty.partition, offset=guilty.offset, reason=str(fault)
        )
        place = f"dead_event:{batch.log_id}:{guilty.topic}:{guilty.partition}:{guilty.offset}"
        dead = DeadRecord(
            guilty.topic,
            guilty.partition,
            guilty.offset,
            DeadReason.REFUSED_BY_DATABASE,
            str(fault),
            None,
            b"[]",
            self._doors.seal(guilty.event.body, place),
        )
        await self._accept(consumer, batch._replace(events=(), dead=(*batch.dead, dead)))

    async def _find_out(self, consumer: Consumer, batch: Batch) -> None:
        """After an accept without an answer: what stands where it ended is in, what stands where it began is not."""
        partitions = [(span.topic, span.partition) for span in batch.spans]
        truth = await self._until_available(lambda: self._ledger.positions(batch.log_id, partitions))
        if truth is None:
            return
        again = [(s.topic, s.partition) for s in batch.spans if truth.get((s.topic, s.partition)) == s.start]
        elsewhere = [
            (s.topic, s.partition) for s in batch.spans if truth.get((s.topic, s.partition)) not in (s.start, s.stop)
        ]
        for span in batch.spans:
            if (span.topic, span.partition) in self._stands and truth.get((span.topic, span.partition)) == span.stop:
                self._stands[span.topic, span.partition] = span.stop
        if elsewhere:
            await self._resume(consumer, elsewhere)
        if again and not self._stopping.is_set():
            await self._accept(consumer, only(batch, again))

    async def _resume(self, consumer: Consumer, partitions: list[Partition]) -> None:
        """Send the consumer to where refused partitions really stand."""
        generation = self._generation
        truth = await self._until_available(lambda: self._ledger.positions(consumer.log_id, partitions))
        if truth is None or generation != self._generation:
            return
        for partition in partitions:
            if partition in truth:
                consumer.seek(partition, truth[partition])
                self._stands[partition] = truth[partition]
            else:
                self._stands.pop(partition, None)

    async def _until_available(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask Postgres until it answers; None when told to stop first."""
        while True:
            try:
                return await ask()
            except Unavailable as fault:
                self._tell_away(fault)
                if await sleep_until_set(self._stopping, _AGAIN_SECONDS):
                    return None

    # what cannot be read

    async def _read_one_by_one(self, consumer: Consumer) -> None:
        """Find the record that the library cannot read, keep its place as a dead event, and go on behind it."""
        for partition in consumer.assignment():
            try:
                for _ in range(_MOST_RECORDS):
                    record, offset = await consumer.poll_one(partition)
                    if record is None:
                        await self._bury_unreadable(
                            consumer, {partition: offset}, DeadReason.BAD_HEADERS, "not readable as a record"
                        )
                        return
                    await self._take(consumer, {partition: [record]})
            except TimeoutError:
                continue

    async def _bury_unreadable(
        self, consumer: Consumer, where: Mapping[Partition, int], reason: DeadReason, detail: str
    ) -> None:
        for partition, offset in where.items():
            stands = self._stands.get(partition)
            if stands is None:
                continue
            builder = BatchBuilder(
                consumer.log_id, self._ledger.days(), lambda record, dead: self._buried(consumer.log_id, record, dead)
            )
            builder.add_span(partition, stands, offset + 1)
            builder.add(Record(*partition, offset, 0, None, None, ()), DeadEvent(reason, detail))
            await self._accept(consumer, builder.build())

    async def _copy_dead(self, records: Sequence[Record], dead: Sequence[DeadRecord]) -> None:
        if self._doors.dead_letters is not None and dead:
            await self._doors.dead_letters(list(zip(records, dead, strict=True)))

    # watching

    async def _after_poll(self, consumer: Consumer, *, n_found: int) -> bool:
        """Tell lag and copy positions now and then; return whether the consumer is stuck and must be made anew."""
        now = clock.mono()
        if n_found:
            self.last_progress = now
        if now >= self._next_copy:
            self._next_copy = now + _COPY_SECONDS
            lags = {p: max(0, (consumer.highwater(p) or 0) - stands) for p, stands in self._stands.items()}
            self._meter.lagged(lags)
            if self._stands and (self._copying is None or self._copying.done()):
                self._copying = spawn(consumer.copy_positions(), name="copy-positions")
        if now - self.last_progress < _STUCK_SECONDS:
            return False
        self.last_progress = now
        return await self._is_stuck(consumer)

    async def _is_stuck(self, consumer: Consumer) -> bool:
        if not self._stands:
            _log.warning("assignment_empty", hint="more replicas than partitions, or a topic that does not exist")
            return True
        try:
            ends = await consumer.ends(self._stands)
        except (KafkaError, TimeoutError):
            return True
        behind = sorted(f"{t}/{p}" for (t, p), end in ends.items() if end > self._stands.get((t, p), end))
        if behind:
            _log.error("consumer_stuck", partitions=behind)
        return bool(behind)

    def _tell_away(self, fault: BaseException) -> None:
        now = clock.mono()
        if now - self._told_away >= _QUIET_SECONDS:
            self._told_away = now
            _log.warning("intake_waits", reason=f"{type(fault).__name__}: {fault}")


async def _awaited(work: Awaitable[Any]) -> None:
    await work


def _headers(record: Record) -> bytes:
    """Return a record's headers as JSON, faithfully: pairs of name and base64 of the value, or name and null."""
    return orjson.dumps(
        [[name, None if value is None else base64.b64encode(value).decode()] for name, value in record.headers]
    )
