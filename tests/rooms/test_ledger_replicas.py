"""Leases and takeover on a real Postgres: S5, S6 and the safety net."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from dispatcher.kit import clock
from dispatcher.ledger import replicas
from dispatcher.ledger.replicas import Membership
from dispatcher.model.errors import Fenced, Unavailable
from tests.rooms.ledger_world import LEASE_SECONDS, World, a_batch, an_event, open_ledger
from tests.support.faults import FaultProxy
from tests.support.servers import DatabaseServer


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


@pytest.fixture
def clock_of(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the monotonic clock of this process, to be set forward by hand."""
    ahead = [0.0]
    real = clock.mono
    monkeypatch.setattr(clock, "mono", lambda: real() + ahead[0])
    return ahead


async def test_numbers_are_never_used_again(world: World) -> None:
    first = await world.process()
    await first.members.leave()

    second = await world.process()

    assert second.replica.replica_id > first.replica.replica_id


async def test_a_heartbeat_renews_and_counts_the_living(world: World) -> None:
    first, second = await world.process(), await world.process()
    await world.expire(second)

    assert await first.members.heartbeat() == 1
    assert await second.members.heartbeat() == 2


async def test_a_dead_replicas_rows_are_freed_and_its_late_statements_change_nothing(
    world: World, clock_of: list[float]
) -> None:
    account = await world.account()
    await world.endpoint(account)
    dead, survivor = await world.process(), await world.process()
    fresh = (await dead.accept(a_batch([an_event(account) for _ in range(5)]))).fresh
    await world.expire(dead)
    for ahead in (3.0, 6.0, LEASE_SECONDS + 1.5):
        clock_of[0] = ahead
        await survivor.members.heartbeat()

    taken = await survivor.members.take_over()
    claimed = await survivor.claim()

    assert taken == (1, 5)
    assert {d.delivery_id for d in claimed} == {d.delivery_id for d in fresh}
    with pytest.raises(Fenced):
        await dead.members.heartbeat()
    with pytest.raises(Fenced):
        await dead.accept(a_batch([an_event(account)], start=5))
    with pytest.raises(Fenced):
        await dead.settlements.settle([])
    with pytest.raises(Fenced):
        await dead.claim()
    assert await world.value("SELECT count(*) FROM delivery WHERE owner = $1", survivor.replica.replica_id) == 5


async def test_a_session_that_waits_for_a_frozen_client_delays_no_takeover(world: World, clock_of: list[float]) -> None:
    account, host = await world.account(), await world.host()
    endpoint = await world.endpoint(account, host=host)
    # More than the kernel and the proxy take in: the session waits in the middle of its answer.
    await world.waiting(account, endpoint, 100, body=b"x" * 262_144)
    server = urlsplit(world.url)
    assert server.port is not None
    async with FaultProxy.between("127.0.0.1", server.port) as proxy:
        frozen = await world.process(url=world.url.replace(f":{server.port}/", f":{proxy.port}/"))
        survivor = await world.process()
        await frozen.claim(full_hosts=[host])
        proxy.downstream.stall()
        claiming = asyncio.create_task(frozen.claim())
        while not await world.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'"):
            assert not claiming.done()
            await asyncio.sleep(0.01)
        await world.expire(frozen)
        for ahead in (3.0, 6.0, LEASE_SECONDS + 1.5):
            clock_of[0] = ahead
            await survivor.members.heartbeat()

        async with asyncio.timeout(10):
            while (taken := await survivor.members.take_over()) == (0, 0):
                await asyncio.sleep(0.01)
        free = await world.rows("SELECT FROM delivery FOR UPDATE SKIP LOCKED")
        claiming.cancel()
        await asyncio.wait([claiming])

    assert taken == (1, 0)
    assert len(free) == 100


async def test_after_an_outage_nobody_is_taken_over_before_all_had_time_to_renew(
    world: World, clock_of: list[float]
) -> None:
    first, second = await world.process(), await world.process()
    clock_of[0] = 60.0
    for process in (first, second):
        await world.expire(process)

    await first.members.heartbeat()
    too_soon = await first.members.take_over()
    await second.members.heartbeat()
    for ahead in (63.0, 66.0, 68.0):
        clock_of[0] = ahead
        await first.members.heartbeat()
        await second.members.heartbeat()
    later = await first.members.take_over()

    assert too_soon == (0, 0)
    assert later == (0, 0)
    assert first.replica.may_take_over(clock.mono())


async def set_database_clock(world: World, ahead_seconds: float) -> None:
    """Let sessions of this database that begin from now on see another time; the first call ends those there are."""
    await world.sql.execute(
        "CREATE SCHEMA IF NOT EXISTS stepped; CREATE TABLE IF NOT EXISTS stepped.clock (ahead float8)"
    )
    await world.sql.execute(
        "CREATE OR REPLACE FUNCTION stepped.now() RETURNS timestamptz LANGUAGE sql STABLE AS"
        " 'SELECT pg_catalog.now() + make_interval(secs => (SELECT sum(ahead) FROM stepped.clock))'"
    )
    await world.sql.execute("INSERT INTO stepped.clock VALUES ($1)", ahead_seconds)
    name = await world.value("SELECT current_database()")
    await world.sql.execute(f'ALTER DATABASE "{name}" SET search_path = stepped, pg_catalog, public')


