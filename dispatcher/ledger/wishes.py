"""What a person wishes for one delivery: once more, not at all, or now.

A row that a process owns is never touched from outside: its owner finds its rows by their place, and would lose one
that moved. So a wish to cancel is written down beside it, and fulfilled when the delivery comes back unfinished.
"""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Final, NamedTuple, TypeAlias

from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool, Session
from dispatcher.ledger.deeds import Deed, KeptAnswer, begin, keep, note
from dispatcher.ledger.logs import LoggedDelivery, LogLedger
from dispatcher.model.endpoint import EndpointStatus

ROWS_AT_ONCE: Final = 5_000
"""Waiting deliveries canceled or held per statement: about 0.2 s, far below the statement timeout."""

_ACCEPTED: Final = 202


class Wish(Enum):
    """What became of a wish. Closed."""

    GRANTED = auto()
    UNKNOWN = auto()
    """The account has no such delivery."""
    ENDED = auto()
    """It is finished."""
    HELD = auto()
    """Its endpoint is paused or disabled."""
    OPEN = auto()
    """It is under way already."""
    NOT_ENABLED = auto()
    """Its endpoint takes no deliveries."""
    EVENT_GONE = auto()
    """The event is past its retention: there is nothing left to send."""
    TEST = auto()
    """It was a test: its event was never stored."""
    TOO_OFTEN = auto()
    """Its attempts cannot be counted any further."""


class DeliveryName(NamedTuple):
    """One delivery, by its number and by the id under which its owner knows it."""

    number: int
    public_id: str


Fate: TypeAlias = LoggedDelivery | Wish | KeptAnswer
"""What a wish comes to: the delivery as it stands then, why not, or what was answered before."""

_Fulfil: TypeAlias = Callable[[Session, Tenant, int], Awaitable[Wish]]


class WishLedger:
    """Single deliveries in Postgres, by hand. Every call raises Unavailable when Postgres is away.

    `show` gives the answer to keep. A wish that is granted is written down in the transaction that fulfils it.
    """

    def __init__(self, pool: Pool, *, show: Callable[[LoggedDelivery], bytes]) -> None:
        self._pool = pool
        self._show = show

    async def resend(self, deed: Deed, delivery: DeliveryName) -> Fate:
        """Open a finished delivery once more, due now: one attempt, then its schedule from the second entry on."""
        return await self._fulfil(deed, delivery, _resend)

    async def cancel(self, deed: Deed, delivery: DeliveryName) -> Fate:
        """Cancel an open delivery, now or, while a process has it, as soon as it comes back unfinished."""
        return await self._fulfil(deed, delivery, _cancel)

    async def retry(self, deed: Deed, delivery: DeliveryName) -> Fate:
        """Let a delivery that waits fall due now; nothing changes for one that a process has already."""
        return await self._fulfil(deed, delivery, _retry)

    async def _fulfil(self, deed: Deed, delivery: DeliveryName, fulfil: _Fulfil) -> Fate:
        async with self._pool.transaction() as session:
            kept = await begin(session, deed)
            if kept is not None:
                return kept
            wish = await fulfil(session, deed.owner, delivery.number)
            if wish is not Wish.GRANTED:
                return wish
            found = await LogLedger(session).delivery(deed.owner, delivery.number)
            if found is None:
                return Wish.UNKNOWN
            await note(session, deed, delivery.public_id, facts={"endpoint_id": found.endpoint})
            await keep(session, deed, _ACCEPTED, self._show(found))
            return found


async def _resend(session: Session, tenant: Tenant, delivery_id: int) -> Wish:
    standing = await session.fetchrow("delivery_standing", *tenant, delivery_id)
    if standing is None:
        return Wish.UNKNOWN
    if standing["is_test"]:
        return Wish.TEST
    endpoint = await session.fetchrow("lock_endpoint_number", standing["endpoint_id"])
    if endpoint is None or endpoint["status"] != EndpointStatus.ENABLED:
        return Wish.NOT_ENABLED
    told = await session.fetchrow("resend", *tenant, delivery_id)
    assert told is not None
    if told["is_open"]:
        return Wish.OPEN
    if not told["may_go_on"]:
        return Wish.TOO_OFTEN
    return Wish.GRANTED if told["has_event"] else Wish.EVENT_GONE


async def _cancel(session: Session, tenant: Tenant, delivery_id: int) -> Wish:
    tag = await session.execute("cancel_deliveries", [delivery_id], *tenant)
    if count_of(tag) or count_of(await session.execute("wish_canceled", *tenant, delivery_id)):
        return Wish.GRANTED
    return await _refusal(session, tenant, delivery_id)


async def _retry(session: Session, tenant: Tenant, delivery_id: int) -> Wish:
    if count_of(await session.execute("retry_now", *tenant, delivery_id)):
        return Wish.GRANTED
    return await _refusal(session, tenant, delivery_id)


async def _refusal(session: Session, tenant: Tenant, delivery_id: int) -> Wish:
    row = await session.fetchrow("delivery_standing", *tenant, delivery_id)
    if row is None:
        return Wish.UNKNOWN
    if not row["is_open"]:
        return Wish.ENDED
    return Wish.HELD if row["held"] else Wish.GRANTED


async def cancel_some(session: Session, endpoint_id: int, *, only_held: bool = False) -> bool:
    """Cancel waiting deliveries of an endpoint, as many as one statement may; tell whether there may be more."""
    found = await session.fetch("waiting_of_endpoint", endpoint_id, ROWS_AT_ONCE, only_held)
    if found:
        await session.execute("cancel_deliveries", [row["delivery_id"] for row in found], None, None)
    return len(found) == ROWS_AT_ONCE


def count_of(tag: str) -> int:
    """Return how many rows a command tag speaks of."""
    return int(tag.rpartition(" ")[2])
