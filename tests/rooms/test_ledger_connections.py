"""What Postgres and its driver raise, told apart on a real server: away for now, and why."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest

from dispatcher.ledger import connections
from dispatcher.ledger.connections import Link, Pool, patiently
from dispatcher.ledger.loans import Loans
from dispatcher.model.errors import Unavailable
from tests.rooms.ledger_world import World, open_ledger
from tests.support.servers import DatabaseServer


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


async def test_a_server_that_takes_no_writes_lets_nobody_in_and_is_asked_again(world: World) -> None:
    name = await world.value("SELECT current_database()")
    link = Link(world.url, "test")
    await world.sql.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')

    with pytest.raises(Unavailable, match="TargetServerAttributeNotMatched") as refused:
        await link.fetch("partition_days")
    with pytest.raises(Unavailable):
        await Pool.open(world.url)
    await world.sql.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')

    assert refused.value.why == "the database takes no writes at the moment"
    assert len(await link.fetch("partition_days")) == 1
    await link.aclose()


async def test_a_start_waits_for_a_server_that_is_away_but_not_for_ever(world: World) -> None:
    name = await world.value("SELECT current_database()")
    link, tries = Link(world.url, "test"), []
    await world.sql.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')

    async def ask() -> int:
        tries.append(1)
        if len(tries) == 3:
            await world.sql.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        return len(await link.fetch("partition_days"))

    assert await patiently(ask) == 1
    assert len(tries) == 3
    tries[:] = [1, 1, 1]
    await link.aclose()
    await world.sql.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with pytest.raises(Unavailable):
        await patiently(ask, seconds=0.0)


async def test_a_lock_that_somebody_holds_is_told_by_its_name(world: World) -> None:
    link = Link(world.url, "test")
    await link.fetch("partition_days")
    assert link._connection is not None
    await link._connection.execute("SET lock_timeout = '50ms'")

    async with world.sql.transaction():
        await world.sql.execute("LOCK TABLE idempotency_key IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Unavailable, match="55P03") as refused:
            await link.fetch("forget_idempotency_keys")

    assert refused.value.why == "somebody else keeps the same rows locked"
    assert await link.fetch("forget_idempotency_keys") == []
    await link.aclose()


async def test_a_pool_keeps_no_connection_of_a_server_that_was_demoted(world: World) -> None:
    pool = await Pool.open(world.url, size=2)
    before = await _pid(pool)

    async def write_where_it_is_read_only() -> None:
        async with pool.transaction() as session:
            await session._connection.execute("SET TRANSACTION READ ONLY")
            await session.execute("forget_idempotency_keys")

    async with pool.transaction() as session:
        lent = session._connection.get_server_pid()
        with pytest.raises(Unavailable, match="25006"):
            await write_where_it_is_read_only()

    assert await _pid(pool) not in {before, lent}
    await pool.aclose()


async def test_a_connection_whose_statement_was_cut_is_lent_to_nobody_else(world: World) -> None:
    pool = await Pool.open(world.url, size=1)
    before = await _pid(pool)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), pool.transaction() as session:
            await session._connection.execute("SELECT pg_sleep(60)")

    assert await _pid(pool) != before
    await pool.aclose()


async def test_a_borrower_who_fails_leaves_a_connection_as_it_was(world: World) -> None:
    pool = await Pool.open(world.url, size=1)
    before = await _pid(pool)

    async def fail_half_way() -> None:
        async with pool.transaction() as session:
            await session._connection.execute("CREATE TABLE left_behind ()")
            raise KeyError

    with pytest.raises(KeyError):
        await fail_half_way()

    assert await _pid(pool) == before
    assert await world.sql.fetchval("SELECT to_regclass('left_behind')") is None
    await pool.aclose()


async def test_a_pool_is_waited_for_but_not_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = await Pool.open(world.url, size=1)

    async with asyncio.TaskGroup() as group:
        async with pool.transaction():
            waiting = group.create_task(pool.fetch("partition_days"))
            await asyncio.sleep(0)
            monkeypatch.setattr(connections, "_CONNECT_SECONDS", 0.01)
            with pytest.raises(Unavailable):
                await pool.fetch("partition_days")
        assert await waiting

    await pool.aclose()


class Holding:
    """A connection whose statements go on until all may end."""

    def __init__(self, begun: list[str], may_end: asyncio.Event) -> None:
        self._begun = begun
        self._may_end = may_end

    async def fetch(self, text: str, *_: object) -> list[object]:
        self._begun.append(text)
        await self._may_end.wait()
        return []

    def is_closed(self) -> bool:
        return False

    is_in_transaction = is_closed


async def test_of_single_statements_two_run_at_a_time_whatever_else_does() -> None:
    begun, may_end = list[str](), asyncio.Event()

    async def open_one() -> Holding:
        return Holding(begun, may_end)

    loans = Loans(open_one, most=5)
    pool = Pool(loans)
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(pool.fetch("partition_days"))
        for _ in range(10):
            await asyncio.sleep(0)
        n_begun = len(begun)
        besides = [await loans.borrow(seconds=0.01) for _ in range(3)]
        may_end.set()
        for one in besides:
            loans.give_back(one, is_sound=True)

    assert (n_begun, len(begun)) == (2, 4)


async def test_a_pool_that_was_closed_lends_nothing(world: World) -> None:
    pool = await Pool.open(world.url, size=1)

    async def close_within() -> None:
        async with pool.transaction():
            await pool.aclose()

    with pytest.raises(Unavailable):
        await close_within()
    with pytest.raises(Unavailable, match="closed"):
        await pool.fetch("partition_days")


async def test_a_connection_that_ended_while_nobody_used_it_is_replaced(world: World) -> None:
    pool = await Pool.open(world.url, size=1)
    async with pool.transaction() as session:
        connection = session._connection
    await world.sql.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    async with asyncio.timeout(5):
        while not connection.is_closed():
            await asyncio.sleep(0.01)

    assert await pool.fetch("partition_days")
    await pool.aclose()


async def test_nothing_runs_on_after_a_link_that_was_cut(world: World) -> None:
    before = asyncio.all_tasks()
    link = Link(world.url, "test")
    await link.fetch("partition_days")
    assert link._connection is not None
    await world.sql.execute("SELECT pg_terminate_backend($1)", link._connection.get_server_pid())

    # It may have heard of the cut already, and connect anew.
    with suppress(Unavailable):
        await link.fetch("partition_days")
    assert await link.fetch("partition_days")
    await link.aclose()

    async with asyncio.timeout(5):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0.01)


async def _pid(pool: Pool) -> int:
    async with pool.transaction() as session:
        pid: int = session._connection.get_server_pid()
        return pid


@pytest.mark.parametrize("kind", ["pool", "link"])
async def test_an_instant_is_read_as_it_was_stored_to_the_microsecond(world: World, kind: str) -> None:
    instants = [
        dt.datetime(1, 1, 1, tzinfo=dt.UTC),
        dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
        dt.datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
        dt.datetime(2026, 11, 27, 0, 30, 1, 123_457, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        dt.datetime(9000, 1, 1, tzinfo=dt.UTC),
        dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
    ]
    await world.sql.execute("INSERT INTO counted_hour SELECT at, at FROM unnest($1::timestamptz[]) AS at", instants)

    async def ask(connection: asyncpg.Connection) -> tuple[list[dt.datetime | None], list[dt.datetime]]:
        found = [await connection.fetchval("SELECT $1::timestamptz", one) for one in (*instants, None)]
        return found, [row["hour"] for row in await connection.fetch("SELECT hour FROM counted_hour ORDER BY hour")]

    if kind == "pool":
        pool = await Pool.open(world.url)
        async with pool.transaction() as session:
            found, stored = await ask(session._connection)
        await pool.aclose()
    else:
        link = Link(world.url, "test")
        found, stored = await link.transaction(ask)
        await link.aclose()

    assert found == [*instants, None]
    assert stored == sorted(instants)
    assert {one.tzinfo for one in (*stored, *found) if one is not None} == {dt.UTC}


async def test_an_infinity_that_was_read_is_one_when_it_is_written(world: World) -> None:
    link = Link(world.url, "test")

    async def there_and_back(connection: asyncpg.Connection) -> list[str]:
        read = [await connection.fetchval(f"SELECT '{word}'::timestamptz") for word in ("infinity", "-infinity")]
        written: list[str] = await connection.fetchval("SELECT $1::timestamptz[]::text[]", read)
        return written

    assert await link.transaction(there_and_back) == ["infinity", "-infinity"]
    await link.aclose()
