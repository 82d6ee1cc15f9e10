"""Accept: Kafka records become events and owned deliveries, and positions move, in one statement (S1).

The position lives here and not in Kafka. It is moved by an exact compare-and-set from where the consumer believes
the partition stands; a guard of `<=` instead of `=` once lost 5 of 8,000 events with no fault at all, just the
rebalances of three replicas starting up.
"""

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import asyncpg

from dispatcher.kit import clock
from dispatcher.ledger.connections import Link
from dispatcher.ledger.references import Introduction, References
from dispatcher.ledger.replicas import Replica
from dispatcher.model.batch import Accepted, Batch, PlacedEvent
from dispatcher.model.delivery import Delivery
from dispatcher.model.errors import Fenced, Unavailable

_EVENT_COLUMNS: Final = 14
_DEAD_COLUMNS: Final = 8
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
            introductions = self._references.introduced_by(batch.events)
            row = await self._link.fetchrow("accept", *self._arguments(batch, introductions))
            if not row["live"]:
                message = f"replica {self._replica.replica_id} was taken over"
                raise Fenced(message)
            fresh = _fresh(batch, row, {number: name for name, number in self._accounts_of(batch).items()})
            self._replica.hold(row["ids"] or ())
        advanced = frozenset(zip(row["topics"] or (), row["parts"] or (), strict=True))
        sent = [placed for placed in batch.events if (placed.topic, placed.partition) in advanced]
        n_duplicates = len(sent) - row["n_events"]
        if row["n_events"] == len(batch.events):
            # Of a batch that is not in as it was sent, nobody knows which introductions are.
            self._references.remember(introductions)
        return Accepted(
            refused=frozenset((span.topic, span.partition) for span in batch.spans) - advanced,
            fresh=fresh,
            n_events=row["n_events"],
            n_duplicates=n_duplicates,
            n_conflicts=await self._count_conflicts(sent) if n_duplicates else 0,
        )

    def _accounts_of(self, batch: Batch) -> dict[str, int]:
        return {placed.event.account: self._accounts[placed.event.account] for placed in batch.events}

    def _arguments(self, batch: Batch, introductions: Sequence[Introduction | None]) -> list[Any]:
        accounts = self._accounts
        spans: list[Any] = _columns(batch.spans, 4)
        events = _columns(
            [
                (
                    placed.topic,
                    placed.partition,
                    placed.event_day,
                    placed.event.event_id,
                    accounts[placed.event.account],
                    placed.event.environment,
                    placed.event.type,
                    placed.event.subject,
                    placed.event.outcome,
                    placed.event.workflow_id,
                    placed.event.occurred_at,
                    placed.event.body,
                    placed.event.client_reference,
                    None if introduction is None else True,
                )
                for placed, introduction in zip(batch.events, introductions, strict=True)
            ],
            _EVENT_COLUMNS,
        )
        dead = _columns(
            [
                (
                    d.topic,
                    d.partition,
                    d.offset,
                    d.reason,
                    d.detail.encode(errors="replace"),
                    d.key,
                    d.headers,
                    d.sealed_value,
                )
                for d in batch.dead
            ],
            _DEAD_COLUMNS,
        )
        replica = self._replica.replica_id
        return [
            replica,
            batch.log_id,
            *spans,
            *events,
            self._full_hosts(),
            self._delivers,
            *dead,
            self._full_endpoints(),
            *_days_around(batch.events),
        ]

    async def _count_conflicts(self, events: list[PlacedEvent]) -> int:
        """Count them, or none when Postgres is away: the batch is in, and its deliveries must reach their lanes."""
        try:
            return await self._conflicts(events)
        except Unavailable:
            return 0

    async def _conflicts(self, events: list[PlacedEvent]) -> int:
        columns = _columns(
            [
                (p.event.event_id, self._accounts[p.event.account], p.event.environment, p.event_day, p.event.body)
                for p in events
            ],
            5,
        )
        row = await self._link.fetchrow("conflicting_events", *columns)
        n_conflicts: int = row[0]
        return n_conflicts


def _days_around(events: Collection[PlacedEvent]) -> tuple[dt.date | None, dt.date | None]:
    if not events:
        return None, None
    days = [placed.event_day for placed in events]
    return min(days) - dt.timedelta(days=1), max(days) + dt.timedelta(days=1)


def _columns(rows: Collection[tuple[Any, ...]], width: int) -> list[Any]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def _fresh(batch: Batch, row: asyncpg.Record, account_names: dict[int, str]) -> tuple[Delivery, ...]:
    if row["ids"] is None:
        return ()
    placed_by_key = {(p.event.event_id, p.event.account, p.event.environment): p for p in reversed(batch.events)}
    now = clock.mono()
    created_at = row["created_at"]
    fresh = []
    for delivery_id, event_id, account_id, environment, endpoint_id, host_id in zip(
        row["ids"], row["event_ids"], row["accounts"], row["environments"], row["endpoints"], row["hosts"], strict=True
    ):
        placed = placed_by_key[event_id, account_names[account_id], environment]
        event = placed.event
        fresh.append(
            Delivery(
                delivery_id,
                event_id,
                event.public_id,
                placed.event_day,
                account_id,
                environment,
                endpoint_id,
                host_id,
                0,
                created_at,
                event.type,
                event.subject,
                event.client_reference,
                event.body,
                event.occurred_at,
                now,
            )
        )
    return tuple(fresh)
