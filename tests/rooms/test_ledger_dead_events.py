"""Dead events in Postgres."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from dispatcher.ledger.connections import LISTED, Pool, connect
from dispatcher.ledger.dead_events import (
    REDRIVE_SECONDS,
    DeadEventLedger,
    DeadPlace,
    DeadRecordCopy,
    HasArrived,
    UnderWay,
)
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.errors import Unavailable
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

    taken = [taker.result() for taker in takers]
    (copy,) = [one for one in taken if isinstance(one, DeadRecordCopy)]
    assert (copy.facts.redrive_began_at is not None, copy.facts.redriven_at) == (True, None)
    assert copy.sealed_value == b"sealed"
    refused = [one for one in taken if isinstance(one, UnderWay)]
    assert len(refused) == 3
    assert all(0 < one.seconds <= REDRIVE_SECONDS for one in refused)


async def age(sql: asyncpg.Connection, seconds: float) -> None:
    """Let what began have begun so much earlier."""
    await sql.execute("UPDATE dead_event SET redriven_at = redriven_at - make_interval(secs => $1)", seconds)


async def test_what_a_taker_died_over_can_be_taken_again_after_a_while(pool: Pool, sql: asyncpg.Connection) -> None:
    await bury(sql)
    ledger = DeadEventLedger(pool)
    # It is killed here: nothing tells whether Kafka has the record.
    await ledger.take(PLACE)

    await age(sql, REDRIVE_SECONDS - 30)
    early = await ledger.take(PLACE)
    await age(sql, 30)
    late = await ledger.take(PLACE)

    assert isinstance(early, UnderWay)
    assert 20 <= early.seconds <= 30
    assert isinstance(late, DeadRecordCopy)


async def test_what_kafka_acknowledged_is_never_taken_again(pool: Pool, sql: asyncpg.Connection) -> None:
    await bury(sql)
    ledger = DeadEventLedger(pool)

    async def publish(found: DeadRecordCopy) -> tuple[int, int]:
        return 3, 99

    done = await ledger.redrive(PLACE, publish)
    (listed,) = await ledger.page(limit=5)
    await age(sql, 2 * REDRIVE_SECONDS)

    assert done == (3, 99)
    assert listed.redriven_at is not None
    assert await ledger.redrive(PLACE, publish) == HasArrived()


async def test_a_record_that_an_older_program_marked_can_be_redriven(pool: Pool, sql: asyncpg.Connection) -> None:
    """It marked as redriven what it was about to give to Kafka."""
    await bury(sql)
    await sql.execute("UPDATE dead_event SET redriven_at = now() - interval '1 hour'")
    ledger = DeadEventLedger(pool)

    (listed,) = await ledger.page(limit=5)

    assert (listed.redrive_began_at is not None, listed.redriven_at) == (True, None)
    assert isinstance(await ledger.take(PLACE), DeadRecordCopy)


async def test_what_was_put_back_can_be_taken_again(pool: Pool, sql: asyncpg.Connection) -> None:
    await bury(sql)
    ledger = DeadEventLedger(pool)
    taken = await ledger.take(PLACE)
    assert isinstance(taken, DeadRecordCopy)

    await ledger.put_back(taken.facts)

    assert isinstance(await ledger.take(PLACE), DeadRecordCopy)


async def test_who_puts_back_late_takes_nothing_from_who_came_since(pool: Pool, sql: asyncpg.Connection) -> None:
    await bury(sql)
    ledger = DeadEventLedger(pool)
    taken = await ledger.take(PLACE)
    assert isinstance(taken, DeadRecordCopy)
    await age(sql, REDRIVE_SECONDS)
    await ledger.take(PLACE)

    await ledger.put_back(taken.facts)

    assert isinstance(await ledger.take(PLACE), UnderWay)


@pytest.mark.parametrize("fault", [Unavailable("Kafka is away"), asyncio.CancelledError()], ids=["fault", "cancel"])
async def test_a_redrive_that_cannot_be_put_back_fails_as_it_failed(
    pool: Pool, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    await bury(sql)
    ledger = DeadEventLedger(pool)

    async def publish(found: DeadRecordCopy) -> tuple[int, int]:
        raise fault

    async def away(taken: object, *, deed: object = None) -> None:
        message = "Postgres is away"
        raise Unavailable(message)

    monkeypatch.setattr(ledger, "put_back", away)

    with pytest.raises(type(fault)) as caught:
        await ledger.redrive(PLACE, publish)
    assert caught.value is fault


async def test_what_is_not_there_is_not_taken(pool: Pool, sql: asyncpg.Connection) -> None:
    await bury(sql)

    assert await DeadEventLedger(pool).take(PLACE._replace(offset=1)) is None


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
