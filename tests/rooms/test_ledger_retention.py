"""Days past their retention are dropped, on a real Postgres; never one that a delivery still needs (I9)."""

import asyncio
import datetime as dt
import subprocess
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest

from dispatcher.kit import clock
from dispatcher.kit.supervise import spawn
from dispatcher.ledger import retention as retention_module
from dispatcher.ledger.connections import connect
from dispatcher.ledger.retention import Daily, Retention
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.errors import Unavailable
from tests.rooms.ledger_world import World, a_batch, an_event, open_ledger
from tests.support.servers import DatabaseServer

KEEP = {Daily.EVENT: 30, Daily.ATTEMPT: 90, Daily.RESPONSE: 7}


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    async def impatient(url: str, name: str) -> asyncpg.Connection:
        connection = await connect(url, name)
        await connection.execute("SET lock_timeout = '100ms'")
        return connection

    monkeypatch.setattr(retention_module, "_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(retention_module, "connect", impatient)


def days_ago(n: int) -> dt.date:
    return clock.utcnow().date() - dt.timedelta(days=n)


async def make_days(world: World, *ages: int) -> None:
    for age in ages:
        await world.sql.execute("SELECT make_day($1)", days_ago(age))


async def ages(world: World, daily: Daily) -> list[int]:
    """Return how many days ago the tables of a parent that are older than eight days were, the oldest first."""
    rows = await world.rows(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ $1 ORDER BY 1", f"^{daily}_[0-9]{{8}}$"
    )
    found = [(clock.utcnow().date() - dt.datetime.strptime(row[0][-8:], "%Y%m%d").date()).days for row in rows]  # noqa: DTZ007
    return [age for age in found if age > 8]


async def an_open_delivery(world: World, age: int, *, held: bool = False) -> int:
    """Make an event of an old day with a delivery that is not finished, and return its number."""
    account = await world.account()
    endpoint = await world.endpoint(account)
    await world.waiting(account, endpoint, 1)
    await world.sql.execute("UPDATE event SET event_day = $1", days_ago(age))
    number: int = await world.sql.fetchval(
        "UPDATE delivery SET event_day = $1, held = $2 RETURNING delivery_id", days_ago(age), held
    )
    return number


async def is_attached(world: World, age: int) -> bool:
    return bool(
        await world.value(
            "SELECT count(*) FROM pg_inherits WHERE inhrelid = to_regclass($1) AND NOT inhdetachpending",
            f"event_{days_ago(age):%Y%m%d}",
        )
    )


async def test_each_kind_is_kept_for_its_own_days_and_no_longer(world: World) -> None:
    await make_days(world, 9, 29, 30, 31, 40, 90, 91, 400)
    retention = Retention(world.url)

    done = {daily: await retention.drop_old(daily, days) for daily, days in KEEP.items()}

    assert await ages(world, Daily.EVENT) == [30, 29, 9]
    assert await ages(world, Daily.ATTEMPT) == [90, 40, 31, 30, 29, 9]
    assert await ages(world, Daily.RESPONSE) == []
    events, responses = done[Daily.EVENT], done[Daily.RESPONSE]
    assert events is not None
    assert responses is not None
    assert events.dropped == [days_ago(age) for age in (400, 91, 90, 40, 31)]
    assert days_ago(8) in responses.dropped
    assert await world.value("SELECT to_regclass($1)", f"response_{days_ago(7):%Y%m%d}") is not None


@pytest.mark.parametrize("held", [False, True])
async def test_a_day_is_kept_while_a_delivery_waits_or_is_held_and_goes_when_it_is_done(
    world: World, *, held: bool
) -> None:
    await make_days(world, 40, 41)
    number = await an_open_delivery(world, 40, held=held)
    retention = Retention(world.url)

    first = await retention.drop_old(Daily.EVENT, 30)
    claimed = [] if held else await (await world.process()).claim()
    await world.sql.execute("DELETE FROM delivery")
    second = await retention.drop_old(Daily.EVENT, 30)

    assert first == ([days_ago(41)], [days_ago(40)])
    assert held or [delivery.delivery_id for delivery in claimed] == [number]
    assert second == ([days_ago(40)], [])


async def test_without_the_guard_an_open_delivery_would_lose_its_event(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_days(world, 40)
    await an_open_delivery(world, 40)
    monkeypatch.setitem(STATEMENTS, "day_in_use", "SELECT $1::date IS NULL")

    await Retention(world.url).drop_old(Daily.EVENT, 30)

    assert await (await world.process()).claim() == []
    assert await world.value("SELECT count(*) FROM delivery") == 1


async def test_a_delivery_made_while_its_day_is_detached_brings_the_day_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_days(world, 40)
    asked: list[bool] = []

    async def ask(*_: object) -> bool:
        # The first look finds nothing; somebody sends an old event again right behind it.
        asked.append(bool(asked))
        return asked[-1]

    monkeypatch.setattr(retention_module, "_is_used", ask)
    done = await Retention(world.url).drop_old(Daily.EVENT, 30)

    assert done == ([], [days_ago(40)])
    assert await is_attached(world, 40)
    monkeypatch.undo()
    assert await Retention(world.url).drop_old(Daily.EVENT, 30) == ([days_ago(40)], [])


async def test_a_running_replay_keeps_the_days_it_has_yet_to_come_to(world: World) -> None:
    await make_days(world, 40, 41)
    await an_open_delivery(world, 40)
    await world.sql.execute("DELETE FROM delivery")
    await world.sql.execute(
        "INSERT INTO replay (public_id, account_id, environment, endpoint_id, kind, what, rate, n_expected, is_minimum,"
        " created_at, ready_at)"
        " SELECT 'rpl_1', account_id, environment, endpoint_id, 'replay', 'all', 1, 1, false, now(), now()"
        " FROM endpoint"
    )
    retention = Retention(world.url)

    first = await retention.drop_old(Daily.EVENT, 30)
    await world.sql.execute("UPDATE replay SET at_xid = e.xid, at_seq = e.seq FROM event e")
    second = await retention.drop_old(Daily.EVENT, 30)

    assert first == ([days_ago(41)], [days_ago(40)])
    assert second == ([days_ago(40)], [])


async def test_an_old_transaction_leaves_a_day_half_detached_and_the_next_round_completes_it(world: World) -> None:
    await make_days(world, 40, 41)
    process = await world.process()
    account = await world.account()
    await world.endpoint(account)
    reader = await asyncpg.connect(world.url)
    retention = Retention(world.url)
    await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await reader.fetchval("SELECT count(*) FROM event")

    with pytest.raises(Unavailable, match=r"LockNotAvailable|QueryCanceled"):
        await retention.drop_old(Daily.EVENT, 30)
    half = await world.value("SELECT count(*) FROM pg_inherits WHERE inhdetachpending")
    accepted = await process.accept(a_batch([an_event(account)]))
    await process.members.make_days()
    await reader.close()
    done = await retention.drop_old(Daily.EVENT, 30)

    assert half == 1
    assert accepted.n_events == 1
    assert done == ([days_ago(41), days_ago(40)], [])
    assert await ages(world, Daily.EVENT) == []


@pytest.mark.parametrize("point", ["detach.sent", "day.detached"])
async def test_a_process_that_dies_while_it_drops_leaves_work_that_another_completes(world: World, point: str) -> None:
    await make_days(world, 40, 41)
    code = (
        "import asyncio\nfrom dispatcher.ledger.retention import Daily, Retention\n"
        f"asyncio.run(Retention({world.url!r}).drop_old(Daily.EVENT, 30))"
    )

    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], env={"FAILPOINT": point}, capture_output=True, check=False
    )
    # The turn of a dead process ends with its session, which the server may take a moment to notice.
    while (rest := await Retention(world.url).drop_old(Daily.EVENT, 30)) is None:
        await asyncio.sleep(0.01)

    assert done.returncode == -9, done.stderr
    assert days_ago(40) in rest.dropped
    assert rest.kept == []
    assert await ages(world, Daily.EVENT) == []


