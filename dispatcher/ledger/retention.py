"""Retention: whole days of events, attempts and responses are dropped once they were kept long enough.

A day is a table. It is detached without blocking anybody, looked at once more, and dropped:

    attached ──detach──► half ──finalize──► loose ──in use?──► dropped
                  ▲                           │
                  └─────────attach────────────┘

`DETACH ... CONCURRENTLY` cannot run in a transaction: it commits a mark, waits for everybody who may still see the
table, and commits the rest. A process that dies, or loses patience, on the way leaves the day half-detached or loose;
the next round, of any replica, finds it so in the catalogue and goes on from there. Nothing else is remembered.

A day of events is kept as long as a delivery refers to it: deliveries do not expire by age, so only this guard permits
the drop. It is asked before the detach and again after it, when nobody can reach the day's events any more: a delivery
that was made in between brings the day back.
"""

import asyncio
import datetime as dt
from enum import StrEnum
from typing import Final, NamedTuple

import asyncpg

from dispatcher.kit import failpoints
from dispatcher.ledger.connections import connect
from dispatcher.ledger.faults import translate
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.errors import Unavailable

_TRIES: Final = 3
_AGAIN_SECONDS: Final = 1.0


class Daily(StrEnum):
    """The parents of daily tables, by their names."""

    EVENT = "event"
    ATTEMPT = "attempt"
    RESPONSE = "response"


class Round(NamedTuple):
    """What one look at a parent came to: days dropped, and days that are past their time but still needed."""

    dropped: list[dt.date]
    kept: list[dt.date]


class Retention:
    """Drops old days, over a connection of its own: its waits hold nothing up. Safe to call from any replica, again.

    Its sessions bear the process's `tag`: whoever takes over one that froze in its turn ends it, and with it the turn.
    """

    def __init__(self, url: str, *, tag: str = "") -> None:
        self._url = url
        self._name = f"retention-{tag}" if tag else "retention"

    async def drop_old(self, daily: Daily, keep_days: int) -> Round | None:
        """Drop the tables whose day (UTC) has been over for more than `keep_days`; None when another replica is at it.

        Waits at most two seconds for a lock, three times. On cancel or death a day may stay half-detached; the next
        call completes it.

        Raises:
            Unavailable: Postgres is away, or somebody holds a day's table for longer; try again in the next round.
        """
        for _ in range(_TRIES - 1):
            try:
                return await self._drop_old(daily, keep_days)
            except Unavailable:
                await asyncio.sleep(_AGAIN_SECONDS)
        return await self._drop_old(daily, keep_days)

    async def _drop_old(self, daily: Daily, keep_days: int) -> Round | None:
        connection = await connect(self._url, self._name)
        try:
            return await _take_turn(connection, daily, keep_days)
        except BaseException as fault:
            translated = translate(fault, f"retention of {daily}")
            if translated is fault:
                raise
            raise translated from fault
        finally:
            # The turn ends with the session.
            connection.terminate()


async def _take_turn(connection: asyncpg.Connection, daily: Daily, keep_days: int) -> Round | None:
    if not await connection.fetchval(STATEMENTS["retention_turn"]):
        return None
    done = Round([], [])
    for table in await connection.fetch(STATEMENTS["old_days"], daily.value, keep_days):
        is_dropped = await _let_go(connection, daily, table)
        (done.dropped if is_dropped else done.kept).append(table["day"])
    return done


async def _let_go(connection: asyncpg.Connection, daily: Daily, table: asyncpg.Record) -> bool:
    """Bring one table from wherever it stands to its end; false when its day is still needed."""
    if table["state"] == "attached":
        if await _is_used(connection, daily, table):
            return False
        failpoints.reach_soon(failpoints.Point.DETACH_SENT)
        await connection.execute(table["detach"])
    elif table["state"] == "half":
        await connection.execute(table["finalize"])
    failpoints.reach(failpoints.Point.DAY_DETACHED)
    if await _is_used(connection, daily, table):
        await connection.execute(table["attach"])
        return False
    await connection.execute(table["drop"])
    return True


async def _is_used(connection: asyncpg.Connection, daily: Daily, table: asyncpg.Record) -> bool:
    return daily is Daily.EVENT and bool(await connection.fetchval(STATEMENTS["day_in_use"], table["day"]))
