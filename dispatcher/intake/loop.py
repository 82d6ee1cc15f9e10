"""Intake: polls Kafka, decodes, hands each poll to the ledger as one batch, and its deliveries to the lanes.

The position of a partition lives in Postgres, keyed by the log's id, and is moved by accepting a batch. This
process only believes where a partition stands; a batch that starts elsewhere is refused, and then the truth is read
again and the consumer sent there. Kafka's committed offset is a copy.

Not polling is the back pressure: while the lanes have no room nothing is fetched beyond what is buffered, and the
group membership lives on in the library's background.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson
import structlog
from aiokafka.errors import KafkaConnectionError, KafkaError

from dispatcher.intake.consumer import Consumer, KafkaSettings, OutsideLog, Oversized
from dispatcher.intake.decoding import Decoder
from dispatcher.intake.lag import Lag, LagMeter
from dispatcher.intake.placing import LossMeter, Places, PositionLedger
from dispatcher.intake.positions import BatchBuilder, Days, Partition, halves, only
from dispatcher.intake.waiting import AGAIN_SECONDS, Waiting
from dispatcher.intake.watchdog import Patience, Watchdog
from dispatcher.kit import clock, failpoints
from dispatcher.kit.supervise import finish_unless_set, spawn
from dispatcher.model.batch import Accepted, Batch, DeadRecord
from dispatcher.model.delivery import Delivery
from dispatcher.model.errors import PoisonBatch, Unavailable
from dispatcher.model.event import DeadEvent, DeadReason, Record

_log = structlog.get_logger("intake")

_POLL_MS: Final = 100
_LAST_POLL_SECONDS: Final = 1.0
_MOST_RECORDS: Final = 500
_LONGEST_PAUSE_SECONDS: Final = 5.0
_COPY_SECONDS: Final = 1.0
_LET_IN_SECONDS: Final = 60.0


class Ledger(PositionLedger, Protocol):
    """What intake needs of Postgres."""

    def days(self) -> Days:
        """Return the first and last day that can hold events."""
        ...

    async def known_accounts(self, names: Collection[str], *, create: bool) -> frozenset[str]:
        """Return those of the accounts that exist."""
        ...

    async def accept(self, batch: Batch) -> Accepted:
        """Store a batch."""
        ...


class Meter(LossMeter, LagMeter, Protocol):
    """What intake tells the metrics and the log."""

    def accepted(self, batch: Batch, accepted: Accepted, seconds: float) -> None:
        """Note one accepted batch."""
        ...

    def skipped(self, n_records: int, reason: str) -> None:
        """Note records that are not for us."""
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
    dead_letters: Callable[[Sequence[tuple[Record, DeadRecord]]], None] | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """How intake decides. `unknown_account` is create, skip or dead; `start` earliest or latest.

    `jitter` is multiplied into the pauses between two tries to reach Kafka.
    """

    unknown_account: str
    start: str
    patience: Patience = field(default_factory=Patience)
    jitter: Callable[[], float] = lambda: 1.0


class Intake:
    """Runs until `stop`. Survives Kafka and Postgres being away; Fenced passes through."""

    def __init__(
        self, kafka: KafkaSettings, ledger: Ledger, decoder: Decoder, doors: Doors, meter: Meter, *, rules: Rules
    ) -> None:
        self._kafka = kafka
        self._ledger = ledger
        self._decoder = decoder
        self._doors = doors
        self._meter = meter
        self._rules = rules
        self._waiting = Waiting()
        self._places = Places(ledger, meter, self._waiting, start=rules.start)
        self._lag = Lag(meter, self._places.stands)
        self._watchdog = Watchdog(rules.patience, clock.mono())
        self._consumer: Consumer | None = None
        self._copying: asyncio.Task[None] | None = None
        self._polling: asyncio.Timeout | None = None
        self._next_copy = 0.0
        self._was_out = False
        self._was_behind: dict[Partition, int] = {}
        self.joined = asyncio.Event()
        """Set while the group has let this process in, its topics exist, and its partitions are placed."""

    @property
    def is_beyond_cure(self) -> bool:
        """Tell whether reading got stuck again and again: nothing but a new process is left to try."""
        return self._watchdog.is_beyond_cure(clock.mono())

    def stop(self) -> None:
        """Poll no more; `run` returns after the accept under way and after leaving the group (5 s at most)."""
        self._waiting.stopping.set()
        if self._polling is not None and not self._polling.expired():
            self._polling.reschedule(asyncio.get_running_loop().time() + _LAST_POLL_SECONDS)

    async def run(self) -> None:
        """Read until `stop`; open the consumer again after every fault that a new one may cure."""
        pause = AGAIN_SECONDS
        while not self._waiting.stopping.is_set():
            consumer = self._consumer = Consumer(self._kafka, assigned=self._assigned, revoked=self._places.forget)
            watching = spawn(self._lag.watch(consumer), name="lag")
            try:
                if await self._is_let_in(consumer):
                    pause = AGAIN_SECONDS
                    await self._read(consumer)
            except (KafkaError, OSError, TimeoutError) as fault:
                self._waiting.tell(fault)
                await self._waiting.pause(pause * self._rules.jitter())
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            finally:
                watching.cancel()
                self.joined.clear()
                self._places.forget()
                await consumer.stop()
                await _end({watching} if self._copying is None else {watching, self._copying})

    async def _is_let_in(self, consumer: Consumer) -> bool:
        """Connect and join; false when told to stop first. The library waits for its topics and its group for ever."""
        starting = spawn(consumer.start(), name="consumer-start")
        if await finish_unless_set(starting, self._waiting.stopping, _LET_IN_SECONDS):
            return True
        if not self._waiting.stopping.is_set():
            message = "the consumer does not get into its group"
            raise TimeoutError(message)
        return False

    async def _assigned(self, partitions: list[Partition]) -> None:
        if self._consumer is not None:
            await self._places.place(self._consumer, partitions)

    async def _read(self, consumer: Consumer) -> None:
        self._watchdog.progressed(clock.mono())
        while not self._waiting.stopping.is_set():
            await self._await_room()
            is_same_log = await consumer.is_same_log()
            if consumer.log_changed:
                _log.warning("log_changed", log_id=consumer.log_id)
                return
            if not is_same_log:
                self._waiting.tell(KafkaConnectionError("no broker says which cluster this is"))
                await self._waiting.pause()
                continue
            await self._places.place(consumer, consumer.assignment())
            if self._places.are_known(consumer):
                self.joined.set()
            else:
                self.joined.clear()
            if await self._read_once(consumer):
                return

    async def _read_once(self, consumer: Consumer) -> bool:
        """Poll and take what comes; true when the consumer must be made anew."""
        found: Mapping[Partition, Sequence[Record]] = {}
        try:
            found = await self._poll(consumer)
        except OutsideLog as fault:
            await self._places.come_back_in(consumer, fault)
        except Oversized as fault:
            await self._bury_unreadable(consumer, fault.where, DeadReason.TOO_LARGE, "larger than a fetch")
        except (UnicodeDecodeError, ValueError):
            await self._read_one_by_one(consumer)
        except TimeoutError:
            if self._waiting.stopping.is_set():
                return False
            self._tell_stuck([f"{topic}/{part}" for topic, part in consumer.assignment()])
            return True
        if found and await consumer.is_same_log():
            await self._take(consumer, found)
        elif found:
            # Read after a lost connection, maybe in another log: to be placed, and read, again.
            self._places.forget()
        return await self._after_poll(consumer, n_found=len(found))

    async def _poll(self, consumer: Consumer) -> dict[Partition, list[Record]]:
        """Poll; TimeoutError when that takes far too long, or a second more after `stop`.

        While its group is being divided anew the library waits for the outcome, however long that takes.
        """
        try:
            async with asyncio.timeout(self._rules.patience.stuck_seconds) as self._polling:
                return await consumer.poll(milliseconds=_POLL_MS, most=_MOST_RECORDS)
        finally:
            self._polling = None

    async def _await_room(self) -> None:
        if self._doors.has_room():
            return
        await finish_unless_set(spawn(_awaited(self._doors.room()), name="room"), self._waiting.stopping)
        self._watchdog.progressed(clock.mono())

    # records

    async def _take(self, consumer: Consumer, found: Mapping[Partition, Sequence[Record]]) -> None:
        failpoints.reach(failpoints.Point.INTAKE_POLLED)
        builder = BatchBuilder(
            consumer.log_id, self._ledger.days(), lambda record, dead: self._buried(consumer.log_id, record, dead)
        )
        for partition, records in found.items():
            stands = self._places.stands.get(partition)
            if stands is None:
                # Fetched before the position was known: whatever it is, it will be read again from there.
                continue
            builder.add_span(partition, stands, records[-1].offset + 1)
            for record in records:
                builder.add(record, self._decoder.decode(record))
        if not await self._check_accounts(builder, found):
            return
        batch = builder.build()
        if batch.spans:
            await self._accept(consumer, batch, found)
        # Of what was refused they will be read, and counted, again.
        arrived = [s for s in batch.spans if self._places.stands.get((s.topic, s.partition)) == s.stop]
        if n_skipped := sum(builder.skipped[span.topic, span.partition] for span in arrived):
            self._meter.skipped(n_skipped, "unknown_type")

    async def _check_accounts(self, builder: BatchBuilder, found: Mapping[Partition, Sequence[Record]]) -> bool:
        """Sort out the events of unknown accounts; false when told to stop before Postgres said which those are."""
        names = builder.accounts()
        if not names:
            return True
        create = self._rules.unknown_account == "create"
        known = await self._waiting.until_available(lambda: self._ledger.known_accounts(names, create=create))
        if known is None:
            return False
        if unknown := frozenset(names) - known:
            by_place = {(r.topic, r.partition, r.offset): r for records in found.values() for r in records}
            builder.drop_accounts(unknown, records=by_place if self._rules.unknown_account == "dead" else None)
        return True

    def _buried(self, log_id: str, record: Record, dead: DeadEvent) -> DeadRecord:
        place = f"dead_event:{log_id}:{record.topic}:{record.partition}:{record.offset}"
        value = None if record.value is None else self._doors.seal(record.value, place)
        return DeadRecord(
            record.topic, record.partition, record.offset, dead.reason, dead.detail, record.key, _headers(record), value
        )

    async def _accept(self, consumer: Consumer, batch: Batch, found: Mapping[Partition, Sequence[Record]]) -> None:
        """Have the batch that was made of `found` accepted, however often it takes."""
        left: Batch | None = batch
        # A loop: a database without space answers and refuses for hours.
        while left is not None and not self._waiting.stopping.is_set():
            left = await self._try_to_accept(consumer, left, found)

    async def _try_to_accept(
        self, consumer: Consumer, batch: Batch, found: Mapping[Partition, Sequence[Record]]
    ) -> Batch | None:
        """Have a batch accepted, in halves when Postgres refuses what it holds; return what must be tried again."""
        generation = self._places.generation
        began = clock.mono()
        failpoints.reach_soon(failpoints.Point.ACCEPT_SENT)
        try:
            accepted = await self._ledger.accept(batch)
        except Unavailable as fault:
            self._waiting.tell(fault)
            self._doors.unknown_outcome()
            await self._waiting.pause()
            return await self._find_out(consumer, batch, found)
        except PoisonBatch as fault:
            await self._accept_apart(consumer, batch, found, fault)
            return None
        failpoints.reach(failpoints.Point.ACCEPT_ANSWERED)
        self._meter.accepted(batch, accepted, clock.mono() - began)
        if generation == self._places.generation:
            for span in batch.spans:
                self._places.stands[span.topic, span.partition] = span.stop
        self._copy_dead((one for one in batch.dead if (one.topic, one.partition) not in accepted.refused), found)
        if accepted.fresh:
            await self._doors.submit(accepted.fresh)
        if accepted.refused:
            await self._places.resume(consumer, list(accepted.refused))
        return None

    async def _accept_apart(
        self, consumer: Consumer, batch: Batch, found: Mapping[Partition, Sequence[Record]], fault: PoisonBatch
    ) -> None:
        parts = halves(batch)
        if parts is not None:
            for part in parts:
                await self._accept(consumer, part, found)
            return
        if not batch.events:
            raise fault
        guilty = batch.events[0]
        topic, partition, offset = guilty.topic, guilty.partition, guilty.offset
        _log.error("event_refused", topic=topic, partition=partition, offset=offset, reason=str(fault))
        # Whole, as it was read: it can be redriven once the database takes it.
        record = next(record for record in found[topic, partition] if record.offset == offset)
        dead = self._buried(consumer.log_id, record, DeadEvent(DeadReason.REFUSED_BY_DATABASE, str(fault)))
        await self._accept(consumer, batch._replace(events=(), dead=(*batch.dead, dead)), found)

    async def _find_out(
        self, consumer: Consumer, batch: Batch, found: Mapping[Partition, Sequence[Record]]
    ) -> Batch | None:
        """After an accept without an answer: what stands where it ended is in, what stands where it began is not.

        Return the latter.
        """
        partitions = [(span.topic, span.partition) for span in batch.spans]
        truth = await self._waiting.until_available(lambda: self._ledger.positions(batch.log_id, partitions))
        if truth is None:
            return None
        spans = {(span.topic, span.partition): span for span in batch.spans}
        again = [partition for partition, span in spans.items() if truth.get(partition) == span.start]
        arrived = {partition for partition, span in spans.items() if truth.get(partition) == span.stop}
        elsewhere = [partition for partition in spans if partition not in arrived and partition not in again]
        stands = self._places.stands
        stands.update({partition: spans[partition].stop for partition in arrived & stands.keys()})
        self._copy_dead((one for one in batch.dead if (one.topic, one.partition) in arrived), found)
        if elsewhere:
            await self._places.resume(consumer, elsewhere)
        return only(batch, again) if again else None

    # what cannot be read

    async def _read_one_by_one(self, consumer: Consumer) -> None:
        """Find the record that the library cannot read, keep its place as a dead event, and go on behind it.

        It fell over it with the records of other partitions in hand, which count as read there: they are read again.
        """
        stands = dict(self._places.stands)
        for partition, at in stands.items():
            consumer.seek(partition, at)
        for partition, at in stands.items():
            # Only a partition of which a fetch has seen more can hold it.
            if (consumer.highwater(partition) or 0) > at and await self._read_up_to_fault(consumer, partition, at):
                return

    async def _read_up_to_fault(self, consumer: Consumer, partition: Partition, at: int) -> bool:
        """Take one partition's records from `at` on, at most a poll's; tell whether an unreadable one was met."""
        records: list[Record] = []
        unreadable: int | None = None
        with suppress(TimeoutError):
            while unreadable is None and len(records) < _MOST_RECORDS:
                record, offset = await consumer.poll_one(partition)
                if record is None:
                    unreadable = offset
                else:
                    records.append(record)
                    if offset + 1 >= (consumer.highwater(partition) or 0):
                        break
        if records:
            await self._take(consumer, {partition: records})
            at = records[-1].offset + 1
        # Where it stands elsewhere by now, what lies between was not read.
        if unreadable is not None and self._places.stands.get(partition) == at:
            await self._bury_unreadable(
                consumer, {partition: unreadable}, DeadReason.BAD_HEADERS, "not readable as a record"
            )
        return unreadable is not None

    async def _bury_unreadable(
        self, consumer: Consumer, where: Mapping[Partition, int], reason: DeadReason, detail: str
    ) -> None:
        for partition, offset in where.items():
            stands = self._places.stands.get(partition)
            if stands is None:
                continue
            builder = BatchBuilder(
                consumer.log_id, self._ledger.days(), lambda record, dead: self._buried(consumer.log_id, record, dead)
            )
            builder.add_span(partition, stands, offset + 1)
            builder.add(Record(*partition, offset, 0, None, None, ()), DeadEvent(reason, detail))
            await self._accept(consumer, builder.build(), {})

    def _copy_dead(self, accepted: Iterable[DeadRecord], found: Mapping[Partition, Sequence[Record]]) -> None:
        """Have accepted dead records copied as they were read; of one that could not be read there is no copy."""
        if self._doors.dead_letters is None or not (dead := list(accepted)):
            return
        by_place = {(r.topic, r.partition, r.offset): r for records in found.values() for r in records}
        places = [(one.topic, one.partition, one.offset) for one in dead]
        self._doors.dead_letters(
            [(by_place[place], one) for place, one in zip(places, dead, strict=True) if place in by_place]
        )

    # watching

    async def _after_poll(self, consumer: Consumer, *, n_found: int) -> bool:
        """Note what was read and copy positions now and then; return whether the consumer must be made anew."""
        now = clock.mono()
        if n_found:
            self._watchdog.progressed(now)
        if now >= self._next_copy:
            self._next_copy = now + _COPY_SECONDS
            self._lag.note_read(consumer)
            if self._places.stands and (self._copying is None or self._copying.done()):
                self._copying = spawn(consumer.copy_positions(), name="copy-positions")
        if not self._watchdog.is_due(now):
            return False
        self._watchdog.progressed(now)
        return await self._is_to_be_made_anew(consumer)

    async def _is_to_be_made_anew(self, consumer: Consumer) -> bool:
        """Look why nothing comes: nothing is there, Kafka is away, or the consumer is stuck."""
        if not consumer.assignment():
            return self._is_left_out(consumer)
        self._was_out = False
        was_behind = self._was_behind
        try:
            behind = self._was_behind = await self._behind(consumer)
        except (KafkaError, TimeoutError) as fault:
            self._waiting.tell(fault)
            return True
        stuck = sorted(partition for partition, at in behind.items() if was_behind.get(partition) == at)
        if stuck:
            self._tell_stuck([f"{topic}/{part}" for topic, part in stuck])
        elif behind:
            # What came this moment, after a long silence, is on its way: it is not at another look.
            self._watchdog.look_again(clock.mono())
        return bool(stuck)

    def _is_left_out(self, consumer: Consumer) -> bool:
        """Tell whether the group forgot us. A member without partitions may be one too many, and is left alone."""
        was_out, self._was_out = self._was_out, not consumer.is_member()
        if was_out and self._was_out:
            # At one look it may just be joining again; at two it does not.
            self._tell_stuck([])
            return True
        _log.warning("assignment_empty", hint="more replicas than partitions, or a topic that does not exist")
        return False

    async def _behind(self, consumer: Consumer) -> dict[Partition, int]:
        """Return how far was read where there is more; markers of transactions at an end count as read."""
        stands = dict(self._places.stands)
        read, ends = await consumer.positions(stands), await consumer.ends(stands)
        reached = {partition: max(at, read[partition]) for partition, at in stands.items()}
        return {partition: at for partition, at in reached.items() if ends[partition] > at}

    def _tell_stuck(self, behind: list[str]) -> None:
        self._was_behind = {}
        _log.error("consumer_stuck", partitions=behind)
        self._watchdog.rebuilt(clock.mono())


async def _awaited(work: Awaitable[Any]) -> None:
    await work


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel what still goes on beside a consumer that was stopped; a second at most."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=1.0)


def _headers(record: Record) -> bytes:
    """Return a record's headers as JSON, faithfully: pairs of name and base64 of the value, or name and null."""
    return orjson.dumps(
        [[name, None if value is None else base64.b64encode(value).decode()] for name, value in record.headers]
    )
