"""What one account does to the database is its own matter: the others find connections left."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from dispatcher.api import desks
from dispatcher.api.desks import STATEMENTS_AT_ONCE, Desks
from dispatcher.ledger import connections
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.model.errors import Unavailable
from tests.rooms.test_api_harness import Api, Reply, api, ledger_template, ledger_url, pool, serving, shared_api, vault

LISTED = "/v1/deliveries"


@asynccontextmanager
async def deliveries_locked(api: Api) -> AsyncIterator[asyncpg.Connection]:
    """Keep whoever reads deliveries waiting for the block's length."""
    async with api.sql() as sql, sql.transaction():
        await sql.execute("LOCK TABLE delivery IN ACCESS EXCLUSIVE MODE")
        yield sql


async def until_blocked(api: Api, n: int) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with api.sql() as sql:
        while await sql.fetchval(query) < n:
            await asyncio.sleep(0.005)


async def n_blocked(api: Api) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with api.sql() as sql:
        blocked: int = await sql.fetchval(query)
        return blocked


async def test_slow_lists_of_one_account_leave_connections_to_others(api: Api) -> None:
    other = await api.new_key(await api.other_tenant())
    live = await api.new_key(api.tenant._replace(environment="live"))

    async with asyncio.TaskGroup() as group, deliveries_locked(api):
        slow = [group.create_task(api.get(LISTED, key=key)) for key in ("", live) * 6]
        await until_blocked(api, STATEMENTS_AT_ONCE)
        served = [await api.get("/v1/webhook_endpoints", key=other) for _ in range(20)]
        blocked = await n_blocked(api)

    assert {reply.status for reply in served} == {200}
    # Fewer when they were refused the lock meanwhile, never more.
    assert blocked <= STATEMENTS_AT_ONCE
    assert {task.result().status for task in slow} <= {200, 503}


async def test_who_waits_too_long_for_a_turn_is_told_to_come_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.get("/v1/webhook_endpoints")

    async with asyncio.TaskGroup() as group, deliveries_locked(api):
        slow = [group.create_task(api.get(LISTED)) for _ in range(STATEMENTS_AT_ONCE)]
        await until_blocked(api, STATEMENTS_AT_ONCE)
        monkeypatch.setattr(connections, "_CONNECT_SECONDS", 0.05)
        refused = await api.get("/v1/webhook_endpoints")
        monkeypatch.undo()

    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (503, "unavailable", "1")
    assert "of this account" in refused.body["detail"]
    assert {task.result().status for task in slow} <= {200, 503}
    assert (await api.get("/v1/webhook_endpoints")).status == 200


async def test_turns_come_back_from_whoever_is_cut_failed_or_gave_up(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = pool.portion(1)
    # Two connections, so that none need be made.
    async with pool.transaction():
        await pool.fetch("partition_days")

    async with asyncio.TaskGroup() as group, part.transaction():
        waiting = group.create_task(part.fetch("partition_days"))
        await asyncio.sleep(0)
        waiting.cancel()
        monkeypatch.setattr(connections, "_CONNECT_SECONDS", 0.01)
        with pytest.raises(Unavailable, match="as many statements"):
            await part.fetch("partition_days")
        monkeypatch.undo()
    async with asyncio.TaskGroup() as group:
        cut = group.create_task(part.fetch("partition_days"))
        await asyncio.sleep(0.001)
        cut.cancel()
    with pytest.raises(Unavailable):
        await part.fetch("partition_days", 1)

    async with part.transaction() as session:
        assert await session.fetch("partition_days")


async def test_turns_come_back_when_none_of_all_connections_is_free(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await Pool.open(ledger_url, size=1)
    part = whole.portion(1)
    async with whole.transaction():
        monkeypatch.setattr(connections, "_CONNECT_SECONDS", 0.01)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await part.fetch("partition_days")
        monkeypatch.undo()

    assert await part.fetch("partition_days")
    assert await whole.fetch("partition_days")
    await whole.aclose()


async def test_a_desk_is_an_accounts_and_the_longest_unused_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desks, "_MOST", 2)
    made = Desks(api.services)
    first, second = made.of(Tenant(1, "live")), made.of(Tenant(2, "live"))

    assert made.of(Tenant(1, "test")) is first
    made.of(Tenant(3, "live"))

    assert made.of(Tenant(1, "live")) is first
    assert made.of(Tenant(2, "live")) is not second
