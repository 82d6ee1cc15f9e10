"""Reading back: deliveries, attempts and events of one account.

Every page is read from a place on: nothing is skipped and nothing shown twice, whatever is inserted meanwhile.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import asyncpg
import orjson

from dispatcher.kit import clock
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool, Session
from dispatcher.ledger.deeds import OPERATORS
from dispatcher.ledger.hours import Week, read_week
from dispatcher.ledger.responses import Headers
from dispatcher.model.delivery import DeliveryState
from dispatcher.model.outcome import OutcomeKind, VerdictKind

SCAN_ROWS: Final = 1_000
"""Events looked at per page when a type is wanted: about 5 ms. A rare type then comes on short pages."""

STATS_ROWS: Final = 2_000
"""Requests looked at for an endpoint's statistics."""

COUNT_ROWS: Final = 10_000
"""Waiting deliveries counted in each state. With both full, statistics take about 50 ms."""

STATS_SECONDS: Final = 1.0
"""How old statistics may be: to look at 2,000 requests takes as long as ten small statements, and all who look at an
endpoint's page ask for the same."""

_MOST_STATS: Final = 1_000
"""Endpoints whose statistics are remembered."""

_MOST_NUMBERS: Final = 200
"""Endpoints whose numbers are remembered, of the account that a ledger serves."""

_NUMBER_SECONDS: Final = 3_600.0
"""How long a number is remembered: its endpoint may be forgotten meanwhile, history and all."""

_LAST_NUMBER: Final = (1 << 63) - 1

# A look into a table instead of a call of the class: twelve times faster, of every row of every page.
_STATES: Final = {state.value: state for state in DeliveryState}
_OUTCOMES: Final = {kind.value: kind for kind in OutcomeKind}
_VERDICTS: Final = {kind.value: kind for kind in VerdictKind}

DELIVERY_COLUMNS: Final = (
    "delivery_id",
    "endpoint",
    "event_id",
    "event_type",
    "subject",
    "client_reference",
    "state",
    "attempts",
    "next_at",
    "status",
    "outcome",
    "duration_ms",
    "last_at",
    "created_at",
    "attempts_before",
    "is_final",
    "detail",
    "n_scheduled",
)
"""What a statement tells of a delivery, in this order."""

ATTEMPT_COLUMNS: Final = (
    "started_at",
    "delivery_id",
    "attempt_no",
    "event_id",
    "event_type",
    "subject",
    "client_reference",
    "duration_ms",
    "status",
    "outcome",
    "verdict",
    "next_at",
    "detail",
)
"""What a statement tells of an attempt, in this order."""


class DeliveryPlace(NamedTuple):
    """Where a delivery stands in the log of its endpoint."""

    created_at: dt.datetime
    delivery_id: int


class AttemptPlace(NamedTuple):
    """Where an attempt stands among others."""

    started_at: dt.datetime
    delivery_id: int
    attempt_no: int


class EventPlace(NamedTuple):
    """Where an event stands in its account's feed: by commit, not by clock."""

    xid: int
    seq: int


class LoggedDelivery(NamedTuple):
    """A delivery and what its last attempt met. `attempts` counts those made.

    `last_attempt` is the number of the last one that there may be, as far as the ledger knows: an endpoint without a
    schedule of its own has its environment's, after `attempts_before` from before the delivery was sent again.
    `event_type` is None when neither the event nor an attempt is kept any more. `next_at` is None while held
    and when finished; `ended_at` while it is not. Status, outcome and duration are the last attempt's.
    """

    delivery_id: int
    endpoint: str
    event_id: bytes
    event_type: str | None
    subject: str | None
    client_reference: str | None
    state: DeliveryState
    attempts: int
    next_at: dt.datetime | None
    status: int | None
    outcome: OutcomeKind | None
    duration_ms: int | None
    last_at: dt.datetime | None
    ended_at: dt.datetime | None
    created_at: dt.datetime
    attempts_before: int
    last_attempt: int | None

    @property
    def place(self) -> DeliveryPlace:
        """Return where it stands in the log."""
        return DeliveryPlace(self.created_at, self.delivery_id)


