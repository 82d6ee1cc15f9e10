"""Lists of deliveries and attempts, newest first, by the filters of the logs.

A finished delivery has no row of its own: its last attempt carries the final verdict. So deliveries are the union of
the rows in the hot table and the attempts with a final verdict, in the order of their creation, which no later fate of
a delivery changes.

    filter                     served by
    status, since, until       the order of the index that the list is read by
    event, subject             an index of their own; of a subject the newest 100 events, and as many tests
    reference                  an index of the events that introduce one, and then as subjects
    type, outcome, test        nothing: SCAN_ROWS are looked at per page, and the next page goes on behind them
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import asyncpg

from dispatcher.kit import clock
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.logs import (
    ATTEMPT_COLUMNS,
    DELIVERY_COLUMNS,
    AttemptPlace,
    DeliveryPlace,
    LoggedAttempt,
    LoggedDelivery,
    logged_attempt,
    logged_delivery,
)
from dispatcher.model.delivery import DeliveryState
from dispatcher.model.outcome import OutcomeKind

SCAN_ROWS: Final = 400
"""Rows looked at per page, at most, when something is wanted that no index serves."""

_HELPING: Final = 3
"""Pages' worth of rows that are looked at first."""

SUBJECT_EVENTS: Final = 100
"""Newest events of one subject or reference that its deliveries are looked for by; a verification has about ten."""

ENDPOINTS_AT_ONCE: Final = 100
"""Deleted endpoints looked into per statement, when deliveries of all endpoints are wanted: about 10 ms."""

MOST_CUTS: Final = 4
"""Statements that may end before their time does, for one page."""

_STEPS: Final = (dt.timedelta(hours=1), dt.timedelta(days=1), dt.timedelta(days=7))
"""How far back deliveries are looked for first. Attempts lie in a table for each day, and fifty endpoints are looked
for in each: a page of the newest should not ask ninety days. A step that finds nothing takes 3 to 8 ms."""

_ATTEMPT_STEPS: Final = (dt.timedelta(days=1),)
"""How far back attempts of an endpoint are looked for first: to open the tables of all days takes as long as a page."""

# Where in a row a delivery or an attempt begins: behind what is told of the page.
_DELIVERY: Final = slice(-len(DELIVERY_COLUMNS), None)
_ATTEMPT: Final = slice(-len(ATTEMPT_COLUMNS), None)

