"""Where this process believes each partition stands, and how batches are cut. Pure; no Kafka, no awaiting."""

import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from dispatcher.model.batch import Batch, DeadRecord, PlacedEvent, Span
from dispatcher.model.event import DeadEvent, DeadReason, Event, Record, Skipped

Partition = tuple[str, int]
Days = tuple[dt.date, dt.date]

_NOT_PLACED: Final = DeadEvent(
    DeadReason.BAD_TIMESTAMP, "neither ce_time nor the record's time falls into a day that is kept"
)


def place(event: Event, record: Record, days: Days) -> dt.date | None:
    """Return the day of the event table that keeps an event: of its own time, else of its record's, else None.

    Always a property of the record and never of the poll: a record read again lands on the same day, where the
    unique key meets it.
    """
    first, last = days
    day = event.occurred_at.date()
    if first <= day <= last:
        return day
    written = _day_of(record)
    return written if written is not None and first <= written <= last else None


def _day_of(record: Record) -> dt.date | None:
    try:
        return dt.datetime.fromtimestamp(record.timestamp_ms / 1_000, dt.UTC).date()
    except (ValueError, OverflowError, OSError):
        return None


class BatchBuilder:
    """Collects one poll's records into a batch. `bury` turns a record that is no event into its dead record."""

    def __init__(self, log_id: str, days: Days, bury: Callable[[Record, DeadEvent], DeadRecord]) -> None:
        self._log_id = log_id
        self._days = days
        self._bury = bury
        self._spans: list[Span] = []
        self._events: list[PlacedEvent] = []
        self._dead: list[DeadRecord] = []
        self._seen: dict[tuple[bytes, str, str], dt.date] = {}
        self.skipped: Counter[Partition] = Counter()

    def add_span(self, partition: Partition, start: int, stop: int) -> None:
        """Note that a partition was read from where it stood to one past its last record."""
        self._spans.append(Span(*partition, start, stop))

    def add(self, record: Record, decoded: Event | DeadEvent | Skipped) -> None:
        """Take one decoded record."""
        if isinstance(decoded, Event):
            day = place(decoded, record, self._days)
            if day is not None:
                # An event that is there twice with two times is one event: the same key has to meet it.
                day = self._seen.setdefault((decoded.event_id, decoded.account, decoded.environment), day)
                self._events.append(PlacedEvent(record.topic, record.partition, record.offset, day, decoded))
                return
            decoded = _NOT_PLACED
        if isinstance(decoded, Skipped):
            self.skipped[record.topic, record.partition] += 1
            return
        self._dead.append(self._bury(record, decoded))

    def accounts(self) -> set[str]:
        """Return the accounts of the events so far."""
        return {placed.event.account for placed in self._events}

    def drop_accounts(self, unknown: frozenset[str], *, records: Mapping[tuple[str, int, int], Record] | None) -> None:
        """Take out the events of unknown accounts: counted as skipped, or buried when their `records` are given."""
        kept = []
        for placed in self._events:
            if placed.event.account not in unknown:
                kept.append(placed)
            elif records is None:
                self.skipped[placed.topic, placed.partition] += 1
            else:
                record = records[placed.topic, placed.partition, placed.offset]
                self._dead.append(self._bury(record, DeadEvent(DeadReason.UNKNOWN_ACCOUNT, placed.event.account)))
        self._events = kept

    def build(self) -> Batch:
        """Return the batch."""
        return Batch(self._log_id, tuple(self._spans), tuple(self._events), tuple(self._dead))


def only(batch: Batch, partitions: Sequence[Partition]) -> Batch:
    """Return what of a batch belongs to the given partitions."""
    wanted = set(partitions)
    return Batch(
        batch.log_id,
        tuple(span for span in batch.spans if (span.topic, span.partition) in wanted),
        tuple(placed for placed in batch.events if (placed.topic, placed.partition) in wanted),
        tuple(dead for dead in batch.dead if (dead.topic, dead.partition) in wanted),
    )


def halves(batch: Batch) -> tuple[Batch, Batch] | None:
    """Cut a batch in two that together read the same stretches, in order; None when it holds a single record.

    Several partitions are divided between the halves; one partition is cut between two of its records, dead ones
    too. Each half holds fewer records or partitions than the whole, so halving again and again ends.
    """
    if len(batch.spans) > 1:
        names = [(span.topic, span.partition) for span in batch.spans]
        middle = len(names) // 2
        return only(batch, names[:middle]), only(batch, names[middle:])
    offsets = sorted({placed.offset for placed in batch.events} | {dead.offset for dead in batch.dead})
    if len(offsets) < 2:
        return None
    span = batch.spans[0]
    cut = offsets[len(offsets) // 2]
    first = Batch(
        batch.log_id,
        (span._replace(stop=cut),),
        tuple(placed for placed in batch.events if placed.offset < cut),
        tuple(dead for dead in batch.dead if dead.offset < cut),
    )
    second = Batch(
        batch.log_id,
        (span._replace(start=cut),),
        tuple(placed for placed in batch.events if placed.offset >= cut),
        tuple(dead for dead in batch.dead if dead.offset >= cut),
    )
    return first, second