class LoggedAttempt(NamedTuple):
    """One request. `detail` holds phases in milliseconds, the reason in our words, the peer, the keys' numbers."""

    started_at: dt.datetime
    delivery_id: int
    attempt_no: int
    event_id: bytes
    event_type: str
    subject: str | None
    client_reference: str | None
    duration_ms: int
    status: int | None
    outcome: OutcomeKind
    verdict: VerdictKind
    next_at: dt.datetime | None
    detail: Mapping[str, Any]

    @property
    def place(self) -> AttemptPlace:
        """Return where it stands in the log."""
        return AttemptPlace(self.started_at, self.delivery_id, self.attempt_no)


class LoggedResponse(NamedTuple):
    """What an attempt was answered: headers as they came, the body's first 16 KiB at most. `is_cut`: more followed."""

    started_at: dt.datetime
    status: int
    headers: Headers
    body: bytes
    is_cut: bool


class EndpointStats(NamedTuple):
    """What an endpoint met within 24 hours and what waits for it. Counts end at STATS_ROWS and COUNT_ROWS.

    `since` is the oldest request counted: younger than a day ago when there were more. Durations are
    those of all requests, None without any. `next_attempt_at` is of what waits in Postgres.
    """

    n_attempts: int
    n_delivered: int
    p50_ms: int | None
    p95_ms: int | None
    since: dt.datetime | None
    last_attempt_at: dt.datetime | None
    last_delivered_at: dt.datetime | None
    n_pending: int
    n_retrying: int
    n_held: int
    oldest_waiting_at: dt.datetime | None
    next_attempt_at: dt.datetime | None


class EventPage(NamedTuple):
    """Bodies as they are sent. `last` is the last place looked at, None when none was; `is_end`: nothing follows."""

    bodies: Sequence[bytes]
    last: EventPlace | None
    is_end: bool


class _KnownStats(NamedTuple):
    """Statistics of an endpoint that will do until then (monotonic)."""

    until: float
    stats: EndpointStats
    week: Week


class LogLedger:
    """Reads only; through a session what that has changed, too. Every call raises Unavailable when Postgres is away."""

    def __init__(self, pool: Pool | Session) -> None:
        self._pool = pool
        # An endpoint keeps its number and its tenant, deleted or not; each with the moment until which it is remembered
        # (monotonic), the oldest first.
        self._numbers: dict[tuple[Tenant, str], tuple[int, float]] = {}
        # The oldest first.
        self._stats: dict[int, _KnownStats] = {}

    async def endpoint_number(self, tenant: Tenant, public_id: str) -> int | None:
        """Return the number of the tenant's endpoint, of anybody's for OPERATORS; None: there is none (any more)."""
        now = clock.mono()
        number, until = self._numbers.get((tenant, public_id), (0, now))
        if now < until:
            return number
        self._numbers.pop((tenant, public_id), None)
        if tenant == OPERATORS:
            row = await self._pool.fetchrow("number_of_anybodys_endpoint", public_id)
        else:
            row = await self._pool.fetchrow("endpoint_number", *tenant, public_id)
        if row is None:
            return None
        if len(self._numbers) >= _MOST_NUMBERS:
            del self._numbers[next(iter(self._numbers))]
        number = int(row["endpoint_id"])
        self._numbers[tenant, public_id] = (number, now + _NUMBER_SECONDS)
        return number

    async def stats(self, endpoint_id: int) -> tuple[EndpointStats, Week]:
        """Return what an endpoint met within 24 hours and what waits for it, and what it met within a week.

        As it was up to STATS_SECONDS ago.
        """
        now = clock.mono()
        known = self._stats.get(endpoint_id)
        if known is None or now >= known.until:
            row = await self._pool.fetchrow("endpoint_stats", endpoint_id, STATS_ROWS, COUNT_ROWS)
            assert row is not None
            stats = EndpointStats(*row[: len(EndpointStats._fields)])
            known = _KnownStats(now + STATS_SECONDS, stats, read_week(row))
            self._stats.pop(endpoint_id, None)
            self._stats[endpoint_id] = known
            if len(self._stats) > _MOST_STATS:
                del self._stats[next(iter(self._stats))]
        return known.stats, known.week

    async def delivery(self, tenant: Tenant, delivery_id: int) -> LoggedDelivery | None:
        """Return one delivery of the tenant, None when it is not there or past its retention."""
        row = await self._pool.fetchrow("open_delivery", *tenant, delivery_id)
        if row is None:
            # It may have ended between the two statements, never the other way round.
            row = await self._pool.fetchrow("ended_delivery", *tenant, delivery_id)
        return None if row is None else logged_delivery(row)

    async def attempts_of_delivery(
        self, tenant: Tenant, delivery_id: int, *, before: AttemptPlace | None = None, limit: int
    ) -> list[LoggedAttempt]:
        """Return up to `limit` requests of one of the tenant's deliveries, newest first."""
        place = before or (None, None, None)
        rows = await self._pool.fetch("attempts_of_delivery", *tenant, delivery_id, *place, limit)
        return [logged_attempt(row) for row in rows]

    async def events_after(
        self, tenant: Tenant, place: EventPlace | None = None, *, types: Sequence[str] | None = None, limit: int
    ) -> EventPage:
        """Return the feed from a place on, oldest first: nothing ever appears before a place once given."""
        place = place or EventPlace(0, 0)
        return await self._events("events_ascending", tenant, place, types, limit)

    async def events_before(
        self, tenant: Tenant, place: EventPlace | None = None, *, types: Sequence[str] | None = None, limit: int
    ) -> EventPage:
        """Return the events before a place, newest first."""
        place = place or EventPlace(_LAST_NUMBER, _LAST_NUMBER)
        return await self._events("events_descending", tenant, place, types, limit)

    async def event(self, tenant: Tenant, event_id: bytes) -> bytes | None:
        """Return the body of one of the tenant's events, None when it is not there."""
        row = await self._pool.fetchrow("find_event", *tenant, event_id)
        return None if row is None else bytes(row["body"])

    async def _events(
        self, statement: str, tenant: Tenant, place: EventPlace, types: Sequence[str] | None, limit: int
    ) -> EventPage:
        scan = limit + 1 if types is None else SCAN_ROWS
        rows = await self._pool.fetch(statement, *tenant, *place, types, scan, limit)
        bodies: list[bytes] = []
        last = None
        for looked_at, row in enumerate(rows, start=1):
            last = EventPlace(row["xid"], row["seq"])
            if row["is_wanted"]:
                bodies.append(row["body"])
            if len(bodies) == limit:
                return EventPage(bodies, last, looked_at == len(rows) < scan)
        return EventPage(bodies, last, len(rows) < scan)


