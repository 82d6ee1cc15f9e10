"""Accept: Kafka records become events and owned deliveries, and positions move, in one statement (S1).

The position lives here and not in Kafka. It is moved by an exact compare-and-set from where the consumer believes
the partition stands; a guard of `<=` instead of `=` once lost 5 of 8,000 events with no fault at all, just the
rebalances of three replicas starting up.
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Final

import asyncpg

from dispatcher.kit import clock
from dispatcher.ledger.connections import Link
from dispatcher.ledger.references import Reference, References
from dispatcher.ledger.replicas import Replica
from dispatcher.model.batch import Accepted, Batch, DeadRecord, PlacedEvent, Span
from dispatcher.model.delivery import Delivery
from dispatcher.model.errors import Fenced, Unavailable
from dispatcher.model.event import Event

_CACHED_ACCOUNTS: Final = 100_000

Partition = tuple[str, int]


class IntakeLedger:
    """What intake needs of Postgres. One caller at a time; the link it is given serves nobody else.

    `full_hosts` and `full_endpoints` name those whose new deliveries are stored waiting instead of owned. `delivers`
    is false in a process that only ingests: then every delivery is stored waiting.
    """

    def __init__(
        self,
        link: Link,
        replica: Replica,
        *,
        days: Callable[[], tuple[dt.date, dt.date]],
        full_hosts: Callable[[], list[int]],
        full_endpoints: Callable[[], list[int]],
        delivers: bool,
    ) -> None:
        self._link = link
        self._replica = replica
        self._full_hosts = full_hosts
        self._full_endpoints = full_endpoints
        self._delivers = delivers
        self._accounts: dict[str, int] = {}
        self._references = References()
        self.days = days

    async def known_accounts(self, names: Collection[str], *, create: bool) -> frozenset[str]:
        """Return those of `names` that exist, made now if `create` says so. Known ones cost no round trip."""
        if self._unknown(names):
            if len(self._accounts) > _CACHED_ACCOUNTS:
                self._accounts.clear()
            await self._find(self._unknown(names))
        unknown = self._unknown(names)
        if unknown and create:
            # Only those that are not there: an insert takes a number even where it then does nothing.
            await self._link.fetch("create_accounts", unknown)
            await self._find(unknown)
        return frozenset(name for name in names if name in self._accounts)

    def _unknown(self, names: Collection[str]) -> list[str]:
        return [name for name in names if name not in self._accounts]

    async def _find(self, names: Collection[str]) -> None:
        for row in await self._link.fetch("find_accounts", list(names)):
            self._accounts[row["public_id"]] = row["account_id"]

    async def positions(self, log_id: str, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Return the next offset of the partitions that were ever read in this log; others are absent."""
        topics = [topic for topic, _ in partitions]
        parts = [part for _, part in partitions]
        rows = await self._link.fetch("positions", log_id, topics, parts)
        return {(row["topic"], row["part"]): row["next_offset"] for row in rows}

    async def has_positions(self, log_id: str, topic: str) -> bool:
        """Tell whether any partition of `topic` was ever read in this log."""
        row = await self._link.fetchrow("has_positions", log_id, topic)
        return bool(row[0])

    async def open_positions(self, log_id: str, starts: Mapping[Partition, int]) -> dict[Partition, int]:
        """Make the missing progress rows at the given offsets and return the truth for all that were asked."""
        topics = [topic for topic, _ in starts]
        parts = [part for _, part in starts]
        await self._link.fetch("open_positions", log_id, topics, parts, list(starts.values()))
        return await self.positions(log_id, list(starts))

    async def record_lost(self, log_id: str, topic: str, partition: int, from_offset: int, to_offset: int) -> None:
        """Note that records [from_offset, to_offset) were deleted before they were read. Idempotent."""
        await self._link.fetch("record_lost", log_id, topic, partition, from_offset, to_offset)

    async def accept(self, batch: Batch) -> Accepted:
        """Store one batch; all of it or, per refused partition, nothing of it.

        Every account of the batch must have been returned by `known_accounts`. The fresh deliveries are noted as
        held by this process before the gate opens again.

        Raises:
            Fenced: this replica was taken over; nothing was written.
            Unavailable: unknown whether it was written; re-read the positions.
            PoisonBatch: Postgres refuses a value; nothing was written. Bisect.

        Must not be canceled: the outcome would be unknown.
        """
        async with self._replica.gate.shared():
            columns = _Columns(batch.events, self._accounts)
            introductions = self._references.introduced_by(columns.references())
            row = await self._link.fetchrow("accept", *self._arguments(batch, columns, introductions))
            if not row["live"]:
                message = f"replica {self._replica.replica_id} was taken over"
                raise Fenced(message)
            fresh = _fresh(batch, columns, row)
            self._replica.hold(row["ids"] or ())
        advanced = frozenset(zip(row["topics"] or (), row["parts"] or (), strict=True))
        refused = frozenset((span.topic, span.partition) for span in batch.spans) - advanced
        sent = [one for one in batch.events if (one.topic, one.partition) in advanced] if refused else batch.events
        n_duplicates = len(sent) - row["n_events"]
        if row["n_events"] == len(batch.events):
            # Of a batch that is not in as it was sent, nobody knows which introductions are.
            self._references.remember(introductions)
        return Accepted(
            refused=refused,
            fresh=fresh,
            n_events=row["n_events"],
            n_duplicates=n_duplicates,
            n_conflicts=await self._count_conflicts(sent) if n_duplicates else 0,
        )

    def _arguments(self, batch: Batch, columns: "_Columns", introductions: Sequence[Reference | None]) -> list[Any]:
        placed, events, dead = columns.placed, columns.events, _turned(DeadRecord, batch.dead)
        return [
            self._replica.replica_id,
            batch.log_id,
            *_turned(Span, batch.spans),
            placed.topic,
            placed.partition,
            placed.event_day,
            events.event_id,
            columns.account_ids,
            events.environment,
            events.type,
            events.subject,
            events.outcome,
            events.workflow_id,
            events.occurred_at,
            events.body,
            events.client_reference,
            [None if one is None else True for one in introductions],
            self._full_hosts(),
            self._delivers,
            *dead._replace(detail=[detail.encode(errors="replace") for detail in dead.detail]),
            self._full_endpoints(),
            *_days_of(placed.event_day),
        ]

    async def _count_conflicts(self, sent: Sequence[PlacedEvent]) -> int:
        """Count them, or none when Postgres is away: the batch is in, and its deliveries must reach their lanes."""
        try:
            return await self._conflicts(_Columns(sent, self._accounts))
        except Unavailable:
            return 0

    async def _conflicts(self, columns: "_Columns") -> int:
        events = columns.events
        keys = (events.event_id, columns.account_ids, events.environment, columns.placed.event_day)
        row = await self._link.fetchrow("conflicting_events", *keys, events.body)
        n_conflicts: int = row[0]
        return n_conflicts


