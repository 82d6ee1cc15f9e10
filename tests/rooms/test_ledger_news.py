"""Operational events on a real Postgres: told once, with what they tell, to those who asked by name."""

from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import orjson
import pytest

from dispatcher.kit import clock
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.errors import PoisonBatch
from dispatcher.model.ids import show_event_id
from dispatcher.model.news import NewsKind
from dispatcher.model.outcome import Outcome, OutcomeKind, Verdict, VerdictKind
from tests.rooms.ledger_world import IDS, Process, World, a_batch, an_event, open_ledger
from tests.support.servers import DatabaseServer

_parts = iter(range(10_000))


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


async def deliveries(process: Process, account: str, n: int = 1) -> list[Delivery]:
    """Accept `n` events and return their deliveries."""
    return list((await process.accept(a_batch([an_event(account) for _ in range(n)], part=next(_parts)))).fresh)


def given_up(delivery: Delivery, attempt_no: int = 10) -> Settlement:
    """Return the settlement of a last attempt that failed."""
    return _settled(delivery, Outcome(OutcomeKind.HTTP_5XX, 0.01, 503), Verdict(VerdictKind.EXHAUSTED, 10), attempt_no)


def gone(delivery: Delivery) -> Settlement:
    """Return the settlement of an attempt that was answered 410."""
    return _settled(delivery, Outcome(OutcomeKind.HTTP_410, 0.01, 410), Verdict(VerdictKind.GONE, 1, 0.0), 1)


def _settled(delivery: Delivery, outcome: Outcome, verdict: Verdict, attempt_no: int) -> Settlement:
    now = clock.mono()
    return Settlement(delivery, outcome, verdict, attempt_no, now - 0.05, now)


async def told(world: World) -> list[tuple[str, list[int]]]:
    """Return every operational event's type, and the endpoints that will get it."""
    rows = await world.rows(
        "SELECT e.event_type, array_remove(array_agg(d.endpoint_id ORDER BY d.endpoint_id), NULL) AS endpoints"
        " FROM event e LEFT JOIN delivery d USING (event_id, account_id, environment, event_day)"
        " WHERE e.event_type !~ '^verification' GROUP BY e.event_id, e.event_type ORDER BY e.event_type"
    )
    return [(row["event_type"], row["endpoints"]) for row in rows]


async def test_a_delivery_given_up_is_told_in_its_own_settlement(world: World) -> None:
    process, account = await world.process(), await world.account()
    await world.endpoint(account)
    asked = await world.endpoint(account, events=["delivery.exhausted"])
    (delivery,) = await deliveries(process, account)

    (news,) = await process.settlements.settle([given_up(delivery)])

    (row,) = await world.rows("SELECT * FROM event WHERE event_type = 'delivery.exhausted'")
    body = orjson.loads(row["body"])
    assert row["body"] == news.body
    assert row["event_day"] == row["occurred_at"].date()
    assert body["id"] == show_event_id(row["event_id"])
    assert body["account_id"] == account
    assert body["data"]["delivery"] == {
        "id": IDS.show(delivery.delivery_id),
        "endpoint_id": news.about.public_id,
        "event_id": show_event_id(delivery.event_id),
        "event_type": "verification.completed",
        "attempts": 10,
        "last_status_code": 503,
    }
    (made,) = await world.rows("SELECT endpoint_id, owner, held, attempts, due_at <= now() AS is_due FROM delivery")
    assert tuple(made) == (asked, None, False, 0, True)
    (claimed,) = await process.claim()
    assert (claimed.event_type, claimed.body) == ("delivery.exhausted", news.body)


@pytest.mark.parametrize(
    ("changes", "gets_it"),
    [
        ({"events": ["delivery.exhausted"]}, True),
        ({"events": ["delivery.*"]}, True),
        ({"events": ["*", "delivery.*"]}, True),
        ({"events": ["delivery.*"], "outcomes": ["approved"], "workflows": ["wf_x"]}, True),
        ({"events": ["delivery.*"], "verified_at": None}, True),
        ({"events": ["*"]}, False),
        ({"events": ["endpoint.*", "verification.*"]}, False),
        ({"events": ["delivery.*"], "environment": "test"}, False),
        ({"events": ["delivery.*"], "status": "paused"}, False),
        ({"events": ["delivery.*"], "status": "disabled"}, False),
        ({"events": ["delivery.*"], "status": "deleted"}, False),
    ],
)
async def test_news_go_to_enabled_endpoints_that_ask_by_name(
    world: World, changes: dict[str, Any], gets_it: bool
) -> None:
    process, account = await world.process(), await world.account()
    await world.endpoint(account, events=["verification.completed"])
    (delivery,) = await deliveries(process, account)
    other = await world.endpoint(account, **changes)
    await world.endpoint(await world.account(), events=["delivery.*"])

    await process.settlements.settle([given_up(delivery)])

    assert await told(world) == [("delivery.exhausted", [other] if gets_it else [])]


