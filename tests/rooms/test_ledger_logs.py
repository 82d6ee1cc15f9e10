"""Reading back: what a delivery is called, in which order, from which index."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
import datetime as dt
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from dispatcher.kit import clock
from dispatcher.ledger import logs
from dispatcher.ledger.accounts import AccountLedger, Tenant
from dispatcher.ledger.connections import LISTED, Pool
from dispatcher.ledger.lists import SCAN_ROWS, ListLedger, LogFilter
from dispatcher.ledger.logs import AttemptPlace, DeliveryPlace, EventPage, LoggedAttempt, LoggedDelivery, LogLedger
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.delivery import DeliveryState
from dispatcher.model.ids import show_event_id
from dispatcher.model.outcome import OutcomeKind, VerdictKind
from tests.rooms.function_texts import FUNCTIONS, text_in
from tests.rooms.test_api_harness import Seeds, ledger_template, ledger_url, pool
from tests.support.servers import DatabaseServer, fresh_database


@dataclass
class Room:
    """The ledger, a connection beside it, and seeds for one tenant with one endpoint."""

    ledger: LogLedger
    lists: ListLedger
    sql: asyncpg.Connection
    seeds: Seeds
    tenant: Tenant
    endpoint: int

    async def deliveries(
        self, *, before: DeliveryPlace | None = None, limit: int, **wanted: Any
    ) -> list[LoggedDelivery]:
        page = await self.lists.deliveries(
            self.tenant, self.endpoint, wanted=LogFilter(**wanted), before=before, limit=limit
        )
        return list(page.deliveries)

    async def attempts(self, *, before: AttemptPlace | None = None, limit: int, **wanted: Any) -> list[LoggedAttempt]:
        page = await self.lists.attempts(
            self.tenant, self.endpoint, wanted=LogFilter(**wanted), before=before, limit=limit
        )
        return list(page.attempts)

    async def ended_at(self, endpoint: int, age: float, verdict: str = "delivered") -> int:
        """Make a delivery that ended just now, created so many seconds before today began, to the microsecond."""
        number = await self.seeds.ended(endpoint, verdict, ago=1.0)
        await self.sql.execute(
            "UPDATE attempt SET delivery_created_at = (now() AT TIME ZONE 'UTC')::date AT TIME ZONE 'UTC'"
            " - $2 * interval '1 second' WHERE delivery_id = $1",
            number,
            age,
        )
        return number

    async def delete(self, endpoint: int, *, is_closed: bool = True) -> None:
        """Let an endpoint be deleted just now, and its history be closed."""
        await self.sql.execute(
            "UPDATE endpoint SET status = 'deleted', changed_at = now() WHERE endpoint_id = $1", endpoint
        )
        if is_closed:
            await self.sql.execute(
                "UPDATE endpoint SET (first_delivery_at, last_delivery_at) = (SELECT"
                " COALESCE(min(delivery_created_at), '-infinity'), COALESCE(max(delivery_created_at), '-infinity')"
                " FROM attempt WHERE attempt.endpoint_id = endpoint.endpoint_id) WHERE endpoint_id = $1",
                endpoint,
            )


@asynccontextmanager
async def open_room(url: str, pool: Pool) -> AsyncIterator[Room]:
    """Give a room on a migrated database."""
    account = await AccountLedger(pool).create()
    tenant = Tenant(account.account_id, "test")
    sql = await asyncpg.connect(url, server_settings=LISTED)
    try:
        seeds = Seeds(sql, tenant)
        yield Room(LogLedger(pool), ListLedger(pool), sql, seeds, tenant, await seeds.endpoint())
    finally:
        await sql.close()


@pytest.fixture
async def room(ledger_url: str, pool: Pool) -> AsyncIterator[Room]:
    async with open_room(ledger_url, pool) as made:
        yield made


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, DeliveryState.PENDING),
        ({"owner": 1}, DeliveryState.PENDING),
        ({"attempts": 2}, DeliveryState.RETRYING),
        ({"held": True}, DeliveryState.HELD),
        ({"held": True, "attempts": 1}, DeliveryState.HELD),
    ],
)
async def test_an_open_delivery_is_called_by_what_its_row_says(
    room: Room, changes: dict[str, object], state: DeliveryState
) -> None:
    number = await room.seeds.delivery(room.endpoint, **changes)  # type: ignore[arg-type]

    (listed,) = await room.deliveries(states=[state], limit=5)
    read = await room.ledger.delivery(room.tenant, number)
    others = await room.deliveries(states=[one for one in DeliveryState if one is not state], limit=5)

    assert listed == read
    assert (listed.state, listed.delivery_id) == (state, number)
    assert (listed.event_type, listed.ended_at) == ("verification.completed", None)
    assert (listed.next_at is None) == (state is DeliveryState.HELD)
    assert others == []


async def test_an_endpoints_number_is_remembered_for_a_while_only_since_endpoints_are_forgotten(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = await room.seeds.endpoint("we_gone")
    now = clock.mono()
    before = await room.ledger.endpoint_number(room.tenant, "we_gone")
    await room.sql.execute("DELETE FROM endpoint WHERE endpoint_id = $1", gone)

    found = []
    for seconds in (logs._NUMBER_SECONDS - 60, logs._NUMBER_SECONDS + 60):
        monkeypatch.setattr(clock, "mono", lambda at=now + seconds: at)
        found.append(await room.ledger.endpoint_number(room.tenant, "we_gone"))

    assert [before, *found] == [gone, gone, None]


async def test_an_endpoints_number_is_remembered_for_its_tenant_alone(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_MOST_NUMBERS", 1)
    other = Tenant(room.tenant.account_id, "live")
    names = {}
    for number in (room.endpoint, await room.seeds.endpoint()):
        names[number] = await room.sql.fetchval("SELECT public_id FROM endpoint WHERE endpoint_id = $1", number)

    found = [await room.ledger.endpoint_number(room.tenant, name) for name in (*names.values(), *names.values())]
    strangers = [await room.ledger.endpoint_number(other, name) for name in names.values()]

    assert found == [*names, *names]
    assert strangers == [None, None]
    assert len(room.ledger._numbers) == 1


async def test_statistics_are_a_second_old_at_most_and_nobody_elses(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr(clock, "mono", lambda: now)
    monkeypatch.setattr(logs, "_MOST_STATS", 1)
    found = []
    for moment in (1_000.0, 1_000.9, 1_001.0):
        now = moment
        await room.seeds.delivery(room.endpoint)
        found.append((await room.ledger.stats(room.endpoint))[0].n_pending)

    others = (await room.ledger.stats(await room.seeds.endpoint()))[0].n_pending

    assert (found, others) == ([1, 1, 3], 0)
    assert len(room.ledger._stats) == 1


@pytest.mark.parametrize("verdict", ["delivered", "exhausted", "canceled"])
async def test_a_finished_delivery_is_called_by_its_last_verdict(room: Room, verdict: str) -> None:
    number = await room.seeds.ended(room.endpoint, verdict, number=3, age=50, ago=10)
    await room.seeds.attempt(room.endpoint, number, "retry", number=2, age=50, ago=20)

    (listed,) = await room.deliveries(states=[DeliveryState(verdict)], limit=5)
    read = await room.ledger.delivery(room.tenant, number)

    assert listed.state == verdict
    assert (listed.attempts, listed.status, listed.outcome) == (3, 500, OutcomeKind.HTTP_5XX)
    assert listed.next_at is None
    assert listed.ended_at is not None
    assert read is not None
    assert read._replace(created_at=listed.created_at) == listed


async def test_a_cancel_without_a_request_counts_no_attempt_and_is_none(room: Room) -> None:
    number = await room.seeds.ended(room.endpoint, "canceled", number=3, outcome=None)

    found = await room.ledger.delivery(room.tenant, number)

    assert found is not None
    assert (found.attempts, found.outcome, found.last_at) == (2, None, None)
    assert await room.attempts(limit=5) == []
    assert await room.ledger.attempts_of_delivery(room.tenant, number, limit=5) == []


async def test_an_open_delivery_tells_of_its_last_attempt(room: Room) -> None:
    number = await room.seeds.delivery(room.endpoint, attempts=2)
    await room.seeds.attempt(room.endpoint, number, "retry", number=1, ago=30, status=500)
    await room.seeds.attempt(room.endpoint, number, "retry", number=2, ago=20, status=503)

    (listed,) = await room.deliveries(limit=5)

    assert (listed.state, listed.attempts, listed.status, listed.duration_ms) == ("retrying", 2, 503, 20)


async def test_a_gone_endpoints_delivery_stays_open_as_held(room: Room) -> None:
    number = await room.seeds.delivery(room.endpoint, attempts=1, held=True)
    await room.seeds.attempt(room.endpoint, number, "gone", outcome="http_410", status=410)

    (listed,) = await room.deliveries(limit=5)

    assert (listed.state, listed.outcome) == (DeliveryState.HELD, OutcomeKind.HTTP_410)


async def test_pages_hold_every_delivery_once_in_the_order_of_creation(room: Room) -> None:
    for age in range(1, 40):
        if age % 3:
            await room.seeds.ended(room.endpoint, ("delivered", "exhausted")[age % 2], age=age * 10)
        else:
            await room.seeds.delivery(room.endpoint, age=age * 10, attempts=age % 2, held=age % 4 == 0)
    whole = await room.deliveries(limit=100)

    paged = []
    place = None
    while page := await room.deliveries(before=place, limit=7):
        paged += page
        place = page[-1].place
        await room.seeds.delivery(room.endpoint, age=0)

    assert len(whole) == 39
    assert paged == whole
    assert [one.created_at for one in whole] == sorted((one.created_at for one in whole), reverse=True)


async def test_deliveries_created_in_one_instant_are_paged_by_number(room: Room) -> None:
    event_id = await room.seeds.event()
    async with room.sql.transaction():
        for n in range(6):
            await room.seeds.delivery(room.endpoint, held=n % 2 == 0, event_id=event_id)

    whole = await room.deliveries(limit=10)
    first = await room.deliveries(limit=3)
    second = await room.deliveries(before=first[-1].place, limit=10)

    assert len({one.created_at for one in whole}) == 1
    assert [one.delivery_id for one in first + second] == sorted((one.delivery_id for one in whole), reverse=True)


async def test_a_page_is_filled_from_all_rows_that_may_be_looked_at_though_few_of_them_pass(room: Room) -> None:
    wanted = (13, 17)
    numbers = [
        await room.seeds.ended(
            room.endpoint, "exhausted", outcome="http_5xx" if n in wanted else "http_4xx", age=20.0 + n, ago=n + 1.0
        )
        for n in range(20)
    ]

    deliveries = await room.deliveries(limit=2, outcomes=[OutcomeKind.HTTP_5XX])
    attempts = await room.attempts(limit=2, outcomes=[OutcomeKind.HTTP_5XX])

    assert [one.delivery_id for one in deliveries] == [numbers[n] for n in wanted]
    assert [one.delivery_id for one in attempts] == [numbers[n] for n in wanted]


@pytest.mark.parametrize("wanted", [{}, {"outcomes": [OutcomeKind.HTTP_5XX]}], ids=["all", "scanned"])
async def test_an_accounts_pages_hold_what_all_its_endpoints_met_in_the_order_of_creation(
    room: Room, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
) -> None:
    monkeypatch.setattr("dispatcher.ledger.lists.SCAN_ROWS", 14)
    day = 86_400.0
    busy = room.endpoint
    quiet, gone, _, _ = [await room.seeds.endpoint() for _ in range(4)]
    ages = {
        busy: [5.0 * n for n in range(1, 30)],
        quiet: [7.0, 3_599.0, 3_601.0, 0.9 * day, 1.1 * day, 6.5 * day, 20.0 * day],
        gone: [2.0 * day, 5.0 * day],
    }
    for endpoint, created in ages.items():
        for age in created:
            verdict, outcome = ("delivered", "exhausted")[int(age) % 2], "http_5xx" if age > 60 else "tls_error"
            await room.seeds.ended(endpoint, verdict, age=age, ago=age / 4, outcome=outcome)
    await room.seeds.delivery(quiet, age=1.5 * day, attempts=1)
    retried = await room.seeds.delivery(busy, age=8.0, attempts=1)
    for number in await room.sql.fetch(
        "SELECT delivery_id FROM delivery WHERE account_id = $1", room.tenant.account_id
    ):
        await room.seeds.attempt(busy, number[0], "retry", age=1.5 * day, ago=4.0)
    await room.sql.execute(
        "UPDATE endpoint SET status = 'deleted', changed_at = now() - interval '1 day' WHERE endpoint_id = $1", gone
    )

    page = await room.lists.deliveries(room.tenant, wanted=LogFilter(**wanted), limit=4)
    paged = list(page.deliveries)
    while page.next is not None:
        page = await room.lists.deliveries(room.tenant, wanted=LogFilter(**wanted), before=page.next, limit=4)
        paged += page.deliveries

    met = [age for created in ages.values() for age in created if age > 60 or not wanted]
    assert len({one.delivery_id for one in paged}) == len(paged) == len(met) + 2
    assert [one.created_at for one in paged] == sorted((one.created_at for one in paged), reverse=True)
    assert retried in {one.delivery_id for one in paged}


@pytest.mark.parametrize("n_again", [1, 3])
async def test_pages_are_full_after_deliveries_were_sent_again(room: Room, n_again: int) -> None:
    numbers = [await room.seeds.ended(room.endpoint, age=5.0 * n, ago=4.0) for n in range(1, 25)]
    for n, number in enumerate(numbers, start=1):
        for again in range(n_again):
            await room.seeds.attempt(room.endpoint, number, "delivered", number=2 + again, age=5.0 * n, ago=3.0 - again)
    await room.sql.execute(
        "UPDATE attempt SET delivery_created_at = (SELECT min(o.delivery_created_at) FROM attempt o"
        " WHERE o.delivery_id = attempt.delivery_id)"
    )

    pages: list[list[int]] = []
    place = None
    while not pages or place is not None:
        page = await room.lists.deliveries(room.tenant, before=place, limit=10)
        pages.append([one.delivery_id for one in page.deliveries])
        place = page.next

    assert [len(page) for page in pages] == [10, 10, 4]
    assert [number for page in pages for number in page] == numbers


async def test_a_page_that_is_filled_up_looks_at_so_many_rows_and_no_more(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.ledger.lists.SCAN_ROWS", 14)
    looked = []
    fetch = room.lists._pool.fetch

    async def watched(statement: str, *arguments: object) -> list[asyncpg.Record]:
        rows = await fetch(statement, *arguments)
        looked.append(rows[0]["n_scanned"])
        return rows

    monkeypatch.setattr(room.lists._pool, "fetch", watched)
    number = await room.seeds.ended(room.endpoint, age=5.0, ago=4.0)
    for n in range(30):
        await room.seeds.attempt(room.endpoint, number, "delivered", number=2 + n, age=5.0, ago=3.0 - n / 100)

    page = await room.lists.deliveries(room.tenant, limit=4)

    assert [one.delivery_id for one in page.deliveries] == [number]
    assert page.next is not None
    assert sum(looked) <= 14


@pytest.mark.parametrize("limit", [5, 100])
async def test_what_deleted_endpoints_left_is_listed_whole_however_many_they_are(
    room: Room, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("dispatcher.ledger.lists.ENDPOINTS_AT_ONCE", 2)
    monkeypatch.setattr("dispatcher.ledger.lists._STEPS", (dt.timedelta(days=1),))
    made, rare = {await room.ended_at(room.endpoint, 3_600.0 * n) for n in (1, 30, 400)}, set()
    for n in range(24):
        # Three end at one moment each; some reach far back, some are not closed, some left nothing.
        deleted = await room.seeds.endpoint()
        last = 3_600.0 * 10 * (n // 3)
        ages = [] if n % 6 == 5 else [last, last + 60, last + 1_000_000.0 * (n % 2)]
        made |= {await room.ended_at(deleted, age) for age in ages}
        if n in {9, 21}:
            rare.add(await room.ended_at(deleted, last + 30, "exhausted"))
        await room.delete(deleted, is_closed=n % 7 != 6)

    for states, expected in (([DeliveryState.DELIVERED], made), ([DeliveryState.EXHAUSTED], rare)):
        paged: list[LoggedDelivery] = []
        place, n_pages = None, 0
        while n_pages == 0 or place is not None:
            page = await room.lists.deliveries(room.tenant, wanted=LogFilter(states), before=place, limit=limit)
            paged += page.deliveries
            place, n_pages = page.next, n_pages + 1
            assert n_pages < 40

        assert [one.place for one in paged] == sorted((one.place for one in paged), reverse=True)
        assert {one.delivery_id for one in paged} == expected
        assert len(paged) == len(expected)


async def test_endpoints_that_left_nothing_are_not_looked_into(room: Room) -> None:
    deleted = await room.seeds.endpoint()
    await room.delete(deleted)
    columns = "account_id, environment, host_id, url, events, api_version, status, first_delivery_at, last_delivery_at"
    await room.sql.execute(
        f"INSERT INTO endpoint (public_id, {columns}) SELECT 'we_' || n, {columns}"
        " FROM endpoint, generate_series(1, 1000) n WHERE endpoint_id = $1",
        deleted,
    )
    await room.sql.execute("ANALYZE endpoint")
    for statement, *rest in (
        ("list_deliveries", None, OPEN_STATES, FINAL_STATES, END, 0, LONG_AGO, 26, None, None, None, 26, 100),
        ("attempts_live", dt.datetime.now(dt.UTC), None, None, 0, 0, 0, 26, 6_000),
    ):
        plan = await _plan(room, statement, *room.tenant, *rest)
        looks = [re.search(r"Index.* on (?:delivery|attempt).*loops=(\d+)", line) for line in plan]

        assert max(int(match[1]) for match in looks if match) <= 4, statement
        assert rows_looked_at(plan) < FEW_ROWS, statement


async def test_one_page_looks_into_so_many_deleted_endpoints_and_no_more(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.ledger.lists.ENDPOINTS_AT_ONCE", 2)
    for n in range(20):
        deleted = await room.seeds.endpoint()
        await room.seeds.ended(deleted, age=3_600.0 * n, ago=1.0)
        await room.delete(deleted)

    page = await room.lists.deliveries(room.tenant, wanted=LogFilter([DeliveryState.EXHAUSTED]), limit=5)

    assert page.deliveries == []
    assert page.next is not None
    assert page.next.created_at > dt.datetime.now(dt.UTC) - dt.timedelta(hours=10)


async def test_a_bound_before_all_time_is_as_good_as_any(room: Room) -> None:
    await room.seeds.ended(room.endpoint, "delivered", age=5, ago=4)

    assert await room.deliveries(until=dt.datetime(1, 1, 2, tzinfo=dt.UTC), limit=5) == []
    assert len(await room.deliveries(since=dt.datetime(1, 1, 2, tzinfo=dt.UTC), limit=5)) == 1


async def test_attempts_are_paged_newest_first_even_within_one_instant(room: Room) -> None:
    numbers = [await room.seeds.delivery(room.endpoint) for _ in range(3)]
    async with room.sql.transaction():
        for number in numbers:
            for attempt_no in (1, 2, 3):
                await room.seeds.attempt(room.endpoint, number, "retry", number=attempt_no, ago=10)
    await room.seeds.attempt(room.endpoint, numbers[0], "retry", number=4, ago=5, detail=b'{"dns_ms":1.5}')

    whole = await room.attempts(limit=50)
    paged = []
    place = None
    while page := await room.attempts(before=place, limit=4):
        paged += page
        place = page[-1].place
    of_one = await room.ledger.attempts_of_delivery(room.tenant, numbers[0], limit=2)
    rest = await room.ledger.attempts_of_delivery(room.tenant, numbers[0], before=of_one[-1].place, limit=9)

    assert len(whole) == 10
    assert paged == whole
    assert whole[0].detail == {"dns_ms": 1.5}
    assert whole[0].verdict is VerdictKind.RETRY
    assert [one.attempt_no for one in of_one + rest] == [4, 3, 2, 1]


async def test_the_feed_shows_nothing_that_something_older_can_still_precede(room: Room, ledger_url: str) -> None:
    other = await asyncpg.connect(ledger_url)
    async with other.transaction():
        late = await Seeds(other, room.tenant).unseen_event()
        early = await room.seeds.unseen_event()

        hidden = await room.ledger.events_after(room.tenant, limit=10)
        newest = await room.ledger.events_before(room.tenant, limit=10)
        by_id = await room.ledger.event(room.tenant, early)
    await other.close()
    shown = await _feed_of(room, 2)

    assert hidden.bodies == newest.bodies == []
    assert hidden.is_end
    assert by_id is not None
    assert [show_event_id(late).encode() in shown[0], show_event_id(early).encode() in shown[1]] == [True, True]


async def _feed_of(room: Room, n_events: int) -> list[bytes]:
    async with asyncio.timeout(5):
        while len(page := (await room.ledger.events_after(room.tenant, limit=10)).bodies) < n_events:
            pass
    return list(page)


async def test_the_feed_goes_on_where_it_ended(room: Room) -> None:
    first = [await room.seeds.event() for _ in range(3)]
    page = await room.ledger.events_after(room.tenant, limit=2)
    rest = await room.ledger.events_after(room.tenant, page.last, limit=2)
    nothing = await room.ledger.events_after(room.tenant, rest.last, limit=2)
    more = await room.seeds.event()
    after = await room.ledger.events_after(room.tenant, rest.last, limit=2)

    assert [page.is_end, rest.is_end, nothing.is_end] == [False, True, True]
    assert len(page.bodies) + len(rest.bodies) == len(first)
    assert nothing.bodies == []
    assert [show_event_id(more).encode() in body for body in after.bodies] == [True]


async def test_both_orders_of_events_hold_the_same(room: Room) -> None:
    for n in range(9):
        await room.seeds.event(("verification.completed", "verification.created")[n % 2])

    up: list[bytes] = []
    down: list[bytes] = []
    place = None
    while True:
        page = await room.ledger.events_after(room.tenant, place, limit=3)
        up += page.bodies
        place = page.last
        if page.is_end:
            break
    place = None
    while True:
        page = await room.ledger.events_before(room.tenant, place, limit=4)
        down += page.bodies
        place = page.last
        if page.is_end:
            break

    assert len(up) == 9
    assert up == down[::-1]


async def test_a_rare_type_is_found_over_short_pages(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SCAN_ROWS", 4)
    wanted = await room.seeds.event("verification.created")
    for _ in range(9):
        await room.seeds.event()

    pages: list[EventPage] = []
    place = None
    while not pages or not pages[-1].is_end:
        pages.append(await room.ledger.events_before(room.tenant, place, types=["verification.created"], limit=2))
        place = pages[-1].last

    assert [len(page.bodies) for page in pages] == [0, 0, 1]
    assert show_event_id(wanted).encode() in pages[-1].bodies[0]


async def test_a_page_of_one_type_never_holds_more_than_asked_for(room: Room) -> None:
    for n in range(8):
        await room.seeds.event(("verification.completed", "verification.created")[n % 2])

    first = await room.ledger.events_after(room.tenant, types=["verification.created"], limit=3)
    second = await room.ledger.events_after(room.tenant, first.last, types=["verification.created"], limit=3)

    assert [len(first.bodies), len(second.bodies)] == [3, 1]
    assert [first.is_end, second.is_end] == [False, True]


@pytest.fixture(scope="module")
async def crowded(postgres_server: DatabaseServer, ledger_template: str) -> AsyncIterator[Room]:
    """Give a room with a few thousand rows of every kind, most of them other endpoints', to be read only."""
    async with fresh_database(postgres_server, template=ledger_template) as url:
        opened = await Pool.open(url)
        async with open_room(url, opened) as made:
            await crowd(made)
            yield made
        await opened.aclose()