def logged_delivery(values: asyncpg.Record | Sequence[Any]) -> LoggedDelivery:
    """Return the delivery of what a row has in DELIVERY_COLUMNS."""
    # By place: by name it takes twice as long, of every row of every page.
    (delivery_id, endpoint, event_id, event_type, subject, client_reference, state, attempts, next_at) = values[:9]
    (status, outcome, duration_ms, last_at, created_at, attempts_before, is_final, detail, n_scheduled) = values[9:]
    ended_at = last_attempt = None
    if is_final:
        ended_at = last_at + dt.timedelta(milliseconds=duration_ms)
        # As its last request told. An open one has what its endpoint's own schedule says.
        last_attempt = None if detail is None else orjson.loads(detail).get("of")
    elif n_scheduled is not None:
        last_attempt = attempts_before + n_scheduled
    kind = None
    if outcome is None:
        # There was no request, or none yet: what the row has is of its end.
        duration_ms = last_at = None
    else:
        kind = _OUTCOMES[outcome]
    return LoggedDelivery(
        delivery_id,
        endpoint,
        event_id,
        event_type,
        subject,
        client_reference,
        _STATES[state],
        attempts,
        next_at,
        status,
        kind,
        duration_ms,
        last_at,
        ended_at,
        created_at,
        attempts_before or 0,
        last_attempt,
    )


def logged_attempt(values: asyncpg.Record | Sequence[Any]) -> LoggedAttempt:
    """Return the attempt of what a row has in ATTEMPT_COLUMNS."""
    (started_at, delivery_id, attempt_no, event_id, event_type, subject, client_reference) = values[:7]
    (duration_ms, status, outcome, verdict, next_at, detail) = values[7:]
    return LoggedAttempt(
        started_at,
        delivery_id,
        attempt_no,
        event_id,
        event_type,
        subject,
        client_reference,
        duration_ms,
        status,
        _OUTCOMES[outcome],
        _VERDICTS[verdict],
        next_at,
        {} if detail is None else orjson.loads(detail),
    )