async def test_news_never_go_to_the_endpoint_they_are_about_nor_to_one_that_fails(world: World) -> None:
    process, account = await world.process(), await world.account()
    await world.endpoint(account, events=["verification.*", "delivery.*"])
    (delivery,) = await deliveries(process, account)
    failing, unlucky = [await world.endpoint(account, events=["delivery.*"]) for _ in range(2)]
    for endpoint, minutes in ((failing, 61), (unlucky, 59)):
        await world.sql.execute(
            "INSERT INTO endpoint_health (endpoint_id, failures, failing_since)"
            " VALUES ($1, 3, now() - make_interval(mins => $2))",
            endpoint,
            minutes,
        )

    await process.settlements.settle([given_up(delivery)])

    assert await told(world) == [("delivery.exhausted", [unlucky])]


@pytest.mark.parametrize("is_guarded", [True, False], ids=["as it is", "without its guard"])
async def test_a_delivery_of_news_that_is_given_up_is_not_told(world: World, is_guarded: bool) -> None:
    process, account = await world.process(), await world.account()
    await world.endpoint(account, events=["verification.*"])
    for _ in range(2):
        await world.endpoint(account, events=["delivery.*"])
    (delivery,) = await deliveries(process, account)
    await process.settlements.settle([given_up(delivery)])

    with patch("dispatcher.policy.news._OPERATIONAL", frozenset(NewsKind) if is_guarded else frozenset[str]()):
        for _ in range(2):
            claimed = await process.claim()
            await process.settlements.settle([given_up(one) for one in claimed])

    # Without it every endpoint that is down tells the others of it, for ever.
    assert await world.value("SELECT count(*) FROM event") == (2 if is_guarded else 6)
    assert await world.value("SELECT count(*) FROM delivery") == (0 if is_guarded else 2)


async def test_a_settlement_whose_answer_was_lost_tells_once(world: World) -> None:
    process, account = await world.process(), await world.account()
    await world.endpoint(account)
    asked = await world.endpoint(account, events=["delivery.*"])
    batch = [given_up(one) for one in await deliveries(process, account)]

    first = await process.settlements.settle(batch)
    process.settlements._flush_seq -= 1
    again = await process.settlements.settle(batch)

    assert (len(first), len(again)) == (1, 0)
    assert await told(world) == [("delivery.exhausted", [asked])]


async def test_news_and_what_they_tell_are_written_together_or_not_at_all(world: World) -> None:
    process, account = await world.process(), await world.account()
    await world.endpoint(account)
    batch = [given_up(one) for one in await deliveries(process, account)]
    broken = STATEMENTS["announce"].replace("INSERT INTO event (event_day", "INSERT INTO event (ingested_at, event_day")
    broken = broken.replace("SELECT (occurred_at AT", "SELECT NULL, (occurred_at AT")

    with patch.dict(STATEMENTS, {"announce": broken}), pytest.raises(PoisonBatch):
        await process.settlements.settle(batch)
    assert await world.value("SELECT (SELECT count(*) FROM attempt) = 0 AND (SELECT count(*) FROM delivery) = 1")

    await process.settlements.settle(batch)
    assert [kind for kind, _ in await told(world)] == ["delivery.exhausted"]


async def test_a_given_up_delivery_that_is_no_longer_ours_is_not_told(world: World) -> None:
    zombie, survivor = await world.process(), await world.process()
    account = await world.account()
    await world.endpoint(account)
    batch = [given_up(one) for one in await deliveries(zombie, account)]
    await world.sql.execute("UPDATE delivery SET owner = $1", survivor.replica.replica_id)

    assert await zombie.settlements.settle(batch) == []
    assert await told(world) == []