async def crowd(room: Room) -> None:
    """Write the rows, and let the planner know of them."""
    others = [await room.seeds.endpoint() for _ in range(4)]
    endpoints = [*others, room.endpoint]
    account, environment = room.tenant
    await room.sql.execute(
        "INSERT INTO event (event_day, event_id, account_id, environment, event_type, subject, client_reference, "
        "introduces, occurred_at, body) "
        "SELECT (now() AT TIME ZONE 'UTC')::date, substring(sha256(n::text::bytea) FOR 20), $1 + n % 3, $2, "
        "'verification.completed', 'ver_' || n % 600, 'user-' || n % 600, CASE WHEN n <= 600 THEN true END, now(), "
        "repeat('x', 500)::bytea FROM generate_series(1, 6000) n",
        account,
        environment,
    )
    await room.sql.execute(
        "INSERT INTO delivery (event_day, event_id, account_id, environment, endpoint_id, host_id, attempts, held, "
        "due_at, created_at) SELECT event_day, event_id, $1, $2, ($3::int[])[1 + seq % 5], 1, seq % 2, seq % 10 < 2, "
        "now(), now() - seq * interval '1 second' FROM event",
        account,
        environment,
        endpoints,
    )
    await room.sql.execute(
        "INSERT INTO attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment, "
        "event_id, event_type, attempt_no, duration_ms, status, outcome, verdict, replica_id) "
        "SELECT now() - n * interval '60 seconds', 1000000 + n, now() - n * interval '60 seconds', "
        "($3::int[])[1 + n % 5], $1, $2, substring(sha256(n::text::bytea) FOR 20), 'verification.completed', 1, 20, "
        "200, 'delivered', CASE WHEN n % 100 < 5 THEN 'exhausted' WHEN n % 7 = 0 THEN 'retry' ELSE 'delivered' END, 1 "
        "FROM generate_series(1, 8000) n",
        account,
        environment,
        endpoints,
    )
    await room.sql.execute("ANALYZE")


