"""A look at Postgres from outside, for people who want to know what is wrong."""

import datetime as dt
from typing import NamedTuple

from dispatcher.kit import clock
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.seals import SECRETS


class Vitals(NamedTuple):
    """A server at one moment. `clock_ahead_seconds`: how far its clock is ahead of this machine's."""

    version: int
    version_text: str
    round_trip_seconds: float
    clock_ahead_seconds: float
    n_live: int
    n_overdue: int


class Waiting(NamedTuple):
    """What waits to be sent, and the age in seconds of the oldest delivery that is due."""

    due: int
    held: int
    oldest_due_seconds: float


class SealedSecret(NamedTuple):
    """A sealed signing key and the place it was sealed for."""

    sealed: bytes
    place: str


class Checkup:
    """Reads only. Every call raises Unavailable when Postgres is away, and needs a migrated schema."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def vitals(self) -> Vitals:
        """Return how the server is; the best of three round trips."""
        best = None
        for _ in range(3):
            asked, began = clock.utcnow(), clock.mono()
            row = await self._pool.fetchrow("checkup")
            seconds = clock.mono() - began
            assert row is not None
            ahead = (row["now"] - asked).total_seconds() - seconds / 2
            found = Vitals(row["version"], row["version_text"], seconds, ahead, row["live"], row["overdue"])
            if best is None or found.round_trip_seconds < best.round_trip_seconds:
                best = found
        assert best is not None
        return best

    async def waiting(self) -> Waiting:
        """Return what waits. Counts the whole table of open deliveries."""
        row = await self._pool.fetchrow("backlog")
        assert row is not None
        return Waiting(row["due"], row["held"], row["oldest_due_seconds"])

    async def last_day(self) -> dt.date:
        """Return the last UTC day that has tables."""
        row = await self._pool.fetchrow("partition_days")
        assert row is not None
        day: dt.date = row["last"]
        return day

    async def secret(self) -> SealedSecret | None:
        """Return one sealed signing key, None when there is none."""
        row = await self._pool.fetchrow("checkup_secret")
        if row is None:
            return None
        return SealedSecret(row["sealed_key"], SECRETS.place(row["public_id"], row["secret_id"]))

    async def positions(self, log_id: str) -> dict[tuple[str, int], int]:
        """Return how far each partition of a log has been taken in."""
        rows = await self._pool.fetch("checkup_positions", log_id)
        return {(row["topic"], row["part"]): row["next_offset"] for row in rows}