@pytest.mark.parametrize("seconds", [20.0, 3_600.0])
async def test_a_step_of_the_databases_clock_makes_nobody_dead(
    world: World, clock_of: list[float], seconds: float
) -> None:
    await set_database_clock(world, 0.0)
    account = await world.account()
    await world.endpoint(account)
    living, dead, judge = await world.process(), await world.process(), await world.process()
    await living.accept(a_batch([an_event(account) for _ in range(5)]))
    await dead.accept(a_batch([an_event(account)], part=1))
    for ahead in (3.0, 6.0, LEASE_SECONDS + 1.5):
        clock_of[0] = ahead
        for process in (living, dead, judge):
            await process.members.heartbeat()
    await judge.members.take_over()

    await set_database_clock(world, seconds)
    at_once = await judge.members.take_over()
    stepped_at = clock_of[0]
    for ahead in (3.0, 6.0, LEASE_SECONDS + 0.5):
        clock_of[0] = stepped_at + ahead
        await living.members.heartbeat()
        await judge.members.heartbeat()
        assert await judge.members.take_over() == (0, 0)
    clock_of[0] = stepped_at + LEASE_SECONDS + 1.5
    afterwards = await judge.members.take_over()

    assert at_once == (0, 0)
    assert afterwards == (1, 1)
    assert await living.members.heartbeat() == 2


async def test_a_clock_that_runs_a_little_fast_or_is_set_back_delays_no_takeover(
    world: World, clock_of: list[float]
) -> None:
    await set_database_clock(world, 0.0)
    dead, survivor = await world.process(), await world.process()
    for n, step in enumerate((0.4, 0.4, -30.0, 0.4), start=1):
        clock_of[0] = n * (LEASE_SECONDS + 2) / 4
        await set_database_clock(world, step)
        await survivor.members.heartbeat()
        assert await survivor.members.take_over() == (0, 0)
    await world.expire(dead)

    assert await survivor.members.take_over() == (1, 0)


async def test_past_its_deadline_a_replica_sends_nothing_until_renewed(world: World, clock_of: list[float]) -> None:
    process = await world.process()
    assert process.replica.may_send(clock.mono())

    clock_of[0] = LEASE_SECONDS - 1.0
    assert not process.replica.may_send(clock.mono())
    await process.members.heartbeat()

    assert process.replica.may_send(clock.mono())


async def test_orphans_are_freed_by_the_safety_net(world: World) -> None:
    account = await world.account()
    await world.endpoint(account)
    dead, survivor = await world.process(), await world.process()
    await dead.accept(a_batch([an_event(account)]))
    await world.sql.execute("DELETE FROM replica WHERE replica_id = $1", dead.replica.replica_id)

    await survivor.members.free_orphans()

    assert await world.value("SELECT count(*) FROM delivery WHERE owner IS NULL") == 1


async def test_leaving_frees_what_is_left_and_removes_the_row(world: World) -> None:
    account = await world.account()
    await world.endpoint(account)
    process = await world.process()
    await process.accept(a_batch([an_event(account)]))

    await process.members.leave()

    assert await world.value("SELECT count(*) FROM replica") == 0
    assert await world.value("SELECT count(*) FROM delivery WHERE owner IS NULL") == 1


async def test_tables_are_made_seven_days_ahead_and_only_where_missing(world: World) -> None:
    process = await world.process()
    today = clock.utcnow().date()
    await world.sql.execute(f"DROP TABLE event_{today:%Y%m%d}")

    first, last = await process.members.make_days()

    assert (today - first).days == 8
    assert (last - today).days == 7
    assert await world.value("SELECT to_regclass($1)", f"event_{today:%Y%m%d}") is not None


async def drop_days(world: World, *days: int) -> None:
    for n in days:
        await world.sql.execute(f"DROP TABLE event_{clock.utcnow().date() + dt.timedelta(days=n):%Y%m%d}")


async def test_after_a_long_stop_events_of_every_kept_day_have_a_table(world: World) -> None:
    today = clock.utcnow().date()
    await drop_days(world, *range(-8, 8))
    # It ended ten days ago, and kept its events for eight.
    for n in range(-18, -2):
        await world.sql.execute("SELECT make_day($1)", today + dt.timedelta(days=n))

    process = await world.process(payload_days=40)

    assert process.members.days() == (today - dt.timedelta(days=40), today + dt.timedelta(days=7))


async def test_a_table_far_ahead_changes_nothing_for_the_events_of_now(world: World) -> None:
    process = await world.process()
    before = await process.members.make_days()

    await world.sql.execute("SELECT make_day((now() AT TIME ZONE 'UTC')::date + 20)")

    assert await process.members.make_days() == before


async def test_a_replica_begins_with_no_days_that_another_is_still_making(world: World) -> None:
    process = await world.process()
    known = process.members.days()
    newcomer = Membership(process.links["control"], process.replica, payload_days=8)
    await drop_days(world, -5)

    async with world.sql.transaction():
        await world.sql.execute("SELECT pg_advisory_xact_lock(728113001)")
        with pytest.raises(Unavailable, match="another replica is making"):
            await newcomer.make_days()
        # What is known goes on: the day that is gone is asked for no more.
        assert await process.members.make_days() == (known[0] + dt.timedelta(days=4), known[1])
        await drop_days(world, 0)

    async with world.sql.transaction():
        await world.sql.execute("SELECT pg_advisory_xact_lock(728113001)")
        with pytest.raises(Unavailable, match="another replica is making"):
            await process.members.make_days()

    assert await newcomer.make_days() == known


async def test_many_days_are_made_some_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "_DAYS_AT_ONCE", 3)
    process = await world.process()
    trips = process.links["control"].round_trips

    grown = Membership(process.links["control"], process.replica, payload_days=15)
    first, _ = await grown.make_days()

    assert (clock.utcnow().date() - first).days == 15
    # Seven tables in three statements, the run in one.
    assert process.links["control"].round_trips - trips == 4
