"""Leases, fencing and takeover: who is alive, and whose rows are whose.

A replica is a row. Its lease runs 15 s by default and is renewed by every settlement and at least every third
of it. Expiry alone takes nothing away: it only permits a survivor to take over, and the takeover deletes the row.
Every statement that changes state checks that its own row still exists, so after a takeover nothing by the dead
id applies. A Postgres outage longer than the lease therefore costs no duplicate: nobody could take over either.

The local deadline is the monotonic time read *before* the renewing statement was sent, plus the lease, less a
margin; past it no new request starts. Only Postgres decides expiry, only the own monotonic clock decides
self-stop, and no clock is ever compared with another machine's.

But how long Postgres' clock says that something took is compared with the own monotonic clock, every second. When it
ran ahead (somebody set it, a standby with another time took over), leases of the living look expired: then nobody is
judged before all had time to renew, as after an outage.

    Postgres' now     12:00:00   12:00:01   12:01:02                     12:01:18
    own seconds            0.0        1.0        2.0   a step of 60 s        18.1   judges again
"""

import datetime as dt
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg
import structlog

from dispatcher.kit import clock, failpoints
from dispatcher.kit.gate import Gate
from dispatcher.ledger.connections import Link
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.errors import Fenced, Unavailable

MARGIN_SECONDS: Final = 2.0
"""How much sooner than Postgres we think our lease ends: covers a paused process between check and send."""

_STEP_SECONDS: Final = 1.0
"""What Postgres' clock may gain on ours within one look: more than any slewing, less than a lease bears."""

_log = structlog.get_logger("ledger")


_DAYS_AT_ONCE: Final = 20
"""Tables of past days made per statement: about 0.2 s. A first start makes as many as days are kept."""


class Replica:
    """This process in the eyes of Postgres: its number, its lease and the rows it holds.

    `held` are the numbers of the deliveries in this process, from accept or claim to settlement. Statements that
    change ownership run inside `gate.shared()`; whoever compares `held` with the table holds it alone.
    """

    def __init__(self, replica_id: int, lease_seconds: float, renewed_mono: float, renewed_at: dt.datetime) -> None:
        self.replica_id: Final = replica_id
        self.lease_seconds: Final = lease_seconds
        self.gate: Final = Gate()
        self.held: set[int] = set()
        self._held_again: set[int] = set()
        # Written by whichever task renewed last; a lease never shrinks.
        self._deadline = renewed_mono + lease_seconds - MARGIN_SECONDS
        self._unbroken_since = renewed_mono
        self._looked_at, self._told = renewed_mono, renewed_at

    def hold(self, numbers: Collection[int]) -> None:
        """Note deliveries as this process's, accepted or claimed."""
        self._held_again |= self.held.intersection(numbers)
        self.held.update(numbers)

    def release(self, numbers: Collection[int]) -> None:
        """Note deliveries as settled. One that was claimed before its settlement was answered is held on."""
        self.held.difference_update(set(numbers) - self._held_again)
        self._held_again.difference_update(numbers)

    def renewed(self, sent_mono: float) -> None:
        """Note a renewal whose statement was sent at `sent_mono`."""
        if clock.mono() > self._deadline:
            self._unbroken_since = sent_mono
        self._deadline = max(self._deadline, sent_mono + self.lease_seconds - MARGIN_SECONDS)

    def may_send(self, now: float) -> bool:
        """Tell whether the lease surely holds at monotonic time `now`; false means start nothing."""
        return now < self._deadline

    def lease_left(self, now: float) -> float:
        """Return the seconds until the local deadline; negative when past it."""
        return self._deadline - now

    def may_take_over(self, now: float) -> bool:
        """Tell whether this replica may judge others.

        Its own lease held without a gap, and Postgres' clock without a step ahead, for longer than one lease: after an
        outage of Postgres, or a step, every lease has expired; this gives the living time to renew first.
        """
        return now < self._deadline and now - self._unbroken_since > self.lease_seconds + 1.0

    def was_told(self, told: dt.datetime, asked_mono: float) -> None:
        """Note what Postgres' clock says, asked at `asked_mono` and answered just now."""
        answered = clock.mono()
        # No more than this can have passed, however long the answers were under way.
        ahead = (told - self._told).total_seconds() - (answered - self._looked_at)
        if ahead > _STEP_SECONDS:
            self._unbroken_since = answered
            _log.warning("database_clock_stepped", seconds=round(ahead, 1))
        self._looked_at, self._told = asked_mono, told


async def register(link: Link, pod: str, lease_seconds: float, *, delivers: bool = True) -> Replica:
    """Enter a new replica and return it; its number was never used before. Unavailable when Postgres is away.

    It is known to own the sessions that bear the link's tag: who takes it over ends them.

    `delivers` tells the others whether this one sends requests, and so takes a share of each host's limits.
    """
    sent = clock.mono()
    row = await link.fetchrow("register", pod, lease_seconds, delivers, link.tag or None)
    return Replica(row["replica_id"], lease_seconds, sent, row["now"])


