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
from typing import Any, Final, TypeAlias

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
        async with self._pool.transaction() as session:
            row = await session.fetchrow("lock_endpoint", *tenant, public_id)
            if row is None:
                return None
            if not _is_one_of(versions, row):
                return Changed()
            number: int = row["endpoint_id"]
            if row["status"] == status:
                return number
            reason = BY_USER if status is EndpointStatus.DISABLED else None
            await session.execute("hold_endpoint", number, status, reason)
            await session.execute("give_back_drain", number)
            tag = await session.execute("hold_some", number, ROWS_AT_ONCE)
            if status is EndpointStatus.DISABLED:
                await announce(
                    session, [endpoint_disabled(one) for one in (await read_concerned(session, [number])).values()]
                )
            await _note(session, deed, public_id, row["status"], status)
        while count_of(tag) == ROWS_AT_ONCE:
            tag = await self._pool.execute("hold_some", number, ROWS_AT_ONCE)
        return number

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
        async with self._pool.transaction() as session:
            row = await session.fetchrow("lock_endpoint", *tenant, public_id)
        if row is None:
            return None
        if not _is_one_of(versions, row):
            return Changed()
        number: int = row["endpoint_id"]
        if row["status"] == EndpointStatus.ENABLED:
            return number
        if pays:
            expected = await self.count_held(number)
            changed = await self._enable_and_drain(tenant, public_id, expected, deed, versions)
            return number if changed is None else changed
        done: bool | Changed = False
        while done is False:
            done = await self._enable_and_forget(tenant, public_id, deed, versions)
        return done if isinstance(done, Changed) else number

    async def _enable_and_drain(
        self, tenant: Tenant, public_id: str, expected: Tally, deed: Deed | None, versions: Versions
    ) -> Changed | None:
        async with self._pool.transaction() as session:
            row = await session.fetchrow("lock_endpoint", *tenant, public_id)
            # Somebody may have been faster, or deleted it.
            if row is None:
                return None
            if not _is_one_of(versions, row):
                return Changed()
            if row["status"] != EndpointStatus.ENABLED:
                await session.execute("start_drain", row["endpoint_id"], new_replay_id(), *expected)
                await session.execute("enable_endpoint", row["endpoint_id"])
                await _note(session, deed, public_id, row["status"], EndpointStatus.ENABLED)
            return None

    async def _enable_and_forget(
        self, tenant: Tenant, public_id: str, deed: Deed | None, versions: Versions
    ) -> bool | Changed:
        async with self._pool.transaction() as session:
            row = await session.fetchrow("lock_endpoint", *tenant, public_id)
            if row is None:
                return True
            if not _is_one_of(versions, row):
                return Changed()
            if row["status"] == EndpointStatus.ENABLED:
                return True
            number = row["endpoint_id"]
            if await cancel_some(session, number, only_held=True):
                return False
            await session.execute("end_drain", number)
            await session.execute("enable_endpoint", number)
            await _note(session, deed, public_id, row["status"], EndpointStatus.ENABLED)
            return True

    async def count_held(self, endpoint_id: int) -> Tally:
        """Count what an endpoint holds, or what its drain has still to pay: rows and events, 10,000 of each at most."""
        row = await self._pool.fetchrow("count_held", endpoint_id, MOST_COUNTED)
        assert row is not None
        return Tally(row["n"], row["is_minimum"])


def _is_one_of(versions: Versions, row: Any) -> bool:
    return versions is None or row["changed_at"] in versions


async def _note(session: Session, deed: Deed | None, public_id: str, before: str, after: EndpointStatus) -> None:
    if deed is not None:
        await note(
            session, deed, public_id, before={"status": before}, after={"status": after}, facts={"status": after}
        )
