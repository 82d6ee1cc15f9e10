"""What may not be kept longer is deleted, a batch per statement, so that none outlasts a statement's time.

Hosts are forgotten, too, once nothing has them: every change of an endpoint's address may leave one behind. Deliveries
take their host from their endpoint, as a statement of four seconds saw it, and a host is idle a day after the last
endpoint left it. So none comes to it any more, and those that it had before are looked for.

A deleted endpoint stays as long as its history, and goes when nothing refers to it:

    deleted ──nothing is open──► history closed ──its attempts go, day by day──► bare ──► forgotten

Once closed, its row tells from when to when there are deliveries of it, and whoever lists an account's deliveries need
not look into all the endpoints that it ever had.
"""

import datetime as dt
from collections.abc import Collection, Sequence
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple

import asyncpg

from dispatcher.ledger.connections import Link
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.ledger.wishes import count_of

HOSTS_AT_ONCE: Final = 5_000
"""Hosts looked at per statement: 20 ms, and 0.2 s where all of them go."""


HISTORIES_AT_ONCE: Final = 100
"""Deleted endpoints whose histories are closed per statement: about 10 ms."""

ENDPOINTS_AT_ONCE: Final = 100
"""Deleted endpoints looked at per statement: each in every day's table of attempts, about 50 ms."""

_BEGINNING: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Deleted(NamedTuple):
    """Where an endpoint stands among those that were deleted."""

    deleted_at: dt.datetime
    endpoint_id: int


FIRST_DELETED: Final = Deleted(_BEGINNING, 0)
"""Before all of them."""


class Old(StrEnum):
    """What grows old, by the statement that deletes some of it."""

    ANSWERS = "forget_idempotency_keys"
    DEEDS = "forget_deeds"
    SECRETS = "forget_secrets"
    DEAD_EVENTS = "forget_dead_events"
    REPLAYS = "forget_replays"
    HOURS = "forget_hours"
    KEYS = "forget_keys"


class Forgetting:
    """Deletes what is old. Any number of replicas may be at it: they leave each other's rows alone."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def forget_hosts(self, after: int) -> int | None:
        """Forget the idle ones of the next hosts numbered above `after`; return the last looked at, None at the end.

        Raises:
            Unavailable: some of them may be gone; there is nothing to mend.
        """
        page = await self._link.fetchrow("idle_hosts", after, HOSTS_AT_ONCE)
        if page["idle"]:
            idle = set(page["idle"])
            busy = await self._link.fetch("hosts_of_deliveries", min(idle), max(idle))
            await self._link.transaction(partial(_forget_hosts, idle - {row["host_id"] for row in busy}))
        last: int | None = page["last"]
        return last

    async def forget(self, old: Old) -> int:
        """Delete some of what is old, a thousand rows at most, and return how many; 0 when nothing is left.

        Raises:
            Unavailable: some of it may be gone; there is nothing to mend.
        """
        return await self._link.transaction(partial(_delete, STATEMENTS[old], ()))

    async def forget_trial_events(self, keep_days: int) -> int:
        """Delete some events of tests whose day has been over for more than `keep_days`; else as `forget`."""
        return await self._link.transaction(partial(_delete, STATEMENTS["forget_trial_events"], (keep_days,)))

    async def close_histories(self, after: int) -> int | None:
        """Close the histories of the next deleted endpoints above `after`, as far as nothing of them is open.

        Return the last one looked at, None at the end.

        Raises:
            Unavailable: some of them may be closed; there is nothing to mend.
        """
        page = await self._link.fetchrow("unclosed_histories", after, HISTORIES_AT_ONCE)
        if page["endpoints"]:
            await self._link.fetch("close_histories", page["endpoints"], page["firsts"], page["lasts"])
        last: int | None = page["last"]
        return last

    async def forget_endpoints(self, after: Deleted, *, keep_days: int) -> Deleted | None:
        """Forget those of the next endpoints deleted more than `keep_days` and a day ago to which nothing refers.

        Return where the last one looked at stands, None at the end.

        Raises:
            Unavailable: some of them may be gone; there is nothing to mend.
        """
        # The table of a day goes when the day has been over for so long.
        pages = await self._link.fetch("bare_endpoints", *after, keep_days + 1, ENDPOINTS_AT_ONCE)
        if not pages:
            return None
        (page,) = pages
        if page["bare"]:
            await self._link.fetch("forget_endpoints", page["bare"])
        return Deleted(page["changed_at"], page["endpoint_id"])


async def _delete(statement: str, arguments: Sequence[object], connection: asyncpg.Connection) -> int:
    return count_of(await connection.execute(statement, *arguments))


async def _forget_hosts(hosts: Collection[int], connection: asyncpg.Connection) -> None:
    locked = await connection.fetch(STATEMENTS["lock_idle_hosts"], list(hosts))
    await connection.execute(STATEMENTS["forget_hosts"], [row["host_id"] for row in locked])
