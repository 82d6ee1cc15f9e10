"""What endpoints met, counted hour by hour: whole hours that are over, each as often as one likes."""

import datetime as dt
import re
from collections.abc import AsyncIterator, Sequence
from unittest.mock import patch

import asyncpg
import pytest

from dispatcher.kit import clock
from dispatcher.ledger import hours as hours_module
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.forgetting import Forgetting, Old
from dispatcher.ledger.hours import COUNTING, Hour, HourCounter, Week
from dispatcher.ledger.logs import LogLedger
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.errors import Unavailable
from tests.rooms.ledger_world import World, open_ledger
from tests.rooms.test_ledger_logs import rows_looked_at
from tests.support.servers import DatabaseServer

_now = clock.utcnow()


@pytest.fixture
async def world(postgres_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("tests.rooms.test_ledger_hours._now", clock.utcnow())
    async with open_ledger(postgres_server) as made:
        yield made


@pytest.fixture
async def pool(world: World) -> AsyncIterator[Pool]:
    made = await Pool.open(world.url)
    yield made
    await made.aclose()


async def count_all(world: World) -> int:
    """Count until nothing is due and return how many hours were counted."""
    n_counted = 0
    while n := await HourCounter(world.url).count():
        n_counted += n
    return n_counted


async def an_endpoint(world: World) -> int:
    """Make an endpoint that is a year old."""
    endpoint = await world.endpoint(await world.account())
    await world.sql.execute(
        "UPDATE endpoint SET created_at = now() - interval '1 year' WHERE endpoint_id = $1", endpoint
    )
    return endpoint


def hours_ago(n: int) -> dt.datetime:
    """Return the beginning of the n-th hour before the one that the test began in."""
    return _now.replace(minute=0, second=0, microsecond=0) - dt.timedelta(hours=n)


async def attempts(world: World, endpoint: int, at: dt.datetime, verdicts: Sequence[str]) -> None:
    """Make attempts that began at a moment; one called `none` was never sent."""
    await world.sql.execute(
        "INSERT INTO attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment, "
        "event_id, event_type, attempt_no, duration_ms, outcome, verdict, replica_id) "
        "SELECT $1, 1, $1, endpoint_id, account_id, environment, '\\x00', 'x', 1, 20, "
        "CASE WHEN v <> 'none' THEN 'http_5xx' END, CASE WHEN v = 'none' THEN 'canceled' ELSE v END, 1 "
        "FROM endpoint, unnest($3::text[]) v WHERE endpoint_id = $2",
        at,
        endpoint,
        verdicts,
    )


async def hours_of(world: World, endpoint: int) -> dict[dt.datetime, tuple[int, int]]:
    rows = await world.rows("SELECT * FROM endpoint_hour WHERE endpoint_id = $1", endpoint)
    return {row["hour"]: (row["n_attempts"], row["n_delivered"]) for row in rows}


async def test_an_hour_counts_the_requests_that_began_in_it(world: World) -> None:
    endpoint, other = await an_endpoint(world), await an_endpoint(world)
    begin = hours_ago(3)
    last = begin + dt.timedelta(minutes=59, seconds=59, microseconds=999_999)
    await attempts(world, endpoint, begin - dt.timedelta(microseconds=1), ["retry"])
    await attempts(world, endpoint, begin, ["delivered", "retry", "exhausted", "gone", "interrupted", "none"])
    await attempts(world, endpoint, last, ["delivered"])
    await attempts(world, endpoint, hours_ago(2), ["delivered"])
    await attempts(world, other, begin, ["retry"])

    await count_all(world)

    assert await hours_of(world, endpoint) == {hours_ago(4): (1, 0), begin: (5, 2), hours_ago(2): (1, 1)}
    assert await hours_of(world, other) == {begin: (1, 0)}


async def test_an_hour_that_is_not_over_or_is_older_than_a_week_is_not_counted(world: World) -> None:
    endpoint = await an_endpoint(world)
    for ago in (0, 7 * 24 + 1):
        await attempts(world, endpoint, hours_ago(ago), ["delivered"])

    await count_all(world)

    assert await hours_of(world, endpoint) == {}
    # That which is just over waits five minutes.
    assert await world.value("SELECT count(*) FROM counted_hour") in (7 * 24 - 1, 7 * 24)


async def test_an_hour_is_counted_once_more_an_hour_later_and_then_no_more(world: World) -> None:
    endpoint = await an_endpoint(world)
    hour = hours_ago(4)
    await count_all(world)
    await world.sql.execute(
        "UPDATE counted_hour SET counted_at = hour + interval '66 minutes' WHERE hour IN ($1, $2)", hour, hours_ago(1)
    )
    await attempts(world, endpoint, hour, ["delivered"])

    counted = [await HourCounter(world.url).count() for _ in range(2)]

    assert counted == [1, 0]
    assert await hours_of(world, endpoint) == {hour: (1, 1)}


async def test_counting_an_hour_again_puts_the_count_in_the_place_of_the_former(world: World) -> None:
    endpoint = await an_endpoint(world)
    hour = (hours_ago(4), hours_ago(3))
    await attempts(world, endpoint, hour[0], ["delivered", "retry"])

    for _ in range(3):
        assert await world.value(STATEMENTS["count_hour"], *hour)
        await attempts(world, endpoint, hour[0], ["retry"])

    assert await hours_of(world, endpoint) == {hour[0]: (4, 1)}


async def test_of_two_replicas_one_counts_and_nobody_waits(world: World) -> None:
    endpoint = await an_endpoint(world)
    await attempts(world, endpoint, hours_ago(4), ["delivered"])
    hour = (hours_ago(4), hours_ago(3))
    other = await asyncpg.connect(world.url)
    async with other.transaction():
        assert await other.fetchval(STATEMENTS["count_hour"], hours_ago(3), hours_ago(2))

        meanwhile = [await HourCounter(world.url).count(), await world.value(STATEMENTS["count_hour"], *hour)]
        counted = await hours_of(world, endpoint)
    await other.close()

    assert (meanwhile, counted) == ([0, False], {})
    assert await HourCounter(world.url).count() > 0


async def test_a_round_ends_after_ten_seconds_and_the_oldest_hours_come_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hours_module, "_ROUND_SECONDS", -1.0)

    n_counted = await HourCounter(world.url).count()

    assert n_counted == 1
    assert await world.value("SELECT date_trunc('hour', counted_at, 'UTC') - hour FROM counted_hour") == dt.timedelta(7)