class _Columns:
    """A batch's events as Postgres takes them, column by column: `events.type` holds the types of all of them."""

    def __init__(self, placed: Sequence[PlacedEvent], accounts: Mapping[str, int]) -> None:
        self.placed = _turned(PlacedEvent, placed)
        self.events = _turned(Event, self.placed.event)
        self.account_ids = [accounts[name] for name in self.events.account]

    def keys(self) -> Sequence[tuple[bytes, int, str]]:
        """Return by what each event is known: its id, its account and its environment."""
        return list(zip(self.events.event_id, self.account_ids, self.events.environment, strict=True))

    def references(self) -> Iterable[Reference]:
        """Return each event's day, account, environment, subject and client reference."""
        events = self.events
        whose = (self.placed.event_day, events.account, events.environment)
        return zip(*whose, events.subject, events.client_reference, strict=True)


def _turned(kind: Any, rows: Collection[Any]) -> Any:
    """Return rows of a kind as one of that kind, whose fields are columns. In C: a loop takes twice the time."""
    return kind._make(zip(*rows, strict=True) if rows else [()] * len(kind._fields))


def _days_of(days: Collection[dt.date]) -> tuple[dt.date | None, dt.date | None]:
    return (min(days), max(days)) if days else (None, None)


def _fresh(batch: Batch, columns: _Columns, row: asyncpg.Record) -> tuple[Delivery, ...]:
    """Return the deliveries that the answer names, with what the batch says about their events."""
    if row["ids"] is None:
        return ()
    # Backwards: where an event is there twice, the first one was stored.
    by_key = dict(zip(reversed(columns.keys()), reversed(batch.events), strict=True))
    keys = zip(row["event_ids"], row["accounts"], row["environments"], strict=True)
    placed = _turned(PlacedEvent, [by_key[key] for key in keys])
    events = _turned(Event, placed.event)
    fresh = zip(
        row["ids"],
        events.event_id,
        events.public_id,
        placed.event_day,
        row["accounts"],
        events.environment,
        row["endpoints"],
        row["hosts"],
        repeat(0),
        repeat(row["created_at"]),
        events.type,
        events.subject,
        events.client_reference,
        events.body,
        events.occurred_at,
        repeat(clock.mono()),
        repeat(0),
    )
    return tuple(map(Delivery._make, fresh))
