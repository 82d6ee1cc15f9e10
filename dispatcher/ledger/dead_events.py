"""Dead events: records that could not become events, kept for the operator."""

import asyncio
import base64
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import asyncpg
import orjson

from dispatcher.ledger.connections import Pool, Session
from dispatcher.ledger.deeds import Deed, note
from dispatcher.model.event import DeadReason


class DeadPlace(NamedTuple):
    """Which record of which log: `log_id` tells a topic from a later one of the same name."""

    log_id: str
    topic: str
    partition: int
    offset: int

    @property
    def shown(self) -> str:
        """Return the place as people name it; the log is left out, the latest is meant."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def seal(self) -> str:
        """Return the place for which the value is sealed."""
        return f"dead_event:{self.log_id}:{self.topic}:{self.partition}:{self.offset}"


class StoredDeadEvent(NamedTuple):
    """A dead event without what may hold personal data. `detail` names fields, never values.

    `has_value` is False when the record had none. `redriven_at` is set once it was given to Kafka again.
    """

    place: DeadPlace
    reason: DeadReason
    detail: str
    key: bytes | None
    seen_at: dt.datetime
    redriven_at: dt.datetime | None
    has_value: bool

    @property
    def page_place(self) -> tuple[dt.datetime, DeadPlace]:
        """Return where it stands in the list."""
        return self.seen_at, self.place


class DeadRecordCopy(NamedTuple):
    """A dead event with the record itself: `headers` as a JSON array of [name, base64 or null], the value sealed.

    The value opens at `facts.place.seal`; opening it is an act of the operator's, never of the list.
    """

    facts: StoredDeadEvent
    headers: bytes
    sealed_value: bytes | None

    @property
    def header_pairs(self) -> list[tuple[str, bytes | None]]:
        """Return the headers as the record had them."""
        return [(name, None if text is None else base64.b64decode(text)) for name, text in orjson.loads(self.headers)]


class DeadEventLedger:
    """Dead events in Postgres; for the operator. Every call raises Unavailable when Postgres is away.

    A `deed` is written down in the transaction that does it.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, *, before: tuple[dt.datetime, DeadPlace] | None = None, limit: int) -> list[StoredDeadEvent]:
        """Return up to `limit` dead events, latest first."""
        seen_at, place = before or (None, (None, None, None, None))
        return [_facts(row) for row in await self._pool.fetch("list_dead_events", seen_at, *place, limit)]

    async def find(self, place: DeadPlace) -> DeadRecordCopy | None:
        """Return one dead event with its record, None when it is not there."""
        row = await self._pool.fetchrow("find_dead_event", *place)
        return None if row is None else _copy(row)

    async def look_inside(self, deed: Deed, place: DeadPlace) -> DeadRecordCopy | None:
        """Return what `find` does, and write down that it was opened."""
        async with self._pool.transaction() as session:
            row = await session.fetchrow("find_dead_event", *place)
            if row is None:
                return None
            await _note(session, deed, place)
            return _copy(row)

    async def places(self, topic: str, partition: int, offset: int) -> list[DeadPlace]:
        """Return the dead events at one offset, latest first; more than one when the topic was made anew."""
        rows = await self._pool.fetch("find_dead_places", topic, partition, offset)
        return [DeadPlace(row["log_id"], topic, partition, offset) for row in rows]

    async def take(self, place: DeadPlace, *, deed: Deed | None = None) -> DeadRecordCopy | None:
        """Mark a dead event as redriven and return its record; None when it is not there or was taken before.

        The caller gives the record to Kafka, or calls `put_back`. A caller that dies in between leaves it marked.
        """
        async with self._pool.transaction() as session:
            row = await session.fetchrow("take_dead_event", *place)
            if row is None:
                return None
            await _note(session, deed, place)
            return _copy(row)

    async def redrive(
        self,
        place: DeadPlace,
        publish: Callable[[DeadRecordCopy], Awaitable[tuple[int, int]]],
        *,
        deed: Deed | None = None,
        put_back: Deed | None = None,
    ) -> tuple[int, int] | None:
        """Take a dead event and `publish` it; return its partition and offset, None as `take`.

        When `publish` raises or is canceled the mark is taken off again, which `put_back` notes, and its error passes.
        """
        found = await self.take(place, deed=deed)
        if found is None:
            return None
        try:
            return await publish(found)
        except BaseException:
            await asyncio.shield(self.put_back(place, deed=put_back))
            raise

    async def put_back(self, place: DeadPlace, *, deed: Deed | None = None) -> None:
        """Take the mark off again: the record did not reach Kafka."""
        async with self._pool.transaction() as session:
            await session.execute("put_back_dead_event", *place)
            await _note(session, deed, place)

    async def discard(self, place: DeadPlace, *, deed: Deed | None = None) -> bool:
        """Delete a dead event for good; tell whether it was there."""
        async with self._pool.transaction() as session:
            if await session.fetchrow("discard_dead_event", *place) is None:
                return False
            await _note(session, deed, place)
            return True


async def _note(session: Session, deed: Deed | None, place: DeadPlace) -> None:
    if deed is not None:
        await note(session, deed, place.shown, facts={"log_id": place.log_id})


def _facts(row: asyncpg.Record) -> StoredDeadEvent:
    return StoredDeadEvent(
        DeadPlace(row["log_id"], row["topic"], row["part"], row["off"]),
        DeadReason(row["reason"]),
        bytes(row["detail"]).decode(errors="replace"),
        row["key"],
        row["seen_at"],
        row["redriven_at"],
        row["has_value"],
    )


def _copy(row: asyncpg.Record) -> DeadRecordCopy:
    return DeadRecordCopy(_facts(row), row["headers"], row["sealed_value"])