FEW_ROWS = 300
"""Pages are of 26 rows, tables of thousands: who looks at more than this reads a table, or a wrong index."""


def rows_looked_at(plan: list[str]) -> int:
    """Return how many rows the nodes of a plan gave or threw away, at the worst node."""
    given = [
        round(float(match[1]) * int(match[2]))
        for line in plan
        if (match := re.search(r"rows=([\d.]+) loops=(\d+)", line))
    ]
    thrown = [int(match[1]) for line in plan if (match := re.search(r"Rows Removed by .*: (\d+)", line))]
    return max(given + thrown)


END = dt.datetime(9000, 1, 1, tzinfo=dt.UTC)
LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
OPEN_STATES = ["pending", "retrying", "held"]
FINAL_STATES = ["delivered", "exhausted", "canceled"]


@pytest.mark.parametrize(
    ("open_states", "final_states"),
    [(OPEN_STATES, FINAL_STATES), *(([one], []) for one in OPEN_STATES), *(([], [one]) for one in FINAL_STATES)],
)
async def test_every_filter_of_deliveries_is_served_by_an_index(
    crowded: Room, open_states: list[str], final_states: list[str]
) -> None:
    minutes_ago = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5)
    for before in ((END, 0), (minutes_ago, 10**9)):
        # An account's page looks at a page of each of its five endpoints in each state.
        for endpoint, most in ((crowded.endpoint, FEW_ROWS), (None, 5 * 7 * 26)):
            scope = (*crowded.tenant, endpoint, open_states, final_states)
            plan = await _plan(crowded, "list_deliveries", *scope, *before, LONG_AGO, 26, None, None, None, 26, 100)

            assert rows_looked_at(plan) < most


