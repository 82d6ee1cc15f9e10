"""An account's events in the order in which they can be followed: by commit, each with its place."""

import datetime as dt
from collections.abc import Sequence
from typing import Final, NamedTuple

from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.logs import EventPlace

SCAN_ROWS: Final = 1_000
"""How far back the last events of some types are looked for."""

SINCE_ROWS: Final = 10_000
"""How far back the first event since a moment is looked for: no index knows the times."""


class FedEvent(NamedTuple):
    """One event of the feed. `body` is None when its type is not wanted."""

    place: EventPlace
    event_id: bytes
    event_type: str
    body: bytes | None


class FeedLedger:
    """Reads only. Every call raises Unavailable when Postgres is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def after(
        self, tenant: Tenant, place: EventPlace, *, types: Sequence[str] | None, limit: int
    ) -> list[FedEvent]:
        """Return the next `limit` events after a place, those of unwanted types too; empty at the end.

        Nothing ever appears before a place once given.
        """
        rows = await self._pool.fetch("feed_stretch", *tenant, *place, types, limit)
        return [
            FedEvent(EventPlace(row["xid"], row["seq"]), row["event_id"], row["event_type"], row["body"])
            for row in rows
        ]

    async def end(self, tenant: Tenant) -> EventPlace:
        """Return the place behind the newest event."""
        row = await self._pool.fetchrow("feed_tail", *tenant, None, 1, 1)
        return EventPlace(0, 0) if row is None else EventPlace(row["xid"], row["seq"])

    async def before_last(self, tenant: Tenant, n: int, *, types: Sequence[str] | None) -> EventPlace:
        """Return the place before the last `n` events of the wanted types; the end when there are none."""
        row = await self._pool.fetchrow("feed_tail", *tenant, types, n, SCAN_ROWS)
        return await self.end(tenant) if row is None else EventPlace(row["xid"], row["seq"] - 1)

    async def since(self, tenant: Tenant, moment: dt.datetime) -> EventPlace:
        """Return the place before the first event that came in from `moment` (aware) on; the end when none did.

        At most the last 10,000 events are behind it.
        """
        row = await self._pool.fetchrow("feed_since", *tenant, moment, SINCE_ROWS)
        return await self.end(tenant) if row is None else EventPlace(row["xid"], row["seq"] - 1)
