"""Attempts as they are recorded, for who watches: in the order of their commit, each with its place."""

import datetime as dt
from collections.abc import Sequence
from typing import Final, NamedTuple

from dispatcher.kit import clock
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.logs import ATTEMPT_COLUMNS, LoggedAttempt, logged_attempt

_LATE: Final = dt.timedelta(seconds=60)
"""How long after its start an attempt may be recorded and still be seen: a slow answer, a flush, a short outage."""

SCAN_ROWS: Final = 6_000
"""Attempts looked at at a time, the newest of each endpoint that has any: all of a minute where there are a hundred a
second, some seconds where there are a thousand. About 10 ms."""

_ATTEMPT: Final = slice(-len(ATTEMPT_COLUMNS), None)
"""Where in a row the attempt is: behind its place."""

_LAST_DELIVERY: Final = (1 << 63) - 1
_LAST_ATTEMPT: Final = (1 << 15) - 1


class LivePlace(NamedTuple):
    """Where a watcher is: by commit, and the moment up to which everything was looked at."""

    xid: int
    delivery_id: int
    attempt_no: int
    looked_at: dt.datetime


class LiveAttempt(NamedTuple):
    """An attempt and the public id of its endpoint."""

    endpoint: str
    attempt: LoggedAttempt


class LivePage(NamedTuple):
    """Some attempts, where to go on, and whether that is the end for now."""

    attempts: Sequence[LiveAttempt]
    place: LivePlace
    is_end: bool


class LiveLedger:
    """Reads only. Every call raises Unavailable when Postgres is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def after(
        self, tenant: Tenant, place: LivePlace | None, *, endpoint: str | None, types: Sequence[str] | None, limit: int
    ) -> LivePage:
        """Return the next attempts after a place, in the order of their commit; for None, where the end is now.

        Nothing ever appears before a place once given. Not seen are attempts recorded a minute after their start, what
        is older than an hour, and what is not among the newest SCAN_ROWS: a watcher that was away for longer, or that
        takes less than is done, goes on from there.
        """
        place = place or LivePlace(_LAST_DELIVERY, 0, 0, clock.utcnow())
        begun_after = place.looked_at - _LATE
        rows = await self._pool.fetch(
            "attempts_live", *tenant, begun_after, endpoint, types, *place[:3], limit + 1, SCAN_ROWS
        )
        found = [LiveAttempt(row["endpoint"], logged_attempt(row[_ATTEMPT])) for row in rows if row["xid"] is not None]
        if len(found) > limit:
            last = rows[limit - 1]
            place = LivePlace(last["xid"], last["delivery_id"], last["attempt_no"], place.looked_at)
            return LivePage(found[:limit], place, is_end=False)
        end = LivePlace(rows[0]["safe"] - 1, _LAST_DELIVERY, _LAST_ATTEMPT, rows[0]["looked_at"])
        return LivePage(found, end, is_end=True)
