"""Statement S2 on a real Postgres: attempts, verdicts, leases; once, whatever happens to the answer."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import orjson
import pytest

from dispatcher.kit import clock
from dispatcher.ledger.connections import HOT, connect
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.errors import Fenced, PoisonBatch
from dispatcher.model.outcome import Outcome, OutcomeKind, Phases, Verdict, VerdictKind
from tests.rooms.ledger_world import Process, World, a_batch, an_event, open_ledger
from tests.support.servers import DatabaseServer


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


async def deliveries(world: World, process: Process, n: int = 1) -> list[Delivery]:
    """Accept `n` events for one endpoint and return their deliveries."""
    account = await world.account()
    await world.endpoint(account)
    return list((await process.accept(a_batch([an_event(account) for _ in range(n)], part=next(_parts)))).fresh)


_parts = iter(range(10_000))


def settled(delivery: Delivery, verdict: VerdictKind, *, retry_in: float | None = None, **outcome: Any) -> Settlement:
    """Return a settlement of the first attempt."""
    plain = Outcome(OutcomeKind.DELIVERED, 0.0314, 200, Phases(0.001, 0.002, 0.003, 0.02), reason="", peer="127.0.0.1")
    now = clock.mono()
    return Settlement(delivery, plain._replace(**outcome), Verdict(verdict, 1, retry_in), 1, now - 0.05, now, (7, 6))


async def test_a_delivered_row_leaves_and_its_attempt_tells_the_story(world: World) -> None:
    process = await world.process()
    (delivery,) = await deliveries(world, process)

    await process.settlements.settle([settled(delivery, VerdictKind.DELIVERED)])

    assert await world.value("SELECT count(*) FROM delivery") == 0
    (row,) = await world.rows("SELECT *, now() - started_at < interval '10 seconds' AS recent FROM attempt")
    assert (row["delivery_id"], row["attempt_no"], row["duration_ms"], row["status"]) == (
        delivery.delivery_id,
        1,
        31,
        200,
    )
    assert (row["outcome"], row["verdict"], row["next_at"], row["recent"]) == ("delivered", "delivered", None, True)
    assert (row["event_id"], row["event_type"]) == (delivery.event_id, delivery.event_type)
    assert b'"wait_ms":20.0' in row["detail"]
    assert b'"keys":[7,6]' in row["detail"]
    assert process.replica.held == set()


async def test_an_attempt_remembers_what_its_request_said_of_itself(world: World) -> None:
    process = await world.process()
    (delivery,) = await deliveries(world, process)

    again = settled(delivery._replace(attempts_before=4), VerdictKind.DELIVERED, signed_at=1_793_700_000)
    await process.settlements.settle([again._replace(last_attempt=14)])

    detail = orjson.loads(await world.value("SELECT detail FROM attempt"))
    assert (detail["at"], detail["of"], detail["before"]) == (1_793_700_000, 14, 4)


async def test_a_retry_goes_back_with_its_due_time(world: World) -> None:
    process = await world.process()
    (delivery,) = await deliveries(world, process)

    await process.settlements.settle(
        [settled(delivery, VerdictKind.RETRY, retry_in=300.0, kind=OutcomeKind.HTTP_5XX, status=503)]
    )

    (row,) = await world.rows(
        "SELECT owner, held, attempts, extract(epoch FROM due_at - now())::float8 AS due FROM delivery"
    )
    assert (row["owner"], row["held"], row["attempts"]) == (None, False, 1)
    assert 290 < row["due"] <= 300
    assert await world.value("SELECT next_at = (SELECT due_at FROM delivery) FROM attempt")


@pytest.mark.parametrize(
    ("kind", "rows", "attempts", "held"),
    [
        (VerdictKind.EXHAUSTED, 0, 1, None),
        (VerdictKind.CANCELED, 0, 1, None),
        (VerdictKind.INTERRUPTED, 1, 1, False),
        (VerdictKind.PARKED, 1, 0, False),
        (VerdictKind.HELD, 1, 0, True),
        (VerdictKind.GONE, 1, 1, True),
    ],
)
async def test_each_verdict_leaves_what_it_should(
    world: World, kind: VerdictKind, rows: int, attempts: int, held: bool | None
) -> None:
    process = await world.process()
    (delivery,) = await deliveries(world, process)
    retry_in = 0.0 if rows else None
    settlement = settled(delivery, kind, retry_in=retry_in)
    if kind in (VerdictKind.CANCELED, VerdictKind.PARKED, VerdictKind.HELD):
        settlement = settlement._replace(outcome=None)

    await process.settlements.settle([settlement])

    assert await world.value("SELECT count(*) FROM delivery WHERE owner IS NULL") == rows
    assert await world.value("SELECT count(*) FROM attempt") == attempts
    if held is not None:
        assert await world.value("SELECT held FROM delivery") is held


async def test_410_disables_the_endpoint_and_holds_what_waits_for_it(world: World) -> None:
    process = await world.process()
    delivery, other = await deliveries(world, process, 2)
    await process.settlements.settle([settled(other, VerdictKind.RETRY, retry_in=60.0, kind=OutcomeKind.HTTP_5XX)])

    await process.settlements.settle(
        [settled(delivery, VerdictKind.GONE, retry_in=0.0, kind=OutcomeKind.HTTP_410, status=410)]
    )

    (row,) = await world.rows("SELECT status, disabled_reason, held_since IS NOT NULL AS is_held FROM endpoint")
    assert tuple(row) == ("disabled", "gone", True)
    assert await world.value("SELECT count(*) FROM delivery WHERE held AND owner IS NULL") == 2


async def test_a_batch_is_written_once_even_when_what_waits_cannot_be_held(world: World) -> None:
    process = await world.process()
    (delivery,) = await deliveries(world, process)
    gone = settled(delivery, VerdictKind.GONE, retry_in=0.0, kind=OutcomeKind.HTTP_410, status=410)
    dying = "SELECT pg_terminate_backend(pg_backend_pid()), $1::int[]"

    with patch.dict(STATEMENTS, {"hold_waiting": dying}):
        await process.settlements.settle([gone])

    assert await world.value("SELECT count(*) FROM attempt") == 1


async def test_the_first_success_verifies_the_endpoint_and_later_ones_change_nothing(world: World) -> None:
    process = await world.process()
    first, second = await deliveries(world, process, 2)

    await process.settlements.settle(
        [settled(first, VerdictKind.DELIVERED)], first_successes=[(first.endpoint_id, first.host_id)]
    )
    verified_at = await world.value("SELECT verified_at FROM endpoint")
    await process.settlements.settle(
        [settled(second, VerdictKind.DELIVERED)], first_successes=[(first.endpoint_id, first.host_id)]
    )

    assert verified_at is not None
    assert await world.value("SELECT verified_at FROM endpoint") == verified_at


async def test_a_batch_whose_answer_was_lost_applies_once(world: World) -> None:
    process = await world.process()
    (delivery,) = await deliveries(world, process)
    batch = [settled(delivery, VerdictKind.DELIVERED)]
    await process.settlements.settle(batch)
    # As if the answer had never come: the same number is sent again.
    process.settlements._flush_seq -= 1

    await process.settlements.settle(batch)

    assert await world.value("SELECT count(*) FROM attempt") == 1
    assert await world.value("SELECT flush_seq FROM replica") == 1


async def test_a_repeat_that_overtakes_its_own_first_try_waits_for_it_and_applies_once(world: World) -> None:
    process = await world.process()
    (delivery,) = await deliveries(world, process)
    batch = [settled(delivery, VerdictKind.DELIVERED)]
    loop = asyncio.get_running_loop()

    async with world.sql.transaction():
        await world.sql.execute("SELECT 1 FROM delivery FOR UPDATE")
        first = loop.create_task(process.settlements.settle(batch))
        await world.until_blocked(1)
        twin = await world.process()
        twin.settlements._replica = process.replica
        second = loop.create_task(twin.settlements.settle(batch))
        await world.until_blocked(2)
    await asyncio.gather(first, second)

    assert await world.value("SELECT count(*) FROM attempt") == 1


async def test_without_its_number_a_repeated_batch_would_be_written_twice(world: World) -> None:
    process = await world.process()
    (delivery,) = await deliveries(world, process)
    batch = [settled(delivery, VerdictKind.DELIVERED)]
    guard = "AND flush_seq = $2 - 1"
    assert guard in STATEMENTS["settle"]

    with patch.dict(STATEMENTS, {"settle": STATEMENTS["settle"].replace(guard, "")}):
        await process.settlements.settle(batch)
        process.settlements._flush_seq -= 1
        await process.settlements.settle(batch)

    assert await world.value("SELECT count(*) FROM attempt") == 2


async def test_rows_of_another_replica_are_left_alone(world: World) -> None:
    zombie, survivor = await world.process(), await world.process()
    (delivery,) = await deliveries(world, zombie)
    await world.sql.execute("UPDATE delivery SET owner = $1", survivor.replica.replica_id)

    await zombie.settlements.settle([settled(delivery, VerdictKind.DELIVERED)])

    assert await world.value("SELECT owner FROM delivery") == survivor.replica.replica_id


async def test_a_replica_that_was_taken_over_settles_nothing(world: World) -> None:
    process = await world.process()
    (delivery,) = await deliveries(world, process)
    await world.sql.execute("DELETE FROM replica")

    with pytest.raises(Fenced):
        await process.settlements.settle([settled(delivery, VerdictKind.DELIVERED)])

    assert await world.value("SELECT count(*) FROM attempt") == 0
    assert await world.value("SELECT count(*) FROM delivery") == 1


async def test_a_value_that_postgres_cannot_take_refuses_the_batch_and_the_next_one_applies(world: World) -> None:
    process = await world.process()
    bad, good = await deliveries(world, process, 2)

    with pytest.raises(PoisonBatch):
        await process.settlements.settle([settled(bad._replace(subject="\x00"), VerdictKind.DELIVERED)])
    await process.settlements.settle([settled(good, VerdictKind.DELIVERED)])

    assert await world.value("SELECT count(*) FROM attempt") == 1


async def test_settling_renews_the_lease(world: World) -> None:
    process = await world.process()
    await world.expire(process)

    await process.settlements.settle([])

    assert await world.value("SELECT lease_until > now() FROM replica")
    assert process.replica.may_send(clock.mono())


async def test_times_that_make_no_sense_are_bent_and_not_fatal(world: World) -> None:
    process = await world.process()
    one, two = await deliveries(world, process, 2)
    ancient = settled(one, VerdictKind.DELIVERED)._replace(started_mono=clock.mono() - 1e9)
    future = settled(two, VerdictKind.RETRY, retry_in=-5.0, kind=OutcomeKind.HTTP_5XX)._replace(
        started_mono=clock.mono() + 50
    )

    await process.settlements.settle([ancient, future])

    assert await world.value("SELECT count(*) FROM delivery WHERE owner IS NULL AND due_at <= now()") == 1
    assert await world.value("SELECT count(*) FROM attempt WHERE started_at > now() - interval '8 days'") == 2


PLAIN_JOIN = """fin AS (DELETE FROM delivery d USING r
        WHERE d.delivery_id = r.delivery_id AND d.owner = $1 AND r.next_in_ms IS NULL
        RETURNING d.delivery_id, r.verdict),"""


@pytest.mark.parametrize("is_plain", [False, True], ids=["as it is", "as a plain join"])
async def test_a_table_that_statistics_call_empty_is_not_compared_row_by_row(world: World, is_plain: bool) -> None:
    process = await world.process()
    account = await world.account()
    await world.waiting(account, await world.endpoint(account), 2_000)
    await world.sql.execute("DELETE FROM delivery")
    await world.sql.execute("VACUUM ANALYZE delivery")
    accepted = await process.accept(a_batch([an_event(account) for _ in range(1_000)]))
    settle = STATEMENTS["settle"]
    if is_plain:
        start, end = settle.index("fin AS ("), settle.index("gone AS (")
        settle = settle[:start] + PLAIN_JOIN + "\n" + settle[end:]
    batch = [_delivered(delivery) for delivery in accepted.fresh[:300]]
    arguments = process.settlements._arguments(batch, [], 1, clock.mono())
    connection = await connect(world.url, "plan", planning=HOT)

    plan = await connection.fetch("EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) " + settle, *arguments)
    connection.terminate()

    wasted = [int(found) for found in re.findall(r"Rows Removed by Join Filter: (\d+)", str(plan))]
    assert (max(wasted, default=0) > 100_000) is is_plain
    assert "delivery_endpoint" not in str(plan)


async def move(world: World) -> int:
    """Move the only endpoint to another host, as a change by its owner does; return that host."""
    host = await world.host()
    await world.sql.execute("UPDATE endpoint SET host_id = $1, moved_at = now(), verified_at = NULL", host)
    return host


GONE: dict[str, Any] = {"retry_in": 0.0, "kind": OutcomeKind.HTTP_410, "status": 410}


@pytest.mark.parametrize("kind", [VerdictKind.RETRY, VerdictKind.PARKED, VerdictKind.INTERRUPTED, VerdictKind.GONE])
async def test_what_is_put_back_after_its_endpoint_moved_is_put_under_the_new_host(
    world: World, kind: VerdictKind
) -> None:
    process = await world.process()
    (delivery,) = await deliveries(world, process)
    host = await move(world)

    await process.settlements.settle([settled(delivery, kind, retry_in=0.0)])

    (row,) = await world.rows("SELECT host_id, held, owner, due_at <= now() AS is_due FROM delivery")
    assert tuple(row) == (host, False, None, True)
    (again,) = await process.claim()
    assert (again.delivery_id, again.host_id) == (delivery.delivery_id, host)


async def test_what_the_former_host_answers_late_says_nothing_of_an_endpoint_that_moved(world: World) -> None:
    process = await world.process()
    well, gone, failed = await deliveries(world, process, 3)
    await move(world)

    news = await process.settlements.settle(
        [
            settled(well, VerdictKind.DELIVERED),
            settled(failed, VerdictKind.RETRY, retry_in=5.0, kind=OutcomeKind.HTTP_5XX, status=500),
        ],
        first_successes=[(well.endpoint_id, well.host_id)],
    )
    news += await process.settlements.settle([settled(gone, VerdictKind.GONE, **GONE)])

    assert await world.value("SELECT status FROM endpoint WHERE verified_at IS NULL") == "enabled"
    assert (await world.value("SELECT count(*) FROM endpoint_health"), news) == (0, [])
    assert await world.value("SELECT count(*) FROM attempt") == 3


async def test_what_the_present_host_answers_counts_beside_what_the_former_one_does(world: World) -> None:
    process = await world.process()
    early, failed = await deliveries(world, process, 2)
    host = await move(world)
    await process.settlements.settle([settled(failed, VerdictKind.RETRY, retry_in=0.0)])
    (late,) = await process.claim()

    await process.settlements.settle(
        [
            settled(early, VerdictKind.DELIVERED),
            settled(late, VerdictKind.RETRY, retry_in=5.0, kind=OutcomeKind.HTTP_5XX, status=500),
        ],
        first_successes=[(late.endpoint_id, host)],
    )

    assert await world.value("SELECT failures FROM endpoint_health") == 1
    assert await world.value("SELECT verified_at IS NOT NULL FROM endpoint")


@pytest.mark.parametrize("kind", [VerdictKind.DELIVERED, VerdictKind.GONE])
async def test_an_endpoint_that_moves_while_its_former_host_is_believed_is_looked_at_again(
    world: World, kind: VerdictKind
) -> None:
    process = await world.process()
    (delivery,) = await deliveries(world, process)
    await world.sql.execute("UPDATE endpoint SET verified_at = NULL")
    answer = settled(delivery, kind, **(GONE if kind is VerdictKind.GONE else {}))
    place = delivery.endpoint_id, delivery.host_id

    async with world.sql.transaction():
        await move(world)
        settling = asyncio.create_task(process.settlements.settle([answer], first_successes=[place]))
        await world.until_blocked(1)
    await settling

    (row,) = await world.rows("SELECT status, verified_at FROM endpoint")
    assert tuple(row) == ("enabled", None)
    assert await world.value("SELECT count(*) FROM delivery WHERE held") == 0


def _delivered(delivery: Delivery) -> Settlement:
    return settled(delivery, VerdictKind.DELIVERED)
