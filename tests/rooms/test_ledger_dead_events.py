"""Dead events in Postgres."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from dispatcher.ledger.connections import LISTED, Pool, connect
from dispatcher.ledger.dead_events import DeadEventLedger, DeadPlace
from dispatcher.ledger.statements import STATEMENTS
from tests.rooms.test_api_harness import ledger_template, ledger_url, pool

PLACE = DeadPlace("log-1", "verification.events.v1", 3, 41)


@pytest.fixture
async def sql(ledger_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(ledger_url)
    yield connection
    await connection.close()


async def bury(sql: asyncpg.Connection, place: DeadPlace = PLACE, *, value: bytes | None = b"sealed") -> None:
    await sql.execute(
        "INSERT INTO dead_event (log_id, topic, part, off, reason, detail, key, headers, sealed_value) "
        "VALUES ($1, $2, $3, $4, 'not_json', $5, 'ver_1', '[]', $6)",
        *place,
        b"at byte 3",
        value,
    )


async def test_a_dead_event_is_listed_without_its_value_and_read_with_it(pool: Pool, sql: asyncpg.Connection) -> None:
    await bury(sql)
    ledger = DeadEventLedger(pool)

    (listed,) = await ledger.page(limit=5)
    read = await ledger.find(PLACE)

    assert (listed.place, listed.reason, listed.detail, listed.has_value) == (PLACE, "not_json", "at byte 3", True)
    assert b"sealed" not in listed
    assert read is not None
    assert (read.facts, read.headers, read.sealed_value) == (listed, b"[]", b"sealed")
    assert PLACE.seal == "dead_event:log-1:verification.events.v1:3:41"
    assert await ledger.find(PLACE._replace(offset=1)) is None


async def test_pages_hold_every_dead_event_once(pool: Pool, sql: asyncpg.Connection) -> None:
    async with sql.transaction():
        for offset in range(6):
            await bury(sql, PLACE._replace(offset=offset))
    await bury(sql, PLACE._replace(offset=9), value=None)
    ledger = DeadEventLedger(pool)

    offsets = []
    before = None
    while page := await ledger.page(before=before, limit=2):
        offsets += [one.place.offset for one in page]
        before = page[-1].page_place

    assert offsets == [9, 5, 4, 3, 2, 1, 0]


async def test_a_late_page_begins_where_the_one_before_it_ended(ledger_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute(
        "INSERT INTO dead_event (log_id, topic, part, off, reason, detail, headers, seen_at) "
        "SELECT 'log-1', 't', 0, n, 'not_json', '', '[]', now() - n * interval '1 s' FROM generate_series(1, 3000) n"
    )
    session = await connect(ledger_url, "pages", planning=LISTED)
    await session.execute(f"PREPARE planned AS {STATEMENTS['list_dead_events']}")

    seen_at = await sql.fetchval("SELECT seen_at FROM dead_event WHERE off = 2900")
    place = f"'{seen_at.isoformat()}', 'log-1', 't', 0, 2900"
    plan = await session.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF) EXECUTE planned({place}, 10)")
    session.terminate()

    passed_over = [int(line[0].split(":")[1]) for line in plan if "Rows Removed by Filter" in line[0]]
    assert sum(passed_over) <= 1, plan


async def test_a_dead_event_is_given_to_one_taker_only(pool: Pool, sql: asyncpg.Connection) -> None:
    await bury(sql)
    ledger = DeadEventLedger(pool)

    async with asyncio.TaskGroup() as group:
        takers = [group.create_task(ledger.take(PLACE)) for _ in range(4)]

    taken = [taker.result() for taker in takers if taker.result() is not None]
    assert len(taken) == 1
    assert taken[0] is not None
    assert taken[0].facts.redriven_at is not None
    assert taken[0].sealed_value == b"sealed"


async def test_what_was_put_back_can_be_taken_again(pool: Pool, sql: asyncpg.Connection) -> None:
    await bury(sql)
    ledger = DeadEventLedger(pool)
    await ledger.take(PLACE)

    await ledger.put_back(PLACE)

    assert await ledger.take(PLACE) is not None


async def test_a_discarded_dead_event_is_gone(pool: Pool, sql: asyncpg.Connection) -> None:
    await bury(sql)
    ledger = DeadEventLedger(pool)

    answers = [await ledger.discard(PLACE), await ledger.discard(PLACE)]

    assert answers == [True, False]
    assert await ledger.find(PLACE) is None


async def test_one_offset_of_a_topic_made_anew_has_two_places(pool: Pool, sql: asyncpg.Connection) -> None:
    await bury(sql)
    await bury(sql, PLACE._replace(log_id="log-2"))

    places = await DeadEventLedger(pool).places("verification.events.v1", 3, 41)

    assert [place.log_id for place in places] == ["log-2", "log-1"]
