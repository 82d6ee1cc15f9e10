"""Endpoints out of service and back: what they miss meanwhile, and the job that pays it.

An endpoint that is paused or disabled gets no rows. Events are stored anyway, so it only remembers from which
transaction on it owes them, and putting it into service starts a drain from there: a million held events cost the hot
table nothing. Rows that exist when it is held leave the due index by a flag, those that a process has are parked by
it, and the drain lets all of them go again.

An accept decides by the snapshot it took. One that still saw the endpoint held may commit after the drain has looked;
so a drain never looks at or above the oldest transaction under way, and its end is not known before every such accept
must be over (`SETTLING_SECONDS`). One that still saw it enabled made rows of its own, which the drain finds.
"""

import datetime as dt
from collections.abc import Collection
from typing import Final, NamedTuple, TypeAlias

from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import STATEMENT_SECONDS, Pool, Session
from dispatcher.ledger.deeds import Deed, note
from dispatcher.ledger.endpoints import Changed
from dispatcher.ledger.news import announce, read_concerned
from dispatcher.ledger.wishes import ROWS_AT_ONCE, cancel_some, count_of
from dispatcher.model.endpoint import EndpointStatus
from dispatcher.model.ids import new_replay_id
from dispatcher.model.replay import Tally
from dispatcher.policy.news import endpoint_disabled

SETTLING_SECONDS: Final = 2 * STATEMENT_SECONDS
"""After a change of an endpoint, no accept that took its snapshot before is alive for longer than this."""

MOST_COUNTED: Final = 10_000
"""Events looked at, and held rows counted, before a count says "at least"."""

BY_USER: Final = "by_user"

Versions: TypeAlias = Collection[dt.datetime] | None
"""The versions of an endpoint that may be changed, None for whichever there is."""


class _Wish(NamedTuple):
    """The status that an endpoint is to have, and who wants that of which of its versions."""

    tenant: Tenant
    public_id: str
    status: EndpointStatus
    deed: Deed | None
    versions: Versions


class _Standing(NamedTuple):
    """How an endpoint under its lock stands to a wish: what to answer, and the status that is still to be changed."""

    answer: int | Changed | None
    number: int = 0
    before: str | None = None


class HoldingLedger:
    """The status of endpoints in Postgres. Every call raises Unavailable when Postgres is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def hold(
        self,
        tenant: Tenant,
        public_id: str,
        status: EndpointStatus,
        *,
        deed: Deed | None = None,
        versions: Versions = None,
    ) -> int | Changed | None:
        """Pause or disable an endpoint; return its number, None when the account has no such one.

        Does nothing when it is none of `versions`.

        Status and what is owed change in one transaction, with the first 5,000 waiting rows. Should the rest be cut
        short, those rows are held when they fall due, as are those that processes have. `deed` is written down with
        the change, and other endpoints that ask for it are told that one was disabled.
        """
        wish = _Wish(tenant, public_id, status, deed, versions)
        async with self._pool.transaction() as session:
            found = await _look(session, wish)
            if found.before is None:
                return found.answer
            reason = BY_USER if status is EndpointStatus.DISABLED else None
            await session.execute("hold_endpoint", found.number, status, reason)
            await session.execute("give_back_drain", found.number)
            tag = await session.execute("hold_some", found.number, ROWS_AT_ONCE)
            if status is EndpointStatus.DISABLED:
                concerned = await read_concerned(session, [found.number])
                await announce(session, [endpoint_disabled(one) for one in concerned.values()])
            await _note(session, wish, found.before)
        while count_of(tag) == ROWS_AT_ONCE:
            tag = await self._pool.execute("hold_some", found.number, ROWS_AT_ONCE)
        return found.number

    async def enable(
        self,
        tenant: Tenant,
        public_id: str,
        *,
        pays: bool = True,
        deed: Deed | None = None,
        versions: Versions = None,
    ) -> int | Changed | None:
        """Put an endpoint into service; return its number, None when the account has no such one.

        Does not enable it when it is none of `versions`.

        What it owes becomes a drain, or (`pays` false) is forgotten: held rows are canceled then, before it is enabled
        but for the last of them, so that a fault in between leaves it held. Enabling twice is enabling once.
        """
        wish = _Wish(tenant, public_id, EndpointStatus.ENABLED, deed, versions)
        async with self._pool.transaction() as session:
            found = await _look(session, wish)
        if found.before is not None and pays:
            return (await self._enable_and_drain(wish, await self.count_held(found.number))).answer
        while found.before is not None:
            found = await self._enable_and_forget(wish)
        return found.answer

    async def _enable_and_drain(self, wish: _Wish, expected: Tally) -> _Standing:
        async with self._pool.transaction() as session:
            found = await _look(session, wish)
            # Somebody may have been faster, or deleted it.
            if found.before is None:
                return found
            await session.execute("start_drain", found.number, new_replay_id(), *expected)
            return await _enable(session, wish, found)

    async def _enable_and_forget(self, wish: _Wish) -> _Standing:
        """Cancel some of what is held; enable the endpoint when that was the last."""
        async with self._pool.transaction() as session:
            found = await _look(session, wish)
            if found.before is None or await cancel_some(session, found.number, only_held=True):
                return found
            await session.execute("end_drain", found.number)
            return await _enable(session, wish, found)

    async def count_held(self, endpoint_id: int) -> Tally:
        """Count what an endpoint holds, or what its drain has still to pay: rows and events, 10,000 of each at most."""
        row = await self._pool.fetchrow("count_held", endpoint_id, MOST_COUNTED)
        assert row is not None
        return Tally(row["n"], row["is_minimum"])


async def _look(session: Session, wish: _Wish) -> _Standing:
    """Lock the endpoint until the transaction ends, and tell how it stands."""
    row = await session.fetchrow("lock_endpoint", *wish.tenant, wish.public_id)
    if row is None:
        return _Standing(None)
    if wish.versions is not None and row["settings_at"] not in wish.versions:
        return _Standing(Changed())
    number: int = row["endpoint_id"]
    return _Standing(number, number, None if row["status"] == wish.status else row["status"])


async def _enable(session: Session, wish: _Wish, found: _Standing) -> _Standing:
    await session.execute("enable_endpoint", found.number)
    await _note(session, wish, found.before)
    return _Standing(found.answer)


async def _note(session: Session, wish: _Wish, before: str | None) -> None:
    if wish.deed is not None:
        after = {"status": wish.status}
        await note(session, wish.deed, wish.public_id, before={"status": before}, after=after, facts=after)
