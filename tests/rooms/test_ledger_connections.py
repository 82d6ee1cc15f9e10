"""What Postgres and its driver raise, told apart on a real server: away for now, and why."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from dispatcher.ledger.connections import Link, Pool, patiently
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
    pool = await Pool.open(world.url, size=1)
    before = await pool._pool.fetchval("SELECT pg_backend_pid()")

    async def write_where_it_is_read_only() -> None:
        async with pool.transaction() as session:
            await session._connection.execute("SET TRANSACTION READ ONLY")
            await session.execute("forget_idempotency_keys")

    with pytest.raises(Unavailable, match="25006"):
        await write_where_it_is_read_only()

    assert await pool._pool.fetchval("SELECT pg_backend_pid()") != before
    await pool.aclose()


async def test_nothing_runs_on_after_a_link_that_was_cut(world: World) -> None:
    before = asyncio.all_tasks()
    link = Link(world.url, "test")
    await link.fetch("partition_days")
    assert link._connection is not None
    await world.sql.execute("SELECT pg_terminate_backend($1)", link._connection.get_server_pid())

    with pytest.raises(Unavailable):
        await link.fetch("partition_days")
    assert await link.fetch("partition_days")
    await link.aclose()

    async with asyncio.timeout(5):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0.01)
