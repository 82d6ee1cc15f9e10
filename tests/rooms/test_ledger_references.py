"""The customers' own references: which events introduce one, and that all events are found by it."""

import datetime as dt
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from dispatcher.kit import clock
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.lists import ListLedger, LogFilter
from dispatcher.ledger.logs import LogLedger
from dispatcher.ledger.references import Reference, References
from dispatcher.ledger.wishes import cancel_some
from dispatcher.model.batch import Batch
from dispatcher.model.event import Event
from dispatcher.model.outcome import VerdictKind
from tests.rooms.ledger_world import World, a_batch, an_event, open_ledger
from tests.rooms.test_ledger_settlement import settled
from tests.support.servers import DatabaseServer


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


@pytest.fixture
async def pool(world: World) -> AsyncIterator[Pool]:
    made = await Pool.open(world.url)
    yield made
    await made.aclose()


def about(account: str, n: int = 1, *, events: int = 1, **changes: Any) -> list[Event]:
    """Return events of the n-th verification."""
    named = {"subject": f"ver_{n:012d}", "client_reference": f"user-{n}", **changes}
    return [an_event(account, **named) for _ in range(events)]


async def introduced(world: World) -> list[tuple[str, str]]:
    """Return subject and reference of the events that introduce one."""
    rows = await world.rows("SELECT subject, client_reference FROM event WHERE introduces ORDER BY seq")
    return [(row["subject"], row["client_reference"]) for row in rows]


async def test_the_first_event_of_a_verification_introduces_its_reference(world: World) -> None:
    account = await world.account()
    process = await world.process()

    await process.accept(a_batch([*about(account, 1, events=3), *about(account, 2)]))
    await process.accept(a_batch([*about(account, 1, events=2), *about(account, 3)], start=4))

    assert await introduced(world) == [(f"ver_{n:012d}", f"user-{n}") for n in (1, 2, 3)]
    assert await world.value("SELECT count(*) FROM event WHERE client_reference = 'user-1'") == 5


async def test_an_event_without_a_reference_introduces_none(world: World) -> None:
    account = await world.account()
    process = await world.process()

    await process.accept(a_batch(about(account, client_reference=None)))

    assert await introduced(world) == []
    assert await world.value("SELECT count(*) FROM event WHERE client_reference IS NULL") == 1


@pytest.mark.parametrize("other", ["account", "environment", "subject", "client_reference"])
async def test_what_differs_in_anything_is_introduced_for_itself(world: World, other: str) -> None:
    account, stranger = await world.account(), await world.account()
    different = {"account": stranger, "environment": "test", "subject": "ver_000000000002", "client_reference": "x"}
    changes: dict[str, Any] = {other: different[other]}
    process = await world.process()

    await process.accept(a_batch([*about(account), about(account)[0]._replace(**changes)]))

    assert len(await introduced(world)) == 2


async def test_every_day_is_introduced_for_itself_since_days_are_dropped(world: World) -> None:
    account = await world.account()
    process = await world.process()
    today = clock.utcnow().date()
    days = (today - dt.timedelta(days=2), today)

    for n, day in enumerate(days):
        (placed,) = a_batch(about(account), start=n).events
        await process.accept(a_batch([], start=n, stop=n + 1)._replace(events=(placed._replace(event_day=day),)))

    rows = await world.rows("SELECT event_day FROM event WHERE introduces ORDER BY event_day")
    assert [row["event_day"] for row in rows] == list(days)


async def test_what_a_batch_introduces_is_remembered_only_once_all_of_it_is_stored(world: World) -> None:
    account = await world.account()
    process = await world.process()
    known = an_event(account)
    await process.accept(a_batch([known]))

    for start, batch in enumerate((about(account), about(account)), start=1):
        await process.accept(a_batch([*batch, known], start=2 * start - 1))
    refused = await process.accept(a_batch(about(account, 2), start=99))
    await process.accept(a_batch(about(account, 2), start=5))

    assert refused.refused
    assert await introduced(world) == [
        (known.subject, known.client_reference),
        *[("ver_000000000001", "user-1")] * 2,
        ("ver_000000000002", "user-2"),
    ]


def test_no_more_introductions_are_remembered_than_there_is_room_for() -> None:
    today = clock.utcnow().date()
    five: list[Reference] = [(today, "acct_1", "live", f"ver_{n}", f"user-{n}") for n in range(5)]
    references = References(most=3)

    references.remember(references.introduced_by(five))

    assert [one is None for one in references.introduced_by(five)] == [False, False, True, True, True]


def test_an_event_without_a_reference_introduces_none_and_one_that_is_there_twice_does_once() -> None:
    with_one: Reference = (clock.utcnow().date(), "acct_1", "live", "ver_1", "user-1")
    without: Reference = (*with_one[:4], None)

    introduced = References().introduced_by([without, with_one, with_one])

    assert introduced == [None, with_one, None]