async def test_open_deliveries_are_told_by_their_keys_from_tables_of_their_days_alone(crowded: Room) -> None:
    numbers = await crowded.sql.fetchval(
        "SELECT array_agg(delivery_id) FROM (SELECT delivery_id FROM delivery ORDER BY 1 LIMIT 26) d"
    )
    bounds = await crowded.sql.fetchrow(
        "SELECT min(event_day), max(event_day), min(created_at) FROM delivery WHERE delivery_id = ANY($1)", numbers
    )
    assert bounds is not None
    first, last, born = bounds

    plan = await _plan(crowded, "open_deliveries", numbers, first, last, born)

    assert rows_looked_at(plan) < FEW_ROWS
    assert len(set(re.findall(r" on event_(\d{8}) ", "\n".join(plan)))) == (last - first).days + 1
    # From the day of the oldest to tomorrow.
    assert len(set(re.findall(r" on attempt_(\d{8}) ", "\n".join(plan)))) <= (last - first).days + 3


@pytest.mark.parametrize("named", ["event", "subject", "reference"])
async def test_what_is_asked_for_by_event_subject_or_reference_is_found_by_it(crowded: Room, named: str) -> None:
    event_id = await crowded.sql.fetchval("SELECT event_id FROM event WHERE account_id = $1", crowded.tenant.account_id)
    event, subject = event_id if named == "event" else None, "ver_7" if named == "subject" else None
    reference = "user-7" if named == "reference" else None
    filters = (None, None, None)
    for endpoint in (None, crowded.endpoint):
        asked = (*crowded.tenant, endpoint, event, subject)
        bounds = (OPEN_STATES, FINAL_STATES, END, 0, LONG_AGO)
        plan = await _plan(crowded, "deliveries_of_events", *asked, *bounds, *filters, 100, 26, reference)
        assert rows_looked_at(plan) < FEW_ROWS
    asked = (*crowded.tenant, crowded.endpoint, event, subject)
    place = (END, 0, 0)
    plan = await _plan(crowded, "attempts_of_events", *asked, *place, LONG_AGO, None, None, 100, None, 26, reference)
    assert rows_looked_at(plan) < FEW_ROWS


