"""Endpoints out of service and back on a real Postgres: nothing missed is lost, nothing comes twice."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
from collections.abc import AsyncIterator
from unittest.mock import patch

import asyncpg
import orjson
import pytest

from dispatcher.kit.supervise import spawn
from dispatcher.ledger import holding, wishes
from dispatcher.ledger.endpoints import Changed, EndpointLedger
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.endpoint import EndpointStatus
from dispatcher.model.outcome import VerdictKind
from dispatcher.model.replay import ReplayState, Tally
from tests.rooms.holding_world import Stage, open_stage
from tests.rooms.ledger_world import a_batch, an_event
from tests.rooms.test_api_harness import DEFAULT_LIMITS, a_deed, ledger_template, ledger_url


@pytest.fixture
async def stage(ledger_url: str) -> AsyncIterator[Stage]:
    async with open_stage(ledger_url) as made:
        yield made


async def pause(stage: Stage, status: EndpointStatus = EndpointStatus.PAUSED) -> None:
    assert await stage.holding.hold(stage.tenant, stage.public_id, status) == stage.number


async def enable(stage: Stage, *, pays: bool = True) -> None:
    assert await stage.holding.enable(stage.tenant, stage.public_id, pays=pays) == stage.number


async def test_what_comes_while_an_endpoint_is_held_gets_no_row_and_comes_once_when_it_is_enabled(stage: Stage) -> None:
    before = await stage.accept(2)
    await stage.settle(before)
    await pause(stage)
    missed = await stage.accept(3)
    n_rows = await stage.world.value("SELECT count(*) FROM delivery")

    await enable(stage)
    after = await stage.accept(1)
    await stage.settle(after)
    await stage.drained()
    came_late = await stage.deliver_all()

    assert (missed, n_rows, len(came_late)) == ([], 0, 3)
    assert await stage.attempts() == dict.fromkeys(await stage.event_ids(), 1)
    (job,) = await stage.world.rows("SELECT state, kind, n_expected, n_made FROM replay")
    assert tuple(job) == ("done", "drain", 3, 3)


async def test_a_late_delivery_stands_in_the_log_where_its_event_came_in(stage: Stage) -> None:
    await pause(stage)
    await stage.accept(2)
    await enable(stage)

    await stage.run()

    assert await stage.world.value(
        "SELECT bool_and(created_at = ingested_at) FROM delivery JOIN event USING (event_id)"
    )


async def test_an_accepted_delivery_is_as_old_as_its_event_to_the_microsecond(stage: Stage) -> None:
    # Open deliveries are found by it.
    await stage.accept(3)

    rows = await stage.world.rows("SELECT d.created_at = e.ingested_at FROM delivery d JOIN event e USING (event_id)")
    assert [row[0] for row in rows] == [True, True, True]


async def test_waiting_rows_are_held_and_those_of_a_process_are_parked_by_it(stage: Stage) -> None:
    waiting, owned = await stage.accept(2)
    await stage.settle([waiting], VerdictKind.RETRY)

    await pause(stage)
    held_at_once = await stage.world.rows("SELECT delivery_id FROM delivery WHERE held")
    await stage.settle([owned], VerdictKind.HELD)

    assert [row["delivery_id"] for row in held_at_once] == [waiting.delivery_id]
    assert await stage.world.value("SELECT count(*) FROM delivery WHERE held AND owner IS NULL") == 2
    assert await stage.process.claim() == []


async def test_enabling_lets_held_rows_go_with_the_attempts_that_they_had(stage: Stage) -> None:
    (delivery,) = await stage.accept(1)
    await stage.settle([delivery], VerdictKind.RETRY)
    await pause(stage)
    await enable(stage)

    await stage.run()

    (again,) = await stage.process.claim()
    assert (again.delivery_id, again.attempts, again.attempts_before) == (delivery.delivery_id, 1, 0)


async def test_held_rows_and_missed_events_are_let_go_at_half_the_pace_of_the_endpoint(stage: Stage) -> None:
    await stage.world.sql.execute("UPDATE endpoint SET rate_limit = 8")
    for delivery in await stage.accept(3):
        await stage.settle([delivery], VerdictKind.RETRY)
    await pause(stage)
    await stage.accept(5)
    await enable(stage)
    steps = stage.steps()

    made = []
    for _ in range(5):
        await steps.step()
        made.append(await stage.world.value("SELECT n_made FROM replay"))
        assert await steps.step() is None, "ready before its time"
        await stage.world.sql.execute("UPDATE replay SET ready_at = now()")

    # Four per second: two per step and half a second of rest.
    assert made == [2, 4, 6, 8, 8]


async def test_a_drain_goes_no_faster_than_its_deliveries_are_taken(stage: Stage) -> None:
    await pause(stage)
    await stage.accept(3)
    await enable(stage)
    await stage.world.waiting(stage.account, stage.number, 2_000)
    steps = stage.steps()

    step = await steps.step()

    assert step is not None
    assert (step.n_made, await stage.world.value("SELECT ready_at > now() FROM replay")) == (0, True)
    await stage.world.sql.execute("DELETE FROM delivery")
    await stage.run(steps)
    # The three, and the event of those that waited: it has no delivery any more.
    assert await stage.world.value("SELECT n_made FROM replay") == 4


async def test_pausing_again_or_disabling_goes_on_owing_from_the_first_place(stage: Stage) -> None:
    await pause(stage)
    first = await stage.world.rows("SELECT held_xid::text, held_since FROM endpoint")
    await stage.accept(1)

    await pause(stage)
    await pause(stage, EndpointStatus.DISABLED)

    assert await stage.world.rows("SELECT held_xid::text, held_since FROM endpoint") == first
    (row,) = await stage.world.rows("SELECT status, disabled_reason FROM endpoint")
    assert tuple(row) == ("disabled", "by_user")


async def test_enabling_twice_makes_one_drain(stage: Stage) -> None:
    await pause(stage)
    await stage.accept(1)

    await asyncio.gather(*(enable(stage) for _ in range(3)))
    await enable(stage)

    assert await stage.world.value("SELECT count(*) FROM replay") == 1
    (row,) = await stage.world.rows("SELECT status, held_since, held_xid::text, disabled_reason FROM endpoint")
    assert tuple(row) == ("enabled", None, None, None)


async def test_pausing_during_a_drain_owes_what_the_drain_had_still_to_pay(stage: Stage) -> None:
    await stage.world.sql.execute("UPDATE endpoint SET rate_limit = 4")
    await pause(stage)
    await stage.accept(5)
    await enable(stage)
    await stage.steps().step()
    n_paid = await stage.world.value("SELECT count(*) FROM delivery")

    await pause(stage)
    held = await stage.holding.count_held(stage.number)
    await stage.accept(2)
    await enable(stage)
    await stage.drained()
    await stage.deliver_all()

    assert (n_paid, held) == (1, Tally(5, is_minimum=False))
    assert await stage.attempts() == dict.fromkeys(await stage.event_ids(), 1)
    assert len(await stage.event_ids()) == 7
    states = await stage.world.rows("SELECT state FROM replay ORDER BY replay_id")
    assert [row["state"] for row in states] == ["canceled", "done"]


@pytest.mark.parametrize("is_seen_by_a_step", [True, False])
async def test_an_endpoint_that_is_disabled_by_410_during_its_drain_owes_the_rest(
    stage: Stage, is_seen_by_a_step: bool
) -> None:
    await stage.world.sql.execute("UPDATE endpoint SET rate_limit = 4")
    await pause(stage)
    await stage.accept(3)
    await enable(stage)
    await stage.steps().step()
    (delivery,) = await stage.process.claim()

    await stage.settle([delivery], VerdictKind.GONE)
    await stage.accept(1)
    if is_seen_by_a_step:
        await stage.run()
        assert await stage.world.value("SELECT state FROM replay") == "canceled"
    await enable(stage)
    await stage.drained()
    await stage.deliver_all()

    assert await stage.attempts() == dict.fromkeys(await stage.event_ids(), 1)


async def test_after_410_an_endpoint_owes_what_came_since_and_nothing_older(stage: Stage) -> None:
    await stage.world.sql.execute("UPDATE endpoint SET events = '{check.completed}'")
    await stage.accept(1)
    await stage.world.sql.execute("UPDATE endpoint SET events = '{*}'")
    (delivery,) = await stage.accept(1)
    await stage.settle([delivery], VerdictKind.GONE)
    await stage.accept(1)

    await enable(stage)
    await stage.drained()

    assert len(await stage.deliver_all()) == 2
    assert len(await stage.event_ids()) == 3


async def test_deleting_during_a_drain_ends_it(stage: Stage) -> None:
    await pause(stage)
    await stage.accept(3)
    await enable(stage)

    await EndpointLedger(stage.pool, default_limits=DEFAULT_LIMITS).delete(a_deed(stage.tenant), stage.public_id)
    await stage.run()

    assert await stage.world.value("SELECT state FROM replay") == "canceled"
    assert await stage.world.value("SELECT count(*) FROM delivery") == 0


async def test_enabling_without_replay_cancels_what_is_held_and_makes_no_job(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wishes, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(holding, "ROWS_AT_ONCE", 2)
    for delivery in await stage.accept(5):
        await stage.settle([delivery], VerdictKind.RETRY)
    await pause(stage)
    await stage.accept(4)

    await enable(stage, pays=False)

    assert await stage.world.value("SELECT count(*) FROM delivery") == 0
    assert await stage.world.value("SELECT count(*) FROM attempt WHERE verdict = 'canceled' AND outcome IS NULL") == 5
    assert await stage.world.value("SELECT count(*) FROM replay") == 0
    assert await stage.holding.count_held(stage.number) == Tally(0, is_minimum=False)


async def test_a_long_queue_is_held_in_parts_that_end_when_the_endpoint_is_enabled_meanwhile(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "ROWS_AT_ONCE", 2)
    for delivery in await stage.accept(5):
        await stage.settle([delivery], VerdictKind.RETRY)
    await pause(stage)
    all_held = await stage.world.value("SELECT count(*) FROM delivery WHERE held")
    await stage.world.sql.execute("UPDATE delivery SET held = false")
    await stage.world.sql.execute("UPDATE endpoint SET status = 'enabled'")

    tag = await stage.pool.execute("hold_some", stage.number, 2)

    assert (all_held, tag) == (5, "UPDATE 0")


async def test_a_row_that_was_held_by_mistake_is_let_go_unless_a_drain_cares_for_it(stage: Stage) -> None:
    late, cared_for = await stage.accept(1), await stage.endpoint()
    await stage.settle(late, VerdictKind.RETRY)
    await stage.world.waiting(stage.account, cared_for[0], 1)
    await stage.holding.hold(stage.tenant, cared_for[1], EndpointStatus.PAUSED)
    await stage.holding.enable(stage.tenant, cared_for[1])
    await stage.world.sql.execute("UPDATE delivery SET held = true")

    n_strays = await stage.steps().release_strays()

    assert n_strays == 1
    assert {d.endpoint_id for d in await stage.process.claim()} == {stage.number}


async def test_a_foreign_endpoint_is_not_there(stage: Stage) -> None:
    stranger = stage.tenant._replace(environment="test")

    assert await stage.holding.hold(stranger, stage.public_id, EndpointStatus.PAUSED) is None
    assert await stage.holding.enable(stranger, stage.public_id) is None
    assert await stage.world.value("SELECT status FROM endpoint") == "enabled"


async def test_counts_say_when_they_are_only_a_minimum(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await pause(stage)
    await stage.accept(5)

    whole = await stage.holding.count_held(stage.number)
    monkeypatch.setattr(holding, "MOST_COUNTED", 3)
    part = await stage.holding.count_held(stage.number)

    assert (whole, part) == (Tally(5, is_minimum=False), Tally(3, is_minimum=True))


# An accept that has taken its snapshot and not yet its number: it waits for a lock before its first write.
SLOW_ACCEPT = STATEMENTS["accept"].replace(
    "SELECT 1 FROM replica WHERE replica_id = $1 FOR KEY SHARE",
    "SELECT 1 FROM replica, (SELECT pg_advisory_xact_lock_shared(4711) OFFSET 0) w"
    " WHERE replica_id = $1 FOR KEY SHARE OF replica",
)


async def accept_across_enabling(stage: Stage, *, settling_seconds: float | None) -> None:
    """Let an accept that saw the endpoint held commit after it was enabled and its drain has looked."""
    assert STATEMENTS["accept"] != SLOW_ACCEPT
    await pause(stage)
    steps = stage.steps() if settling_seconds is None else stage.steps(settling_seconds=settling_seconds)
    batch = a_batch([an_event(stage.account)], part=999)
    await stage.process.intake.known_accounts({stage.account}, create=True)
    await stage.process.intake.open_positions(batch.log_id, {(batch.spans[0].topic, 999): 0})
    await stage.world.sql.execute("SELECT pg_advisory_lock(4711)")
    with patch.dict(STATEMENTS, {"accept": SLOW_ACCEPT}):
        accepting = spawn(stage.process.intake.accept(batch), name="accept")
        await stage.world.until_blocked(1)
        await enable(stage)
        for _ in range(5):
            await stage.run(steps, most=1)
        await stage.world.sql.execute("SELECT pg_advisory_unlock(4711)")
        assert (await accepting).n_events == 1
    await stage.drained()


async def test_an_accept_that_saw_the_endpoint_held_and_commits_after_the_drain_looked_is_paid(stage: Stage) -> None:
    await accept_across_enabling(stage, settling_seconds=None)

    assert len(await stage.deliver_all()) == 1


async def test_without_time_to_settle_its_event_would_be_lost(stage: Stage) -> None:
    await accept_across_enabling(stage, settling_seconds=0.0)

    assert await stage.deliver_all() == []


async def write_behind_the_drain(stage: Stage) -> None:
    """Let an event with a lower number commit after the drain has seen one with a higher."""
    await pause(stage)
    other = await asyncpg.connect(stage.world.url)
    slow = other.transaction()
    await slow.start()
    await other.execute(
        "INSERT INTO event (event_day, event_id, account_id, environment, event_type, occurred_at, body)"
        " VALUES ((now() AT TIME ZONE 'UTC')::date, $1, $2, 'live', 'verification.completed', now(), '{}')",
        b"s" * 20,
        stage.tenant.account_id,
    )
    await stage.accept_unseen(1)
    await enable(stage)
    for _ in range(3):
        await stage.run(most=1)
    await slow.commit()
    await other.close()
    await stage.drained()


async def test_nothing_appears_behind_a_drain(stage: Stage) -> None:
    await write_behind_the_drain(stage)

    assert len(await stage.deliver_all()) == 2


async def test_reading_above_the_oldest_transaction_would_leave_an_event_behind(stage: Stage) -> None:
    source = await stage.world.value("SELECT pg_get_functiondef('feed_for'::regproc)")
    guard = "LEAST(before_xid, feed_floor())"
    assert guard in source
    await stage.world.sql.execute(source.replace(guard, "COALESCE(before_xid, '9000000000000000000')"))

    await write_behind_the_drain(stage)

    assert len(await stage.deliver_all()) == 1


async def test_a_drain_knows_its_end_only_when_every_older_accept_is_over(stage: Stage) -> None:
    await pause(stage)
    await enable(stage)
    steps = stage.steps()

    await stage.run(steps, most=5)
    early = await stage.world.rows("SELECT state, end_xid::text FROM replay")
    await stage.age(holding.SETTLING_SECONDS)
    await stage.drained()

    assert [tuple(row) for row in early] == [("running", None)]
    assert await stage.world.value("SELECT state FROM replay") == ReplayState.DONE


async def test_a_person_who_disables_an_endpoint_is_told_of_to_those_who_ask(stage: Stage) -> None:
    _, public_id = await stage.endpoint()
    asked, _ = await stage.endpoint(events=["endpoint.disabled"])

    await stage.holding.hold(stage.tenant, public_id, EndpointStatus.PAUSED)
    await stage.holding.hold(stage.tenant, public_id, EndpointStatus.DISABLED)
    await stage.holding.hold(stage.tenant, public_id, EndpointStatus.DISABLED)

    (event,) = await stage.world.rows("SELECT body FROM event")
    assert orjson.loads(event["body"])["data"]["endpoint"] == {
        "id": public_id,
        "status": "disabled",
        "disabled_reason": "by_user",
        "pending_events": 0,
    }
    assert await stage.world.value("SELECT endpoint_id FROM delivery") == asked


@pytest.mark.parametrize("pays", [True, False])
async def test_a_change_of_status_that_comes_after_another_change_is_noticed_under_the_lock(
    stage: Stage, pays: bool
) -> None:
    seen = await stage.world.value("SELECT settings_at FROM endpoint WHERE endpoint_id = $1", stage.number)
    await pause(stage)
    paused = await stage.world.value("SELECT settings_at FROM endpoint WHERE endpoint_id = $1", stage.number)

    late = [
        await stage.holding.hold(stage.tenant, stage.public_id, EndpointStatus.DISABLED, versions={seen}),
        await stage.holding.enable(stage.tenant, stage.public_id, pays=pays, versions={seen}),
    ]
    status = await stage.world.value("SELECT status FROM endpoint WHERE endpoint_id = $1", stage.number)
    in_time = await stage.holding.enable(stage.tenant, stage.public_id, pays=pays, versions={seen, paused})

    assert (late, status, in_time) == ([Changed(), Changed()], "paused", stage.number)


@pytest.mark.parametrize("pays", [True, False])
async def test_of_two_who_enable_the_same_version_at_once_one_is_told_that_it_changed(stage: Stage, pays: bool) -> None:
    await pause(stage)
    seen = await stage.world.value("SELECT settings_at FROM endpoint WHERE endpoint_id = $1", stage.number)

    done = await asyncio.gather(
        *(stage.holding.enable(stage.tenant, stage.public_id, pays=pays, versions={seen}) for _ in range(4))
    )

    assert sorted(map(str, done)) == sorted(map(str, [stage.number, *[Changed()] * 3]))