class Membership:
    """The standing duties of a replica towards the others: heartbeat, takeover, partitions."""

    def __init__(self, link: Link, replica: Replica, *, payload_days: int) -> None:
        self._link = link
        self._replica = replica
        self._kept_for = dt.timedelta(days=payload_days)
        self._days: tuple[dt.date, dt.date] | None = None

    async def heartbeat(self) -> int:
        """Renew the lease and return the number of live replicas.

        Raises:
            Fenced: this replica was taken over.
            Unavailable: the renewal may or may not have happened; try again.
        """
        sent = clock.mono()
        rows = await self._link.fetch("heartbeat", self._replica.replica_id, self._replica.lease_seconds)
        if not rows:
            message = f"replica {self._replica.replica_id} was taken over"
            raise Fenced(message)
        self._replica.renewed(sent)
        live: int = rows[0]["live"]
        return live

    async def take_over(self) -> tuple[int, int]:
        """Remove replicas whose lease ended and free their rows; return how many replicas and how many rows.

        One transaction of three statements, so that the release takes its snapshot after the lock: rows of an
        accept that committed in between are seen. Does nothing unless `may_take_over`; expiry is judged at a time of
        Postgres' that was held against ours before. A replica whose session is in the middle of a statement is left
        for the next call: its sessions are ended by this one.
        """
        asked = clock.mono()
        if not self._replica.may_send(asked):
            return 0, 0
        look = await self._link.fetchrow("look_at_leases", self._replica.replica_id)
        self._replica.was_told(look["now"], asked)
        if not look["is_any_over"] or not self._replica.may_take_over(clock.mono()):
            return 0, 0

        async def work(connection: asyncpg.Connection) -> tuple[int, int]:
            expired = await connection.fetch(STATEMENTS["expired"], self._replica.replica_id, look["now"])
            if not expired:
                return 0, 0
            failpoints.reach(failpoints.Point.TAKEOVER_LOCKED)
            ids = [row["replica_id"] for row in expired]
            released = await connection.execute(STATEMENTS["release_rows"], ids)
            await connection.execute(STATEMENTS["remove_replicas"], ids)
            return len(ids), int(released.split()[-1])

        return await self._link.transaction(work)

    async def free_orphans(self) -> None:
        """Free rows whose owner does not exist: the safety net under every takeover."""
        await self._link.fetch("orphans")

    async def make_days(self) -> tuple[dt.date, dt.date]:
        """Make the daily partitions of the next week where missing, and events' of the days that they are kept.

        Return the first and last day there are, in one run around today.

        Raises:
            Unavailable: Postgres is away, or another replica is just making days that this one must not be without.
        """
        failpoints.reach_soon(failpoints.Point.DAYS_SENT)
        is_done = await self._make_missing()
        failpoints.reach(failpoints.Point.DAYS_MADE)
        row = await self._link.fetchrow("partition_days")
        # An event for which there is no table is buried: half a run is no run to begin with.
        if not row["first"] <= row["today"] <= row["last"] or not (is_done or self._days):
            message = "make_days: another replica is making the tables of days"
            raise Unavailable(message, why="a table of the database is missing")
        self._days = (row["first"], row["last"])
        return self._days

    async def _make_missing(self) -> bool:
        """Make them, some at a time; false when another replica is at it."""
        n_made: int | None = _DAYS_AT_ONCE
        while n_made == _DAYS_AT_ONCE:
            n_made = (await self._link.fetchrow("make_days", self._kept_for.days, _DAYS_AT_ONCE))["n_made"]
        return n_made is not None

    def days(self) -> tuple[dt.date, dt.date]:
        """Return the first and last UTC day that can hold events: what `make_days` saw, less what retention drops.

        A day past its retention takes nothing new, also while it is kept for what it holds.
        """
        if self._days is None:
            message = "make_days was never awaited"
            raise RuntimeError(message)
        first, last = self._days
        return max(first, clock.utcnow().date() - self._kept_for), last

    @asynccontextmanager
    async def until_begun(self) -> AsyncIterator[None]:
        """Leave at a fault or a cancel inside: nothing was begun, and shares are made among all that are registered."""
        try:
            yield
        except BaseException:
            with suppress(Unavailable):
                await self.leave()
            raise

    async def leave(self) -> None:
        """Free whatever this replica still owns and delete its row; nothing by its number applies afterwards."""
        own = [self._replica.replica_id]

        async def work(connection: asyncpg.Connection) -> None:
            await connection.execute(STATEMENTS["release_rows"], own)
            await connection.execute(STATEMENTS["remove_replicas"], own)

        await self._link.transaction(work)