async def test_a_count_that_cannot_be_made_is_for_the_next_round(world: World) -> None:
    slow = {"patient_counting": "SET statement_timeout = '1ms'", "hours_due": "SELECT pg_sleep(9), $1::int"}

    with patch.dict(STATEMENTS, slow), pytest.raises(Unavailable):
        await HourCounter(world.url).count()

    assert await HourCounter(world.url).count() > 0


async def test_a_week_ends_where_counting_did(world: World, pool: Pool) -> None:
    endpoint = await an_endpoint(world)
    _, nothing = await LogLedger(pool).stats(endpoint)
    for ago in (150, 30, 3):
        await attempts(world, endpoint, hours_ago(ago), ["delivered", "retry"])
    await count_all(world)
    await world.sql.execute("DELETE FROM counted_hour WHERE hour >= $1", hours_ago(30))
    await world.sql.execute("INSERT INTO endpoint_hour VALUES ($1, $2, 9, 9)", endpoint, hours_ago(30 + 7 * 24 + 1))

    _, week = await LogLedger(pool).stats(endpoint)

    assert nothing == Week(None, [])
    assert week == Week(hours_ago(30), [Hour(hours_ago(150), 2, 1)])


async def test_counts_are_forgotten_after_eight_days(world: World) -> None:
    process = await world.process()
    for days in (7, 9):
        at = hours_ago(24 * days)
        await world.sql.execute("INSERT INTO endpoint_hour VALUES (1, $1, 1, 1)", at)
        await world.sql.execute("INSERT INTO counted_hour VALUES ($1, now())", at)

    await Forgetting(process.links["control"]).forget(Old.HOURS)

    for table in ("endpoint_hour", "counted_hour"):
        assert [row[0] for row in await world.rows(f"SELECT hour FROM {table}")] == [hours_ago(24 * 7)]


async def test_counting_reads_the_stretch_that_the_hour_was_written_to(world: World) -> None:
    endpoint, day = await an_endpoint(world), hours_ago(0).replace(hour=0) - dt.timedelta(days=20)
    await world.sql.execute("SELECT make_day($1)", day.date())
    await world.sql.execute(
        "INSERT INTO attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment, "
        "event_id, event_type, attempt_no, duration_ms, outcome, verdict, replica_id) "
        "SELECT $1::timestamptz + n * interval '3 seconds', n, $1, $2 + n % 50, 1, 'live', '\\x00', 'x', 1, 20, "
        "'http_5xx', 'retry', 1 FROM generate_series(0, 28000) n",
        day,
        endpoint,
    )
    await world.sql.execute(f"VACUUM ANALYZE attempt_{day:%Y%m%d}")
    connection = await asyncpg.connect(world.url, server_settings=COUNTING)
    await connection.execute(f"PREPARE counting AS {STATEMENTS['count_hour']}")
    hour = [(day + dt.timedelta(hours=n)).isoformat() for n in (9, 10)]
    rows = await connection.fetch(
        f"EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF) EXECUTE counting('{hour[0]}', '{hour[1]}')"
    )
    await connection.close()

    plan = [row[0] for row in rows]
    # 1,200 requests an hour; other days' tables are not even opened.
    assert rows_looked_at(plan) < 9_000
    assert set(re.findall(r" on (attempt_\d{8}) ", "\n".join(plan))) == {f"attempt_{day:%Y%m%d}"}
    assert any(f"Bitmap Index Scan on attempt_{day:%Y%m%d}_started_at_idx" in line for line in plan)
