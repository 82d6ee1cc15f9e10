"""Dead events: records that could not become events, kept for the operator."""

import asyncio
import base64
import datetime as dt
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

import asyncpg
import orjson

from dispatcher.ledger.connections import Pool, Session
from dispatcher.ledger.deeds import Deed, note
from dispatcher.model.errors import Unavailable
from dispatcher.model.event import DeadReason

REDRIVE_SECONDS: Final = 60.0
"""What began so long ago and was not acknowledged is over: to connect, to send and to part take ten seconds each."""


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

    `has_value` is False when the record had none. `redrive_began_at` is when it was last about to be given to Kafka
    again, `redriven_at` when Kafka acknowledged it: the first without the second is under way, or was cut off.
    """

    place: DeadPlace
    reason: DeadReason
    detail: str
    key: bytes | None
    seen_at: dt.datetime
    redrive_began_at: dt.datetime | None
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


class UnderWay(NamedTuple):
    """A redrive began just now. In `seconds` another may begin, unless Kafka has the record by then."""

    seconds: int


class HasArrived(NamedTuple):
    """Kafka acknowledged the record before."""


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

    async def take(
        self, place: DeadPlace, *, deed: Deed | None = None
    ) -> DeadRecordCopy | UnderWay | HasArrived | None:
        """Mark a redrive as begun and return the record, or why it may not begin; None when it is not there.

        The caller gives the record to Kafka and then calls `acknowledge`, or `put_back`. One that dies in between, or
        whose answer is lost, keeps the mark for REDRIVE_SECONDS: then the next may begin, and Kafka may get the record
        twice, whose events are one.
        """
        async with self._pool.transaction() as session:
            row = await session.fetchrow("take_dead_event", *place, REDRIVE_SECONDS)
            if row is None:
                return _untaken(await session.fetchrow("untaken_dead_event", *place, REDRIVE_SECONDS))
            await _note(session, deed, place)
            return _copy(row)

    async def redrive(
        self,
        place: DeadPlace,
        publish: Callable[[DeadRecordCopy], Awaitable[tuple[int, int]]],
        *,
        deed: Deed | None = None,
        put_back: Deed | None = None,
    ) -> tuple[int, int] | UnderWay | HasArrived | None:
        """Take a dead event and `publish` it; return its partition and offset, or what `take` says.

        When `publish` raises or is canceled the mark is taken off again, which `put_back` notes, and its error passes.
        Unavailable may also mean that Kafka has it and the note of that was not written.
        """
        found = await self.take(place, deed=deed)
        if not isinstance(found, DeadRecordCopy):
            return found
        try:
            done = await publish(found)
        except BaseException:
            # Where that fails, too, the mark is void after a while.
            with suppress(Unavailable):
                await asyncio.shield(self.put_back(found.facts, deed=put_back))
            raise
        await asyncio.shield(self.acknowledge(place))
        return done

    async def acknowledge(self, place: DeadPlace) -> None:
        """Note that Kafka has the record: it is redriven no more."""
        await self._pool.execute("acknowledge_dead_event", *place)

    async def put_back(self, taken: StoredDeadEvent, *, deed: Deed | None = None) -> None:
        """Take the mark off again, unless another redrive began since: the record did not reach Kafka."""
        async with self._pool.transaction() as session:
            await session.execute("put_back_dead_event", *taken.place, taken.redrive_began_at)
            await _note(session, deed, taken.place)

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


def _untaken(row: asyncpg.Record | None) -> UnderWay | HasArrived | None:
    if row is None:
        return None
    if row["has_arrived"]:
        return HasArrived()
    # None are left where it was put back meanwhile.
    return UnderWay(max(1, math.ceil(row["seconds_left"])))


def _facts(row: asyncpg.Record) -> StoredDeadEvent:
    return StoredDeadEvent(
        DeadPlace(row["log_id"], row["topic"], row["part"], row["off"]),
        DeadReason(row["reason"]),
        bytes(row["detail"]).decode(errors="replace"),
        row["key"],
        row["seen_at"],
        row["redrive_began_at"],
        row["redriven_at"],
        row["has_value"],
    )


def _copy(row: asyncpg.Record) -> DeadRecordCopy:
    return DeadRecordCopy(_facts(row), row["headers"], row["sealed_value"])