async def test_a_filter_without_an_index_looks_at_so_many_rows_and_no_more(crowded: Room) -> None:
    filters = (["verification.created"], ["http_5xx"], None)
    bounds = (OPEN_STATES, FINAL_STATES, END, 0, LONG_AGO)
    tenant = crowded.tenant
    most = {
        "endpoint": await _plan(
            crowded, "list_deliveries", *tenant, crowded.endpoint, *bounds, SCAN_ROWS, *filters, 26, 100
        ),
        "account": await _plan(crowded, "list_deliveries", *tenant, None, *bounds, SCAN_ROWS, *filters, 26, 100),
        "attempts": await _plan(
            crowded, "attempts_of_endpoint", crowded.endpoint, END, 0, 0, LONG_AGO, SCAN_ROWS, *filters, 26
        ),
    }

    # A stretch for each kind of row at most; the endpoints of an account share one.
    bound = {"endpoint": 7 * SCAN_ROWS, "account": 7 * SCAN_ROWS, "attempts": SCAN_ROWS}
    assert [name for name, plan in most.items() if rows_looked_at(plan) > bound[name] + FEW_ROWS] == []


async def test_every_other_log_is_served_by_an_index(crowded: Room) -> None:
    tenant, now = crowded.tenant, dt.datetime.now(dt.UTC)
    event_id = await crowded.sql.fetchval("SELECT event_id FROM event LIMIT 1")
    delivery = await crowded.sql.fetchval("SELECT delivery_id FROM delivery LIMIT 1")
    plans = [
        await _plan(crowded, "attempts_of_endpoint", crowded.endpoint, END, 0, 0, LONG_AGO, 26, None, None, None, 26),
        await _plan(crowded, "attempts_of_endpoint", crowded.endpoint, now, 9, 1, LONG_AGO, 26, None, None, None, 26),
        await _plan(crowded, "attempts_of_delivery", *tenant, 1000007, None, None, None, 26),
        await _plan(crowded, "open_delivery", *tenant, delivery),
        await _plan(crowded, "ended_delivery", *tenant, 1000008),
        await _plan(crowded, "events_ascending", *tenant, 0, 0, None, 26, 25),
        await _plan(crowded, "events_descending", *tenant, 2**63 - 1, 2**63 - 1, None, 26, 25),
        await _plan(crowded, "find_event", *tenant, event_id),
        await _plan(crowded, "list_endpoints", *tenant, None, 26),
        await _plan(crowded, "feed_stretch", *tenant, 0, 0, ["verification.completed"], 100),
        await _plan(crowded, "feed_tail", *tenant, None, 1, 1),
        await _plan(crowded, "feed_since", *tenant, LONG_AGO, 10),
        await _plan(crowded, "attempts_live", *tenant, now - dt.timedelta(minutes=1), None, None, 0, 0, 0, 26, 6_000),
    ]

    assert [rows_looked_at(plan) for plan in plans if rows_looked_at(plan) >= FEW_ROWS] == []


