"""What intake hands to the ledger in one go, and what comes back."""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from dispatcher.model.delivery import Delivery
from dispatcher.model.event import DeadReason, Event


class Span(NamedTuple):
    """A stretch of one partition: from where we believe it stands to one past the last record read.

    `start` is the end of the previous accepted span, never the first record's offset: holes left by
    compaction and transaction markers lie inside the span.
    """

    topic: str
    partition: int
    start: int
    stop: int


class PlacedEvent(NamedTuple):
    """An event, the partition it came from, and the day of the `event` table that keeps it."""

    topic: str
    partition: int
    offset: int
    event_day: dt.date
    event: Event


class DeadRecord(NamedTuple):
    """A record that is no event, as kept for the operator. `sealed_value` may hold personal data."""

    topic: str
    partition: int
    offset: int
    reason: DeadReason
    detail: str
    key: bytes | None
    headers: bytes
    sealed_value: bytes | None


class Batch(NamedTuple):
    """One poll's worth of one log. Spans name each partition once; events keep the records' order."""

    log_id: str
    spans: tuple[Span, ...]
    events: tuple[PlacedEvent, ...]
    dead: tuple[DeadRecord, ...]


class Accepted(NamedTuple):
    """The answer to a batch. Partitions in `refused` stand elsewhere: re-read their position and seek.

    `fresh` are the new deliveries that this process owns, in no order. `n_events` counts the events
    stored, `n_duplicates` those that were there before, `n_conflicts` the duplicates whose body differs.
    """

    refused: frozenset[tuple[str, int]]
    fresh: tuple[Delivery, ...]
    n_events: int
    n_duplicates: int
    n_conflicts: int


class ClaimWish(NamedTuple):
    """What a process would like to claim: how much, and what to leave alone because it has enough of it.

    `backlog` are the (host, endpoint) pairs with rows due for long. Bodies of more than `most_bytes` are not asked for;
    the last one may go over it.
    """

    rows_per_host: int
    n_hosts: int
    full_hosts: Sequence[int] = ()
    full_endpoints: Sequence[int] = ()
    backlog: Sequence[tuple[int, int]] = ()
    most_bytes: int = 16 * 1_048_576
