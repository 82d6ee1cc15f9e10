"""Consequences of failing for long: the account is told after an hour, a live endpoint is disabled after five days.

Settlements keep the count; any replica judges it. Row locks divide the work, and what was done once is not due any
more, so that it matters neither how many replicas judge nor how often.
"""

from typing import Final

import asyncpg

from dispatcher.ledger.connections import Link, Session
from dispatcher.ledger.news import announce, read_concerned
from dispatcher.model.news import Concerned, News
from dispatcher.policy.news import endpoint_disabled, endpoint_failing, error_of

_JUDGED_ROWS: Final = 100
"""Endpoints per round: when everybody fails at once, the rounds that follow take the rest."""


class HealthLedger:
    """Judges the health of endpoints. One caller at a time."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def judge(self) -> list[News]:
        """Tell of endpoints that fail, disable those that failed for too long; return what was told.

        One transaction. What waits for a disabled endpoint is held by a statement after it: should that not happen,
        each delivery is held when it falls due.

        Raises:
            Unavailable: it may have happened; the next round sees.
        """
        news, disabled = await self._link.transaction(_judge)
        if disabled:
            await self._link.fetch("hold_waiting", disabled)
        return news


async def _judge(connection: asyncpg.Connection) -> tuple[list[News], list[int]]:
    session = Session(connection)
    await session.execute("begin_anew")
    rows = await session.fetch("judge", _JUDGED_ROWS)
    if not rows:
        return [], []
    everybody = [row["endpoint_id"] for row in rows]
    disabled = [row["endpoint_id"] for row in rows if row["is_over"]]
    await session.execute("mark_judged", everybody, disabled)
    await session.execute("disable_failing", disabled)
    concerned = await read_concerned(session, everybody)
    news = [_news(concerned[row["endpoint_id"]], row) for row in rows]
    await announce(session, news)
    return news, disabled


def _news(about: Concerned, row: asyncpg.Record) -> News:
    if row["is_over"]:
        return endpoint_disabled(about)
    return endpoint_failing(
        about,
        failing_since=row["failing_since"],
        failures=row["failures"],
        last_error=error_of(row["status"], row["outcome"]),
    )