async def test_a_loose_day_that_is_needed_is_attached_again(world: World) -> None:
    await make_days(world, 40)
    number = await an_open_delivery(world, 40)
    await world.sql.execute(f"ALTER TABLE event DETACH PARTITION event_{days_ago(40):%Y%m%d} CONCURRENTLY")

    done = await Retention(world.url).drop_old(Daily.EVENT, 30)
    claimed = await (await world.process()).claim()

    assert done == ([], [days_ago(40)])
    assert [delivery.delivery_id for delivery in claimed] == [number]


async def test_two_replicas_share_the_work_and_never_fight(world: World) -> None:
    await make_days(world, *range(31, 37))

    rounds = await asyncio.gather(*(Retention(world.url).drop_old(Daily.EVENT, 30) for _ in range(3)))

    dropped = [day for one in rounds if one is not None for day in one.dropped]
    assert sorted(dropped) == [days_ago(age) for age in range(36, 30, -1)]
    assert await ages(world, Daily.EVENT) == []


async def test_the_turn_of_a_replica_that_froze_ends_with_its_takeover(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_days(world, 40)
    frozen, survivor = await world.process(), await world.process()
    is_in_its_turn, for_ever = asyncio.Event(), asyncio.Event()

    async def freeze(*_: object) -> bool:
        is_in_its_turn.set()
        await for_ever.wait()
        return False

    with monkeypatch.context() as patch:
        patch.setattr(retention_module, "_let_go", freeze)
        turn = spawn(
            Retention(world.url, tag=frozen.links["control"].tag).drop_old(Daily.EVENT, 30), name="frozen-retention"
        )
        await is_in_its_turn.wait()
    assert await Retention(world.url).drop_old(Daily.EVENT, 30) is None

    await world.expire(frozen)
    monkeypatch.setattr(survivor.replica, "may_take_over", lambda _: True)
    while await world.value("SELECT count(*) FROM replica") > 1:
        await survivor.members.take_over()
    try:
        async with asyncio.timeout(20):
            while (done := await Retention(world.url).drop_old(Daily.EVENT, 30)) is None:
                await asyncio.sleep(0.01)
    finally:
        turn.cancel()

    assert done == ([days_ago(40)], [])


async def test_operators_change_what_they_like_while_days_are_dropped_and_after_it(world: World) -> None:
    await make_days(world, 40)
    turn = await asyncpg.connect(world.url)
    assert await turn.fetchval(STATEMENTS["retention_turn"])

    async with world.sql.transaction():
        await world.sql.execute("SET LOCAL lock_timeout = '100ms'")
        await world.sql.execute(STATEMENTS["lock_operators"])
        await turn.close()
        while (done := await Retention(world.url).drop_old(Daily.EVENT, 30)) is None:
            await asyncio.sleep(0.01)

    assert done == ([days_ago(40)], [])


async def test_events_go_on_while_days_are_dropped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # As long as it is really waited: on a slow machine an accept can keep a lock for a tenth of a second.
    monkeypatch.setattr(retention_module, "connect", connect)
    await make_days(world, *range(31, 41))
    process = await world.process()
    account = await world.account()
    await world.endpoint(account)
    dropping = asyncio.ensure_future(Retention(world.url).drop_old(Daily.EVENT, 30))
    start = 0

    while not dropping.done():
        await process.accept(a_batch([an_event(account)], start=start))
        start += 1

    done = await dropping
    assert done is not None
    assert len(done.dropped) == 10
    assert await world.value("SELECT count(*) FROM event") == start


async def test_events_go_on_while_a_drop_waits_for_a_reader(world: World) -> None:
    await make_days(world, 40)
    process, account = await world.process(), await world.account()
    async with world.sql.transaction():
        await world.value("SELECT count(*) FROM event")
        dropping = asyncio.ensure_future(Retention(world.url).drop_old(Daily.EVENT, 30))
        await world.until_blocked(1)

        # What an accept takes is to be had at once: nobody stands in its queue.
        other = await asyncpg.connect(world.url)
        async with other.transaction():
            await other.execute("LOCK TABLE event IN ROW EXCLUSIVE MODE NOWAIT")
        await other.close()
        await process.accept(a_batch([an_event(account)]))
        assert not dropping.done()

    assert await dropping == ([days_ago(40)], [])


async def test_a_locked_table_is_waited_for_with_patience_and_not_for_ever(world: World) -> None:
    await make_days(world, 40)
    async with world.sql.transaction():
        await world.sql.execute(f"LOCK TABLE event_{days_ago(40):%Y%m%d} IN ACCESS SHARE MODE")
        with pytest.raises(Unavailable):
            await Retention(world.url).drop_old(Daily.EVENT, 30)

    assert await Retention(world.url).drop_old(Daily.EVENT, 30) == ([days_ago(40)], [])


async def test_a_day_past_its_retention_takes_no_more_events_and_is_not_made_again(world: World) -> None:
    await make_days(world, 40, 31)

    process = await world.process(payload_days=30)
    made = await ages(world, Daily.EVENT)
    done = await Retention(world.url).drop_old(Daily.EVENT, 30)
    await process.members.make_days()
    again = await Retention(world.url).drop_old(Daily.EVENT, 30)

    assert process.members.days() == (days_ago(30), days_ago(-7))
    assert made == [40, 31, *range(30, 8, -1)]
    assert done == ([days_ago(40), days_ago(31)], [])
    assert again == ([], [])
    assert await ages(world, Daily.EVENT) == list(range(30, 8, -1))
    assert await ages(world, Daily.ATTEMPT) == [40, 31]
