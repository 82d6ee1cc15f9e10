"""Failures in a row on a real Postgres: counted by settlements, judged by any replica, once."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from typing import Any
from unittest.mock import patch

import asyncpg
import orjson
import pytest

from dispatcher.kit import clock
from dispatcher.ledger.connections import HOT, connect
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.errors import PoisonBatch, Unavailable
from dispatcher.model.news import NewsKind
from dispatcher.model.outcome import Outcome, OutcomeKind, Verdict, VerdictKind
from tests.rooms.ledger_world import Process, World, a_batch, an_event, open_ledger
from tests.support.servers import DatabaseServer

_parts = iter(range(10_000))


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


async def deliveries(process: Process, account: str, n: int) -> list[Delivery]:
    """Accept `n` events and return their deliveries, one per endpoint of the account and event."""
    return list((await process.accept(a_batch([an_event(account) for _ in range(n)], part=next(_parts)))).fresh)


def attempted(delivery: Delivery, kind: OutcomeKind = OutcomeKind.HTTP_5XX, *, ago: float = 0.05) -> Settlement:
    """Return the settlement of an attempt decided `ago` seconds ago, to be tried again unless delivered."""
    decided = clock.mono() - ago
    verdict = Verdict(VerdictKind.RETRY, 1, 60.0)
    if kind is OutcomeKind.DELIVERED:
        verdict = Verdict(VerdictKind.DELIVERED, 1)
    return Settlement(delivery, Outcome(kind, 0.01), verdict, 1, decided - 0.01, decided)


async def failing_for(world: World, endpoint: int, *, hours: float, failures: int = 3) -> None:
    """Let an endpoint have failed `failures` times in a row, the first time `hours` ago."""
    await world.sql.execute(
        "INSERT INTO endpoint_health (endpoint_id, failures, failing_since)"
        " VALUES ($1, $2, now() - make_interval(secs => $3)) ON CONFLICT (endpoint_id) DO UPDATE"
        " SET failures = EXCLUDED.failures, failing_since = EXCLUDED.failing_since",
        endpoint,
        failures,
        hours * 3_600,
    )


async def health(world: World) -> list[tuple[Any, ...]]:
    """Return what is kept of each endpoint: failures in a row, whether it fails, whether that was told."""
    return [
        tuple(row)
        for row in await world.rows(
            "SELECT failures, failing_since IS NOT NULL, announced_at IS NOT NULL FROM endpoint_health ORDER BY 1"
        )
    ]


# Counting


async def test_failures_in_a_row_add_up_from_the_first_ones_time_until_a_success(world: World) -> None:
    process, account = await world.process(), await world.account()
    await world.endpoint(account)
    first, second, third, good = await deliveries(process, account, 4)

    await process.settlements.settle([attempted(first, ago=5.0), attempted(second)])
    await process.settlements.settle([attempted(third)])
    assert await health(world) == [(3, True, False)]
    assert await world.value("SELECT failing_since = (SELECT min(started_at) FROM attempt) FROM endpoint_health")

    await world.sql.execute("UPDATE endpoint_health SET announced_at = now()")
    await process.settlements.settle([attempted(good, OutcomeKind.DELIVERED)])
    assert await health(world) == [(0, False, False)]


async def test_a_success_and_failures_in_one_batch_are_decided_by_the_later(world: World) -> None:
    process, account = await world.process(), await world.account()
    endpoint = await world.endpoint(account)
    one, two, three, four = await deliveries(process, account, 4)
    await failing_for(world, endpoint, hours=3.0, failures=9)

    await process.settlements.settle([attempted(one, ago=0.1), attempted(two, OutcomeKind.DELIVERED, ago=0.5)])
    assert await health(world) == [(1, True, False)]
    assert await world.value("SELECT failing_since > now() - interval '1 minute' FROM endpoint_health")

    await process.settlements.settle([attempted(three, OutcomeKind.DELIVERED, ago=0.1), attempted(four, ago=0.5)])
    assert await health(world) == [(0, False, False)]


GUARD = """CASE WHEN s.failures > 0
                     OR (SELECT k.failing_since IS NOT NULL FROM endpoint_health k WHERE k.endpoint_id = s.endpoint_id)
                   THEN"""


@pytest.mark.parametrize("is_guarded", [True, False], ids=["as it is", "without its guard"])
async def test_healthy_traffic_writes_nothing_about_health(world: World, is_guarded: bool) -> None:
    process, account = await world.process(), await world.account()
    recovered, _ = await world.endpoint(account), await world.endpoint(account)
    await failing_for(world, recovered, hours=1.0)
    batches = [await deliveries(process, account, 3) for _ in range(2)]
    await process.settlements.settle([attempted(d, OutcomeKind.DELIVERED) for d in batches[0]])
    before = await world.rows("SELECT ctid, xmin::text, * FROM endpoint_health")
    assert GUARD in STATEMENTS["settle"]
    settle = STATEMENTS["settle"] if is_guarded else STATEMENTS["settle"].replace(GUARD, "CASE WHEN true THEN")

    with patch.dict(STATEMENTS, {"settle": settle}):
        await process.settlements.settle([attempted(d, OutcomeKind.DELIVERED) for d in batches[1]])

    assert len(before) == 1
    assert (await world.rows("SELECT ctid, xmin::text, * FROM endpoint_health") == before) is is_guarded


async def test_our_own_doing_and_what_was_not_sent_do_not_count(world: World) -> None:
    process, account = await world.process(), await world.account()
    await world.endpoint(account)
    one, two, three, four = await deliveries(process, account, 4)
    later = Verdict(VerdictKind.INTERRUPTED, 0, 30.0)

    await process.settlements.settle(
        [
            attempted(one, OutcomeKind.INTERRUPTED)._replace(verdict=later),
            attempted(two, OutcomeKind.INTERNAL_ERROR)._replace(verdict=later),
            attempted(three)._replace(outcome=None, verdict=Verdict(VerdictKind.PARKED, 0, 1.0)),
            attempted(four)._replace(outcome=None, verdict=Verdict(VerdictKind.HELD, 0, 0.0)),
        ]
    )

    assert await health(world) == []


async def test_a_repeated_flush_counts_nothing_twice(world: World) -> None:
    process, account = await world.process(), await world.account()
    await world.endpoint(account)
    batch = [attempted(one) for one in await deliveries(process, account, 2)]

    await process.settlements.settle(batch)
    process.settlements._flush_seq -= 1
    await process.settlements.settle(batch)

    assert await health(world) == [(2, True, False)]


@pytest.mark.parametrize("is_ordered", [True, False], ids=["as it is", "in no order"])
async def test_two_replicas_that_settle_the_same_endpoints_never_deadlock(world: World, is_ordered: bool) -> None:
    # Both meet a locked row on their way: without an order each then holds what the other wants next.
    account = await world.account()
    endpoints = [await world.endpoint(account) for _ in range(4)]
    for endpoint in endpoints:
        await failing_for(world, endpoint, hours=0.1)
    one, two, mine, yours = endpoints
    ways = {mine: [one, mine, two], yours: [two, yours, one]}
    settle = STATEMENTS["settle"]
    assert "ORDER BY s.endpoint_id" in settle
    loop = asyncio.get_running_loop()

    with patch.dict(STATEMENTS, {"settle": settle if is_ordered else settle.replace("ORDER BY s.endpoint_id", "")}):
        async with world.sql.transaction():
            await world.sql.execute("SELECT 1 FROM endpoint_health WHERE endpoint_id = ANY($1) FOR UPDATE", list(ways))
            settling = []
            for way in ways.values():
                process = await world.process()
                fresh = {one.endpoint_id: one for one in await deliveries(process, account, 1)}
                batch = [attempted(fresh[endpoint]) for endpoint in way]
                settling.append(loop.create_task(process.settlements.settle(batch)))
                await world.until_blocked(len(settling))
        results = await asyncio.gather(*settling, return_exceptions=True)

    failures = [fault for fault in results if isinstance(fault, BaseException)]
    assert len(failures) == (0 if is_ordered else 1)
    assert all(isinstance(fault, Unavailable) and "40P01" in str(fault) for fault in failures)


async def test_successes_probe_for_their_own_endpoints_and_read_no_others(world: World) -> None:
    process, account = await world.process(), await world.account()
    for _ in range(30):
        await failing_for(world, await world.endpoint(account, events=["other.*"]), hours=1.0)
    await world.endpoint(account)
    batch = [attempted(one, OutcomeKind.DELIVERED) for one in await deliveries(process, account, 5)]
    connection = await connect(world.url, "plan", planning=HOT)
    await connection.execute("SET plan_cache_mode = force_generic_plan")

    plan = await connection.fetch(
        "EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) " + STATEMENTS["settle"],
        *process.settlements._arguments(batch, [], 1, clock.mono()),
    )
    connection.terminate()

    assert "Index Scan using endpoint_health_pkey on endpoint_health k" in str(plan)
    # EXISTS instead of the probe makes the planner read this index whole, in every settlement.
    assert "endpoint_health_failing" not in str(plan)


# Judging


@pytest.mark.parametrize(
    ("failures", "hours", "is_failing"),
    [(3, 1.01, True), (2, 30.0, False), (3, 0.99, False), (900, 0.5, False), (3, 119.9, True)],
)
async def test_failing_is_three_failures_in_a_row_over_an_hour(
    world: World, failures: int, hours: float, is_failing: bool
) -> None:
    process, account = await world.process(), await world.account()
    await failing_for(world, await world.endpoint(account), hours=hours, failures=failures)

    news = await process.health.judge()

    assert [one.kind for one in news] == [NewsKind.ENDPOINT_FAILING] * is_failing
    assert await world.value("SELECT status FROM endpoint") == "enabled"
    assert (await process.claims.endpoints_by_status()) == ({"failing": 1} if is_failing else {"enabled": 1})


async def test_the_news_say_since_when_how_often_and_what_the_latest_failure_was(world: World) -> None:
    process, account = await world.process(), await world.account()
    endpoint = await world.endpoint(account)
    batch = await deliveries(process, account, 3)
    await process.settlements.settle([attempted(one, OutcomeKind.DNS_ERROR) for one in batch[:2]])
    await process.settlements.settle([attempted(batch[2], OutcomeKind.INTERRUPTED)])
    await failing_for(world, endpoint, hours=2.0, failures=41)

    (news,) = await process.health.judge()

    told = orjson.loads(news.body)["data"]["endpoint"]
    assert told["consecutive_failures"] == 41
    assert told["last_error"] == "dns_error"
    since = dt.datetime.fromisoformat(told["failing_since"])
    assert dt.timedelta(hours=1.9) < clock.utcnow() - since < dt.timedelta(hours=2.1)


@pytest.mark.parametrize("is_guarded", [True, False], ids=["as it is", "forgetting that it was told"])
async def test_a_row_of_failures_is_told_once_and_the_next_one_again(world: World, is_guarded: bool) -> None:
    process, account = await world.process(), await world.account()
    endpoint = await world.endpoint(account)
    await world.endpoint(account, events=["endpoint.*"])
    await failing_for(world, endpoint, hours=1.5)
    judge = STATEMENTS["judge"]
    guard = "f.announced_at IS NULL OR"
    assert guard in judge

    with patch.dict(STATEMENTS, {"judge": judge if is_guarded else judge.replace(guard, "true OR")}):
        told = [len(await process.health.judge()) for _ in range(3)]
    assert told == ([1, 0, 0] if is_guarded else [1, 1, 1])
    # Telling it again is the same event, which is there: nobody gets it twice.
    assert await world.value("SELECT count(*) FROM delivery") == 1

    (good,) = [one for one in await deliveries(process, account, 1) if one.endpoint_id == endpoint]
    await process.settlements.settle([attempted(good, OutcomeKind.DELIVERED)])
    await failing_for(world, endpoint, hours=1.2)
    assert len(await process.health.judge()) == 1
    assert await world.value("SELECT count(*) FROM event WHERE event_type = 'endpoint.failing'") == 2


async def test_without_its_conflict_clause_telling_again_would_be_refused_for_ever(world: World) -> None:
    process, account = await world.process(), await world.account()
    await failing_for(world, await world.endpoint(account), hours=1.5)
    await process.health.judge()
    # As if the note that it was told were lost.
    await world.sql.execute("UPDATE endpoint_health SET announced_at = NULL")
    announce = STATEMENTS["announce"]
    assert "ON CONFLICT DO NOTHING" in announce

    with (
        patch.dict(STATEMENTS, {"announce": announce.replace("ON CONFLICT DO NOTHING", "")}),
        pytest.raises(PoisonBatch),
    ):
        await process.health.judge()
    await process.health.judge()

    assert await world.value("SELECT count(*) FROM event") == 1


async def test_two_replicas_that_judge_at_once_tell_it_once(world: World) -> None:
    one, two, account = await world.process(), await world.process(), await world.account()
    for _ in range(10):
        await failing_for(world, await world.endpoint(account), hours=1.5)

    told = await asyncio.gather(one.health.judge(), two.health.judge())

    assert sum(map(len, told)) == 10
    assert await world.value("SELECT count(*) FROM event") == 10


async def test_five_days_of_failing_disable_a_live_endpoint_and_hold_what_waits(world: World) -> None:
    process, account = await world.process(), await world.account()
    endpoint = await world.endpoint(account)
    await world.waiting(account, endpoint, 3)
    await failing_for(world, endpoint, hours=120.1)
    before = await world.value("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")

    (news,) = await process.health.judge()

    (row,) = await world.rows(
        "SELECT status, disabled_reason, held_since, held_xid::text::bigint AS xid, now() - changed_at AS age"
        " FROM endpoint"
    )
    assert (row["status"], row["disabled_reason"]) == ("disabled", "failing_5_days")
    assert row["held_since"] == news.about.at
    assert row["xid"] >= before
    assert row["age"] < dt.timedelta(minutes=5)
    assert await world.value("SELECT count(*) FROM delivery WHERE held") == 3
    assert orjson.loads(news.body)["data"]["endpoint"] == {
        "id": news.about.public_id,
        "status": "disabled",
        "disabled_reason": "failing_5_days",
        "pending_events": 3,
    }
    assert await process.health.judge() == []


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"environment": "test"}, [NewsKind.ENDPOINT_FAILING]),
        ({"status": "paused"}, []),
        ({"status": "disabled"}, []),
        ({"status": "deleted"}, []),
    ],
)
async def test_test_endpoints_are_never_disabled_and_those_not_enabled_never_judged(
    world: World, changes: dict[str, str], kinds: Sequence[NewsKind]
) -> None:
    process, account = await world.process(), await world.account()
    await failing_for(world, await world.endpoint(account, **changes), hours=500.0, failures=99)

    assert [one.kind for one in await process.health.judge()] == list(kinds)
    assert await world.value("SELECT status FROM endpoint") == changes.get("status", "enabled")


@pytest.mark.parametrize("status", ["paused", "disabled"])
async def test_an_endpoint_that_is_enabled_again_counts_anew(world: World, status: str) -> None:
    process, account = await world.process(), await world.account()
    endpoint = await world.endpoint(account, status=status)
    await failing_for(world, endpoint, hours=121.0, failures=50)

    await process.health.judge()
    assert await health(world) == [(50, True, False)]
    await world.sql.execute("UPDATE endpoint SET status = 'enabled'")
    # A failure that was settled before anybody looked.
    (one,) = await deliveries(process, account, 1)
    await process.settlements.settle([attempted(one)])
    assert await process.health.judge() == []

    assert await world.value("SELECT status FROM endpoint") == "enabled"
    assert await health(world) == [(0, False, False)]


async def test_an_endpoint_that_is_enabled_at_once_is_not_disabled_again(world: World) -> None:
    process, account = await world.process(), await world.account()
    await failing_for(world, await world.endpoint(account), hours=121.0)
    await process.health.judge()

    # By a program that listens to the news, say: before anybody has judged again.
    await world.sql.execute("UPDATE endpoint SET status = 'enabled', disabled_reason = NULL")

    assert await process.health.judge() == []
    assert await world.value("SELECT status FROM endpoint") == "enabled"


async def test_judging_waits_for_nobody(world: World) -> None:
    process, account = await world.process(), await world.account()
    busy, free = await world.endpoint(account), await world.endpoint(account)
    for endpoint in (busy, free):
        await failing_for(world, endpoint, hours=121.0)
    other = await asyncpg.connect(world.url)

    async with other.transaction():
        await other.execute("SELECT 1 FROM endpoint WHERE endpoint_id = $1 FOR UPDATE", busy)
        (news,) = await process.health.judge()
    await other.close()

    assert news.about.endpoint_id == free
    assert [one.about.endpoint_id for one in await process.health.judge()] == [busy]