_TOLD = [
    *((name, logs.DELIVERY_COLUMNS, slice(None)) for name in ("open_delivery", "ended_delivery")),
    *((name, logs.DELIVERY_COLUMNS, slice(-18, None)) for name in ("list_deliveries", "deliveries_of_events")),
    *((name, logs.ATTEMPT_COLUMNS, slice(None)) for name in ("attempts_of_delivery", "attempts_of_events")),
    *((name, logs.ATTEMPT_COLUMNS, slice(-13, None)) for name in ("attempts_of_endpoint", "attempts_live")),
    ("whole_attempt", logs.ATTEMPT_COLUMNS, slice(13)),
]


@pytest.mark.parametrize(("statement", "columns", "place"), _TOLD)
async def test_what_is_read_by_its_place_stands_there(
    room: Room, statement: str, columns: tuple[str, ...], place: slice
) -> None:
    prepared = await room.sql.prepare(STATEMENTS[statement])

    assert tuple(one.name for one in prepared.get_attributes())[place] == columns


async def test_a_watcher_looks_at_so_many_attempts_and_no_more(crowded: Room) -> None:
    await crowded.sql.execute(
        "INSERT INTO attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment, "
        "event_id, event_type, attempt_no, duration_ms, status, outcome, verdict, replica_id) "
        "SELECT now() - n * interval '1 millisecond', 2000000 + n, now(), endpoint_id, account_id, environment, "
        "event_id, event_type, 1, 20, 200, 'delivered', 'delivered', 1 FROM attempt, generate_series(1, 5) n"
    )
    await crowded.sql.execute("ANALYZE")
    minute_ago = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
    for endpoint in (None, await crowded.sql.fetchval("SELECT public_id FROM endpoint LIMIT 1")):
        plan = await _plan(crowded, "attempts_live", *crowded.tenant, minute_ago, endpoint, None, 0, 0, 0, 26, 200)

        assert rows_looked_at(plan) < FEW_ROWS


async def _plan(room: Room, statement: str, *arguments: object) -> list[str]:
    """Run a statement by the plan that a connection of the pool keeps for it."""
    text = await text_in(room.sql, statement) if statement in FUNCTIONS else STATEMENTS[statement]
    await room.sql.execute(f"PREPARE planned AS {text}")
    given = ", ".join(map(_literal, arguments))
    rows = await room.sql.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF) EXECUTE planned({given})")
    await room.sql.execute("DEALLOCATE planned")
    return [row[0] for row in rows]


def _literal(value: object) -> str:
    match value:
        case None:
            return "NULL"
        case bytes():
            return f"'\\x{value.hex()}'"
        case list():
            return f"'{{{','.join(map(str, value))}}}'"
        case _:
            return f"'{value}'"
