"""Attempts as they are recorded: each once, in the order of their commit."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.rooms.test_api_harness import Api, Seeds, api, ledger_template, ledger_url, pool, shared_api, vault
from tests.rooms.test_api_logs import Logged, logged


async def begin(api: Api, query: str = "") -> str:
    reply = await api.get(f"/v1/attempts?limit=100{query}")
    assert reply.body["data"] == []
    resume: str = reply.body["resume"]
    return resume


async def settle(sql: asyncpg.Connection) -> None:
    """Wait until nothing holds the feed back: any transaction of the server that began earlier does."""
    while not await sql.fetchval(
        "SELECT COALESCE(max(xmin::text::bigint), 0) < pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
        " FROM attempt"
    ):
        await asyncio.sleep(0.01)


async def test_a_watcher_sees_what_is_recorded_from_now_on(logged: Logged) -> None:
    await logged.seeds.attempt(logged.number, 1, "retry")
    await settle(logged.seeds.sql)
    resume = await begin(logged.api)
    await logged.seeds.attempt(logged.number, 2, "retry", status=503)
    await settle(logged.seeds.sql)

    reply = await logged.api.get(f"/v1/attempts?after={resume}")
    again = await logged.api.get(f"/v1/attempts?after={reply.body['resume']}")

    (shown,) = reply.body["data"]
    assert (shown["endpoint_id"], shown["delivery_id"]) == (logged.public_id, logged.shown(2))
    assert (shown["status_code"], shown["verdict"]) == (503, "retry")
    assert reply.body["next"] is None
    assert again.body["data"] == []


async def test_an_attempt_that_began_earlier_and_is_recorded_later_is_seen(logged: Logged) -> None:
    resume = await begin(logged.api)
    await logged.seeds.attempt(logged.number, 2, "retry", ago=1)
    await settle(logged.seeds.sql)
    first = await logged.api.get(f"/v1/attempts?after={resume}")
    await logged.seeds.attempt(logged.number, 3, "retry", ago=45)
    await settle(logged.seeds.sql)

    second = await logged.api.get(f"/v1/attempts?after={first.body['resume']}")

    assert [one["delivery_id"] for one in second.body["data"]] == [logged.shown(3)]


async def test_pages_hold_each_attempt_once(logged: Logged) -> None:
    resume: Any = await begin(logged.api)
    for number in range(1, 8):
        await logged.seeds.attempt(logged.number, number, "retry", ago=30 - number % 3)
    await settle(logged.seeds.sql)

    seen = []
    while resume is not None:
        reply = await logged.api.get(f"/v1/attempts?limit=3&after={resume}")
        seen += [one["delivery_id"] for one in reply.body["data"]]
        resume = reply.body["next"]

    assert seen == [logged.shown(number) for number in range(1, 8)]


async def test_what_an_open_transaction_may_still_write_is_waited_for(logged: Logged) -> None:
    resume = await begin(logged.api)
    late = await asyncpg.connect(logged.api.database)
    transaction = late.transaction()
    await transaction.start()
    await Seeds(late, logged.api.tenant).attempt(logged.number, 1, "retry")
    await logged.seeds.attempt(logged.number, 2, "retry")

    before = await logged.api.get(f"/v1/attempts?after={resume}")
    await transaction.commit()
    await settle(logged.seeds.sql)
    after = await logged.api.get(f"/v1/attempts?after={before.body['resume']}")

    await late.close()
    assert before.body["data"] == []
    assert [one["delivery_id"] for one in after.body["data"]] == [logged.shown(1), logged.shown(2)]


async def test_an_answer_waits_for_the_next_attempt(logged: Logged) -> None:
    resume = await begin(logged.api)
    waiting = asyncio.create_task(logged.api.get(f"/v1/attempts?wait=8&after={resume}"))
    await asyncio.sleep(0)

    await logged.seeds.attempt(logged.number, 1, "retry")
    reply = await waiting

    assert [one["delivery_id"] for one in reply.body["data"]] == [logged.shown(1)]


async def test_endpoint_and_type_narrow_it(logged: Logged) -> None:
    other = await logged.seeds.endpoint("we_other")
    resume = await begin(logged.api)
    await logged.seeds.attempt(logged.number, 1, "retry")
    await logged.seeds.attempt(other, 2, "retry")
    await settle(logged.seeds.sql)

    async def ids(query: str) -> list[str]:
        reply = await logged.api.get(f"/v1/attempts?after={resume}&{query}")
        return [one["endpoint_id"] for one in reply.body["data"]]

    assert await ids("limit=9") == [logged.public_id, "we_other"]
    assert await ids("endpoint=we_other") == ["we_other"]
    assert await ids("type=verification.completed") == [logged.public_id, "we_other"]
    assert await ids("type=verification.created") == []


async def test_of_more_than_can_be_looked_at_the_newest_of_each_endpoint_are_seen(
    logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.ledger.live.SCAN_ROWS", 6)
    others = [await logged.seeds.endpoint(), await logged.seeds.endpoint()]
    resume = await begin(logged.api)
    for number in range(1, 10):
        await logged.seeds.attempt(logged.number, number, "retry", ago=10 - number)
    await logged.seeds.attempt(others[0], 10, "retry", ago=20)
    await settle(logged.seeds.sql)

    # The third endpoint has none and takes no share.
    reply = await logged.api.get(f"/v1/attempts?limit=2&after={resume}")
    rest = await logged.api.get(f"/v1/attempts?limit=100&after={reply.body['resume']}")

    shown = [one["delivery_id"] for one in reply.body["data"]]
    assert shown == [logged.shown(number) for number in (7, 8)]
    assert [one["delivery_id"] for one in rest.body["data"]] == [logged.shown(number) for number in (9, 10)]


async def test_nobody_elses_attempts_are_seen(logged: Logged) -> None:
    others = Seeds(logged.seeds.sql, await logged.api.other_tenant())
    resume = await begin(logged.api)
    await others.attempt(await others.endpoint(), 1, "retry")
    await settle(logged.seeds.sql)

    reply = await logged.api.get(f"/v1/attempts?after={resume}")

    assert reply.body["data"] == []


async def test_an_endpoint_that_is_not_the_callers_is_not_found_and_not_waited_for(logged: Logged) -> None:
    others = Seeds(logged.seeds.sql, await logged.api.other_tenant())
    await others.endpoint("we_theirs")

    replies = [await logged.api.get(f"/v1/attempts?wait=8&endpoint={one}") for one in ("we_nope", "we_theirs")]

    assert [(reply.status, reply.code) for reply in replies] == [(404, "not_found")] * 2


@pytest.mark.parametrize("query", ["wait=9", "wait=-1", "order=desc", "after=nobodys"])
async def test_a_faulty_query_is_refused(api: Api, query: str) -> None:
    reply = await api.get(f"/v1/attempts?{query}")

    assert reply.status == 400
