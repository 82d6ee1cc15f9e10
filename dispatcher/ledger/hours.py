"""What endpoints met hour by hour, counted from their attempts by whichever replica comes first.

Counts are kept for a week, of whole hours that are over. An hour is counted twice, five minutes after its end and an
hour later; each time anew, so that counting it twice, or dying half way, does no harm.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Final, NamedTuple

import asyncpg

from dispatcher.kit import clock
from dispatcher.ledger.connections import connect
from dispatcher.ledger.faults import translate
from dispatcher.ledger.statements import STATEMENTS

_MOST_HOURS: Final = 170
"""Hours looked for at a time: the whole week, as at a first start, where nothing is in most of them."""

_ROUND_SECONDS: Final = 10.0
"""No further hour is begun after that: the replica that counts has other duties, too."""

_COUNT_SECONDS: Final = 60.0
"""For one hour; a million attempts take about two."""


COUNTING: Final = {"enable_seqscan": "off", "enable_indexscan": "off"}
"""An hour is a stretch of a table, and is read as such: endpoint by endpoint it took seven times as long."""


class Hour(NamedTuple):
    """An hour of an endpoint by its beginning: requests that were made, and those that delivered."""

    begins_at: dt.datetime
    n_attempts: int
    n_delivered: int


class Week(NamedTuple):
    """The hours with requests of the week up to `counted_to`, the oldest first. None: nothing was counted yet."""

    counted_to: dt.datetime | None
    hours: Sequence[Hour]


class HourCounter:
    """Counts what is due, over a connection of its own: it holds nothing up. Safe to call from any replica, again."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def count(self) -> int:
        """Count the hours that are due and return how many; none while another replica is at it.

        Raises:
            Unavailable: Postgres is away or takes too long; what was counted stays.
        """
        connection = await connect(self._url, "hours", planning=COUNTING)
        try:
            return await _count_due(connection)
        except BaseException as fault:
            translated = translate(fault, "hours")
            if translated is fault:
                raise
            raise translated from fault
        finally:
            connection.terminate()


def read_week(row: asyncpg.Record) -> Week:
    """Return what an endpoint met, as far as it was counted, as its statistics tell it."""
    counted_to, ago, n_attempts, n_delivered = row["counted_to"], *row[-3:]
    if ago is None:
        return Week(counted_to, [])
    begins = (counted_to - dt.timedelta(hours=n) for n in ago)
    return Week(counted_to, list(map(Hour, begins, n_attempts, n_delivered)))


async def _count_due(connection: asyncpg.Connection) -> int:
    await connection.execute(STATEMENTS["patient_counting"])
    began, n_counted = clock.mono(), 0
    for due in await connection.fetch(STATEMENTS["hours_due"], _MOST_HOURS):
        hour = (due["hour"], due["ends_at"])
        if not await connection.fetchval(STATEMENTS["count_hour"], *hour, timeout=_COUNT_SECONDS):
            break
        n_counted += 1
        if clock.mono() - began > _ROUND_SECONDS:
            break
    return n_counted