async def test_all_deliveries_and_attempts_are_found_by_the_reference(world: World, pool: Pool) -> None:
    account = await world.account()
    endpoint = await world.endpoint(account)
    process = await world.process()
    redacted = about(account, type="verification.redacted", client_reference=None)
    verifications = [*about(account, 1, events=3), *about(account, 2, client_reference="user-1", events=2)]
    accepted = await process.accept(a_batch([*verifications, *redacted, *about(account, 3)]))
    mine = [one for one in accepted.fresh if one.client_reference == "user-1"]
    ended, retried, *_ = sorted(mine)
    failed = settled(retried, VerdictKind.RETRY, retry_in=0.0)
    await process.settlements.settle([settled(ended, VerdictKind.DELIVERED), failed])
    tenant = Tenant(ended.account_id, "live")
    lists = ListLedger(pool)

    everywhere = await lists.deliveries(tenant, wanted=LogFilter(client_reference="user-1"), limit=50)
    of_one = await lists.deliveries(tenant, wanted=_named("user-1", ended.subject), limit=50)
    by_event = await lists.deliveries(tenant, wanted=_named("user-1", event_id=ended.event_id), limit=50)
    attempts = await lists.attempts(tenant, endpoint, wanted=LogFilter(client_reference="user-1"), limit=50)
    wrong = await lists.deliveries(tenant, wanted=_named("user-3", event_id=ended.event_id), limit=50)

    assert {one.delivery_id for one in everywhere.deliveries} == {one.delivery_id for one in mine}
    assert {one.client_reference for one in everywhere.deliveries} == {"user-1"}
    assert len(of_one.deliveries) == 3
    assert [one.delivery_id for one in by_event.deliveries] == [ended.delivery_id]
    assert {one.delivery_id for one in attempts.attempts} == {ended.delivery_id, retried.delivery_id}
    assert {one.client_reference for one in attempts.attempts} == {"user-1"}
    assert wrong.deliveries == []


async def test_nobody_is_shown_what_another_account_or_environment_calls_the_same(world: World, pool: Pool) -> None:
    account, stranger = await world.account(), await world.account()
    process = await world.process()
    for owner in (account, stranger):
        await world.endpoint(owner)
        await world.endpoint(owner, environment="test")
    accepted = await process.accept(a_batch([*about(account), *about(stranger), *about(account, environment="test")]))

    for mine in accepted.fresh:
        tenant = Tenant(mine.account_id, mine.environment)
        found = await ListLedger(pool).deliveries(tenant, wanted=LogFilter(client_reference="user-1"), limit=50)
        assert [one.delivery_id for one in found.deliveries] == [mine.delivery_id]


async def test_the_newest_events_of_a_reference_that_all_verifications_share_are_found(
    world: World, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.ledger.lists.SUBJECT_EVENTS", 4)
    account = await world.account()
    await world.endpoint(account)
    process = await world.process()
    accepted: Sequence[Any] = ()
    for n in range(5):
        batch: Batch = a_batch(about(account, n, client_reference="n/a", events=3), start=3 * n)
        accepted = (*accepted, *(await process.accept(batch)).fresh)
    tenant = Tenant(accepted[0].account_id, "live")

    page = await ListLedger(pool).deliveries(tenant, wanted=LogFilter(client_reference="n/a"), limit=50)

    newest = {one.delivery_id for one in accepted[-3:]}
    assert len(page.deliveries) == 4
    assert newest < {one.delivery_id for one in page.deliveries}


async def test_a_delivery_keeps_its_reference_through_a_claim_and_a_cancel(world: World, pool: Pool) -> None:
    account = await world.account()
    endpoint = await world.endpoint(account)
    process = await world.process(delivers=False)
    await process.accept(a_batch(about(account, events=2)))
    claimer = await world.process()

    claimed = await claimer.claim(rows_per_host=1)
    waiting = await world.value("SELECT delivery_id FROM delivery WHERE owner IS NULL")
    tenant = Tenant(claimed[0].account_id, "live")
    open_one = await LogLedger(pool).delivery(tenant, waiting)
    async with pool.transaction() as session:
        await cancel_some(session, endpoint)
    canceled = await LogLedger(pool).delivery(tenant, waiting)

    assert [one.client_reference for one in claimed] == ["user-1"]
    assert [one and (one.client_reference, one.state) for one in (open_one, canceled)] == [
        ("user-1", "pending"),
        ("user-1", "canceled"),
    ]


def _named(reference: str, subject: str | None = None, event_id: bytes | None = None) -> LogFilter:
    return LogFilter(client_reference=reference, subject=subject, event_id=event_id)