_OPEN: Final = frozenset({DeliveryState.PENDING, DeliveryState.RETRYING, DeliveryState.HELD})
_BEGINNING: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_END: Final = dt.datetime(9000, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class LogFilter:
    """What to list; None lets everything pass.

    `since` and `until` (exclusive) are of a delivery's creation, or of an attempt's beginning. `outcomes` are of a
    delivery's last attempt. `is_test`: sent by "send test event", or not.
    """

    states: Sequence[DeliveryState] = tuple(DeliveryState)
    types: Sequence[str] | None = None
    outcomes: Sequence[OutcomeKind] | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    event_id: bytes | None = None
    subject: str | None = None
    client_reference: str | None = None
    is_test: bool | None = None

    @property
    def is_scanned(self) -> bool:
        """Tell whether rows are looked at that may not be wanted."""
        return not (self.types is None and self.outcomes is None and self.is_test is None)

    @property
    def names_events(self) -> bool:
        """Tell whether few events are meant, so that all that belongs to them is looked at."""
        return not (self.event_id is None and self.subject is None and self.client_reference is None)

    def scanned(self) -> tuple[Sequence[str] | None, Sequence[OutcomeKind] | None, bool | None]:
        """Return what is looked for row by row: types, outcomes, whether tests."""
        return self.types, self.outcomes, self.is_test

    def beginning(self) -> dt.datetime:
        """Return the time before which nothing is wanted."""
        return self.since or _BEGINNING

    def end(self) -> dt.datetime:
        """Return the time at which nothing is wanted any more."""
        return self.until or _END


EVERYTHING: Final = LogFilter()


class DeliveryPage(NamedTuple):
    """Deliveries, newest first. `next` is where to go on, None at the end; a page before it may be short or empty."""

    deliveries: Sequence[LoggedDelivery]
    next: DeliveryPlace | None


class AttemptPage(NamedTuple):
    """Attempts, newest first; `next` as in DeliveryPage."""

    attempts: Sequence[LoggedAttempt]
    next: AttemptPlace | None


class ListLedger:
    """Reads only. Every call raises Unavailable when Postgres is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def deliveries(
        self,
        tenant: Tenant,
        endpoint_id: int | None = None,
        *,
        wanted: LogFilter = EVERYTHING,
        before: DeliveryPlace | None = None,
        limit: int,
    ) -> DeliveryPage:
        """Return up to `limit` deliveries of the tenant, or of one of its endpoints, before a place."""
        # No number is below 1: this place is before everything created at the end.
        end = DeliveryPlace(wanted.end(), 0)
        place = end if before is None else min(end, before)
        if wanted.names_events:
            return await self._deliveries_of_events(tenant, endpoint_id, wanted, place, limit)
        found: list[LoggedDelivery] = []
        n_left, n_cuts, is_thinned = SCAN_ROWS, 0, False
        for since in _windows(wanted, place.created_at, _STEPS):
            is_cut = True
            while is_cut:
                n_missing = limit + 1 - len(found)
                n_next = _helping(wanted, n_left, n_missing, is_thinned=is_thinned)
                n_told = n_missing if wanted.is_scanned else n_next
                rows = await self._pool.fetch(
                    "list_deliveries",
                    *(*tenant, endpoint_id, *_split(wanted.states), *place, since, n_next, *wanted.scanned()),
                    *(n_told, ENDPOINTS_AT_ONCE),
                )
                told = _told(rows)
                found += [delivery for is_current, delivery in told if is_current]
                if len(found) > limit:
                    return DeliveryPage(found[:limit], found[limit - 1].place)
                is_thinned |= not all(is_current for is_current, _ in told)
                n_left -= rows[0]["n_scanned"]
                place, is_cut = _gone_on(rows[0], told, n_told)
                n_cuts += is_cut
                if is_cut and (n_left == 0 or n_cuts == MOST_CUTS):
                    return DeliveryPage(found, place)
            place = DeliveryPlace(since, 0)
        return DeliveryPage(found, None)

    async def _deliveries_of_events(
        self, tenant: Tenant, endpoint_id: int | None, wanted: LogFilter, place: DeliveryPlace, limit: int
    ) -> DeliveryPage:
        rows = await self._pool.fetch(
            "deliveries_of_events",
            *(*tenant, endpoint_id, wanted.event_id, wanted.subject, *_split(wanted.states), *place),
            *(wanted.beginning(), *wanted.scanned(), SUBJECT_EVENTS, limit + 1, wanted.client_reference),
        )
        found = _told(rows)
        following = found[limit - 1][1].place if len(found) > limit else None
        return DeliveryPage([delivery for is_current, delivery in found[:limit] if is_current], following)

    async def attempts(
        self,
        tenant: Tenant,
        endpoint_id: int,
        *,
        wanted: LogFilter = EVERYTHING,
        before: AttemptPlace | None = None,
        limit: int,
    ) -> AttemptPage:
        """Return up to `limit` requests made to one of the tenant's endpoints, before a place; states do not count."""
        end = AttemptPlace(wanted.end(), 0, 0)
        place = end if before is None else min(end, before)
        filters = (wanted.types, wanted.outcomes)
        if wanted.names_events:
            rows = await self._pool.fetch(
                "attempts_of_events",
                *(*tenant, endpoint_id, wanted.event_id, wanted.subject, *place, wanted.beginning(), *filters),
                *(SUBJECT_EVENTS, wanted.is_test, limit + 1, wanted.client_reference),
            )
            found = [logged_attempt(row) for row in rows]
            return AttemptPage(found[:limit], found[limit - 1].place if len(found) > limit else None)
        found = []
        n_left = SCAN_ROWS if wanted.is_scanned else limit + 1
        n_next = _first_helping(n_left, limit)
        for since in _windows(wanted, place.started_at, _ATTEMPT_STEPS):
            is_cut = True
            while is_cut:
                rows = await self._pool.fetch(
                    "attempts_of_endpoint",
                    *(endpoint_id, *place, since, n_next, *filters, wanted.is_test, limit + 1 - len(found)),
                )
                found += [logged_attempt(row[_ATTEMPT]) for row in rows if row["delivery_id"] is not None]
                if len(found) > limit:
                    return AttemptPage(found[:limit], found[limit - 1].place)
                n_scanned = rows[0]["n_scanned"]
                is_cut = n_scanned == n_next
                n_left -= n_scanned
                if is_cut:
                    place = AttemptPlace(rows[0]["scanned_to_at"], rows[0]["scanned_to_id"], rows[0]["scanned_to_no"])
                    if not n_left:
                        return AttemptPage(found, place)
                n_next = n_left
            place = AttemptPlace(since, 0, 0)
        return AttemptPage(found, None)


def _helping(wanted: LogFilter, n_left: int, n_missing: int, *, is_thinned: bool) -> int:
    """Return how many of `n_left` rows to look at next for `n_missing` deliveries.

    Where every row is wanted, as many, unless some turned out to be former ends of deliveries that were sent again.
    """
    if not (wanted.is_scanned or is_thinned):
        return min(n_left, n_missing)
    return n_left if n_left < SCAN_ROWS and wanted.is_scanned else min(n_left, _HELPING * n_missing)


def _gone_on(
    looked: asyncpg.Record, told: Sequence[tuple[bool, LoggedDelivery]], n_told: int
) -> tuple[DeliveryPlace, bool]:
    """Return where to go on within the same time, and whether there is more of it."""
    if len(told) == n_told:
        return told[-1][1].place, True
    return DeliveryPlace(looked["scanned_to_at"], looked["scanned_to_id"]), bool(looked["is_cut"])


def _first_helping(n_rows: int, limit: int) -> int:
    """Return how many rows of `n_rows` to look at first: most filters let most rows pass, few need all of them."""
    return min(n_rows, _HELPING * (limit + 1))


def _split(states: Sequence[DeliveryState]) -> tuple[list[DeliveryState], list[DeliveryState]]:
    return [state for state in states if state in _OPEN], [state for state in states if state not in _OPEN]


def _windows(wanted: LogFilter, before: dt.datetime, steps: Sequence[dt.timedelta]) -> Iterator[dt.datetime]:
    """Yield how far back to look, step by step, unless that was enough before."""
    latest = min(before, clock.utcnow())
    for step in steps:
        if latest - wanted.beginning() > step:
            yield latest - step
    yield wanted.beginning()


def _told(rows: Sequence[asyncpg.Record]) -> list[tuple[bool, LoggedDelivery]]:
    """Return the deliveries of rows, each after whether it is current."""
    return [(row["is_current"], logged_delivery(row[_DELIVERY])) for row in rows if row["delivery_id"] is not None]