async def test_an_endpoint_that_is_gone_is_told_once_with_what_waits_for_it(world: World) -> None:
    process, account = await world.process(), await world.account()
    endpoint = await world.endpoint(account, events=["verification.*", "endpoint.*"])
    one, two, three = await deliveries(process, account, 3)
    asked = await world.endpoint(account, events=["endpoint.disabled"])
    before = await world.value("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")

    (news,) = await process.settlements.settle([gone(one), gone(two)])
    assert await process.settlements.settle([gone(three)]) == []

    assert await told(world) == [("endpoint.disabled", [asked])]
    assert orjson.loads(news.body)["data"]["endpoint"] == {
        "id": news.about.public_id,
        "status": "disabled",
        "disabled_reason": "gone",
        "pending_events": 3,
    }
    assert await world.value("SELECT held_xid::text::bigint FROM endpoint WHERE endpoint_id = $1", endpoint) >= before


async def test_an_endpoint_that_is_gone_while_paused_remembers_since_when_it_is_held(world: World) -> None:
    process, account = await world.process(), await world.account()
    await world.endpoint(account)
    (delivery,) = await deliveries(process, account)
    await world.sql.execute(
        "UPDATE endpoint SET status = 'paused', held_since = now() - interval '1 day', held_xid = '7'"
    )
    held = await world.rows("SELECT held_since, held_xid::text FROM endpoint")

    (news,) = await process.settlements.settle([gone(delivery)])

    assert await world.rows("SELECT held_since, held_xid::text FROM endpoint") == held
    assert news.about.held_since == held[0]["held_since"]


async def test_two_replicas_that_are_told_410_at_once_tell_it_once(world: World) -> None:
    one, two, account = await world.process(), await world.process(), await world.account()
    await world.endpoint(account)
    batches = [[gone(delivery)] for process in (one, two) for delivery in await deliveries(process, account)]

    news = [await process.settlements.settle(batch) for process, batch in zip((one, two), batches, strict=True)]

    assert [len(each) for each in news] == [1, 0]
    assert await told(world) == [("endpoint.disabled", [])]


async def test_a_batch_without_news_is_one_statement_without_a_transaction(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, account = await world.process(), await world.account()
    await world.endpoint(account)
    link = process.links["settlement"]
    (delivery,) = await deliveries(process, account)
    monkeypatch.setattr(link, "transaction", None)
    failed = _settled(delivery, Outcome(OutcomeKind.HTTP_5XX, 0.01, 500), Verdict(VerdictKind.RETRY, 1, 5.0), 1)

    assert await process.settlements.settle([failed]) == []

    assert link.round_trips == 1


async def test_news_of_a_deleted_endpoint_interest_nobody(world: World) -> None:
    process, account = await world.process(), await world.account()
    await world.endpoint(account)
    batch = [given_up(one) for one in await deliveries(process, account)]
    await world.sql.execute("UPDATE endpoint SET status = 'deleted'")

    assert await process.settlements.settle(batch) == []
    assert await world.value("SELECT count(*) FROM delivery") == 0


@pytest.mark.parametrize(
    ("events", "filtered", "is_matched"),
    [
        (["delivery.*"], None, True),
        (["delivery.exhausted"], ["declined"], True),
        (["*"], None, False),
        (["verification.*", "endpoint.*"], None, False),
    ],
)
async def test_a_replay_sends_news_to_those_who_would_have_got_them(
    world: World, events: list[str], filtered: list[str] | None, is_matched: bool
) -> None:
    process, account = await world.process(), await world.account()
    troubled = await world.endpoint(account, events=["verification.*", "delivery.*"])
    (delivery,) = await deliveries(process, account)
    other = await world.endpoint(account, events=events, outcomes=filtered, status="paused")
    await process.settlements.settle([given_up(delivery)])
    seen = (
        "SELECT f.is_match FROM feed_for($1, 'missing', '{delivery.*}', NULL, NULL, '0', 0, NULL, 100) f"
        " JOIN event e USING (event_id, event_day) WHERE e.event_type = 'delivery.exhausted'"
    )
    # Any transaction of the server that began earlier holds the feed back, autovacuum's too.
    while not await world.rows(seen, other):
        pass

    assert await world.value(seen, other) is is_matched
    assert await world.value(seen, troubled) is False
