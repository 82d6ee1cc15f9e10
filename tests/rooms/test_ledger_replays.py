"""Replays on a real Postgres: what they choose, where they stand, and that no event is passed without its delivery."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import asyncpg
import pytest

from dispatcher.kit import clock
from dispatcher.ledger import replay_steps, replays, wishes
from dispatcher.ledger.connections import HOT, connect
from dispatcher.ledger.endpoints import EndpointLedger
from dispatcher.ledger.forgetting import Forgetting, Old
from dispatcher.ledger.lists import ListLedger, LogFilter
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.delivery import Delivery, DeliveryState
from dispatcher.model.endpoint import EndpointStatus
from dispatcher.model.outcome import VerdictKind
from dispatcher.model.replay import Replay, ReplayState, Selection, Tally, Wanted
from tests.rooms.holding_world import NOTHING, Stage, open_stage, repr_bytes
from tests.rooms.test_api_harness import DEFAULT_LIMITS, a_deed, ledger_template, ledger_url


@pytest.fixture
async def stage(ledger_url: str) -> AsyncIterator[Stage]:
    async with open_stage(ledger_url) as made:
        yield made


async def history(stage: Stage) -> dict[str, Delivery]:
    """Leave one delivery of every kind behind; a fifth event came while nobody subscribed."""
    made = dict(zip(("delivered", "exhausted", "canceled", "waiting"), await stage.accept(4), strict=True))
    await stage.settle([made["delivered"]])
    await stage.settle([made["exhausted"]], VerdictKind.EXHAUSTED)
    await stage.settle([made["canceled"], made["waiting"]], VerdictKind.RETRY)
    await stage.wishes.cancel(stage.tenant, made["canceled"].delivery_id)
    await stage.world.sql.execute("UPDATE delivery SET due_at = now() + interval '1 hour'")
    await stage.world.sql.execute("UPDATE endpoint SET events = '{check.completed}'")
    await stage.accept(1)
    await stage.world.sql.execute("UPDATE endpoint SET events = '{*}'")
    return made


@pytest.mark.parametrize(
    ("wanted", "again", "n_new"),
    [
        (Wanted.FAILED, {"exhausted", "canceled"}, 0),
        (Wanted.MISSING, set(), 1),
        (Wanted.ALL, {"delivered", "exhausted", "canceled"}, 1),
    ],
)
async def test_a_replay_makes_what_was_asked_for_and_nothing_else(
    stage: Stage, wanted: Wanted, again: set[str], n_new: int
) -> None:
    made = await history(stage)
    numbers = {made[name].delivery_id for name in again}

    job = await stage.replay(wanted)
    await stage.drained()
    claimed = await stage.process.claim()

    assert job.expected == Tally(len(again) + n_new, is_minimum=False)
    assert {d.delivery_id for d in claimed} & {d.delivery_id for d in made.values()} == numbers
    assert len(claimed) == len(again) + n_new
    found = await stage.replays.find(stage.tenant, job.public_id)
    assert found is not None
    # The sixth is the news that a delivery was exhausted, for whom asks for it.
    assert (found.state, found.n_made, found.n_scanned) == (ReplayState.DONE, len(again) + n_new, 6)
    assert found.n_skipped == 5 - len(again) - n_new


@pytest.mark.parametrize("wanted", [Wanted.MISSING, Wanted.ALL])
async def test_a_ping_to_another_endpoint_is_missed_by_nobody(stage: Stage, wanted: Wanted) -> None:
    await stage.world.sql.execute("UPDATE endpoint SET events = '{check.completed}'")
    await stage.accept(1, type="webhook.ping")
    await stage.world.sql.execute("UPDATE endpoint SET events = '{*}'")
    await stage.settle(await stage.accept(1, type="webhook.ping"))

    assert (await stage.replays.count(stage.number, Selection(wanted))).n == (wanted is Wanted.ALL)


async def test_a_replayed_delivery_goes_on_counting_and_keeps_its_place_in_the_log(stage: Stage) -> None:
    (delivery,) = await stage.accept(1)
    await stage.settle([delivery._replace(attempts=3)], VerdictKind.EXHAUSTED)
    log = ListLedger(stage.pool)
    (before,) = (await log.deliveries(stage.tenant, stage.number, limit=10)).deliveries
    await stage.replay(Wanted.FAILED)
    await stage.drained()

    (open_again,) = (await log.deliveries(stage.tenant, stage.number, limit=10)).deliveries
    (claimed,) = await stage.process.claim()
    await stage.settle([claimed])
    (ended,) = (await log.deliveries(stage.tenant, limit=10)).deliveries

    assert (claimed.delivery_id, claimed.attempts, claimed.attempts_before) == (delivery.delivery_id, 4, 4)
    assert claimed.created_at == delivery.created_at
    assert {before.place, open_again.place, ended.place} == {before.place}
    assert [one.state for one in (before, open_again, ended)] == ["exhausted", "retrying", "delivered"]
    assert (before.attempts, ended.attempts) == (4, 5)
    exhausted = LogFilter(states=(DeliveryState.EXHAUSTED,))
    assert (await log.deliveries(stage.tenant, stage.number, wanted=exhausted, limit=10)).deliveries == []


async def test_a_claim_and_an_adoption_know_the_attempts_made_before(stage: Stage) -> None:
    (delivery,) = await stage.accept(1)
    await stage.settle([delivery], VerdictKind.EXHAUSTED)
    await stage.wishes.resend(stage.tenant, delivery.delivery_id)

    (claimed,) = await stage.process.claim()
    stage.process.replica.held.clear()
    (adopted,) = await stage.process.claims.adopt()

    assert [(d.attempts, d.attempts_before) for d in (claimed, adopted)] == [(1, 1), (1, 1)]


async def test_what_was_sent_again_with_success_has_not_failed_any_more(stage: Stage) -> None:
    (delivery,) = await stage.accept(1)
    await stage.settle([delivery], VerdictKind.EXHAUSTED)
    await stage.replay(Wanted.FAILED)
    await stage.drained()
    await stage.deliver_all()

    assert await stage.replays.count(stage.number, Selection(Wanted.FAILED)) == NOTHING


async def test_a_range_is_about_when_events_happened_and_types_about_subscriptions(stage: Stage) -> None:
    now = clock.utcnow()
    for days in (3, 2, 1):
        await stage.settle(await stage.accept(1, occurred_at=now - dt.timedelta(days=days)))
    await stage.settle(await stage.accept(1, type="check.completed", occurred_at=now - dt.timedelta(days=2)))
    since, until = now - dt.timedelta(days=2), now - dt.timedelta(days=1)

    async def count(**selection: Any) -> int:
        chosen = Selection(Wanted.ALL, **selection)
        return (await stage.replays.count(stage.number, chosen)).n

    assert await count() == 4
    assert await count(since=since) == 3
    assert await count(until=until) == 3
    assert await count(since=since, until=until) == 2
    assert await count(since=since, types=("verification.*",)) == 2
    assert await count(since=since, types=("check.completed", "check.*")) == 1
    assert await count(since=until + dt.timedelta(seconds=1)) == 0


async def test_events_that_come_in_after_it_was_made_are_not_replayed(stage: Stage) -> None:
    await stage.settle(await stage.accept(1))
    job = await stage.replay(Wanted.ALL)
    before = await stage.steps().work()
    await stage.settle(await stage.accept(2))

    await stage.drained()

    assert (before.has_jobs, (await stage.steps().work()).has_jobs) == (True, False)

    found = await stage.replays.find(stage.tenant, job.public_id)
    assert found is not None
    assert found.n_made == 1


async def test_many_events_are_passed_in_stretches_and_none_twice(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_steps, "EVENTS_PER_STEP", 7)
    for _ in range(3):
        await stage.settle(await stage.accept(10))
    await stage.replay(Wanted.ALL)

    await stage.drained()
    await stage.deliver_all()

    assert await stage.attempts() == dict.fromkeys(await stage.event_ids(), 2)


async def test_one_step_makes_no_more_than_its_share_and_stands_behind_the_last_one(stage: Stage) -> None:
    await stage.world.sql.execute("UPDATE endpoint SET rate_limit = 12")
    await stage.settle(await stage.accept(8))
    await stage.replay(Wanted.ALL)
    await stage.age()
    steps = stage.steps()

    seen = []
    for _ in range(3):
        await steps.step()
        seen.append(tuple((await stage.world.rows("SELECT n_made, n_scanned FROM replay"))[0]))
        await stage.world.sql.execute("UPDATE replay SET ready_at = now()")

    # Six per second: three per step.
    assert seen == [(3, 3), (6, 6), (8, 8)]


async def test_two_runners_never_take_the_same_step(stage: Stage) -> None:
    await stage.world.sql.execute("UPDATE endpoint SET rate_limit = 20")
    await stage.settle(await stage.accept(100))
    await stage.replay(Wanted.ALL)
    await stage.age()

    runners = [stage.steps() for _ in range(3)]
    while await stage.world.value("SELECT n_made FROM replay") < 100:
        await stage.world.sql.execute("UPDATE replay SET ready_at = now()")
        await asyncio.gather(*(runner.step() for runner in runners))
    await stage.deliver_all()

    assert await stage.attempts() == dict.fromkeys(await stage.event_ids(), 2)


async def test_a_step_that_is_cut_short_leaves_the_job_where_it_stood(stage: Stage) -> None:
    await stage.settle(await stage.accept(3))
    await stage.replay(Wanted.ALL)

    class Cut(Exception):
        pass

    with patch("dispatcher.kit.failpoints.reach", side_effect=Cut), pytest.raises(Cut):
        await stage.steps().step()
    (left,) = await stage.world.rows("SELECT n_made, at_xid::text, (SELECT count(*) FROM delivery) FROM replay")
    await stage.drained()
    await stage.deliver_all()

    assert tuple(left) == (0, "0", 0)
    assert await stage.attempts() == dict.fromkeys(await stage.event_ids(), 2)


async def two_jobs_at_once(stage: Stage) -> int:
    """Let a drain step while a replay of the same endpoint has stepped and not committed; return how many rows came."""
    await stage.holding.hold(stage.tenant, stage.public_id, EndpointStatus.PAUSED)
    await stage.accept(1)
    await stage.holding.enable(stage.tenant, stage.public_id)
    await stage.replay(Wanted.MISSING)
    await stage.age()
    other = await connect(stage.world.url, "other", planning=HOT)
    slow = other.transaction()
    await slow.start()
    await StepLike(other).step()
    await stage.steps().step()
    await slow.commit()
    await other.close()
    await stage.drained()
    n_rows: int = await stage.world.value("SELECT count(*) FROM delivery")
    return n_rows


class StepLike:
    """A runner in the middle of its transaction."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._ledger = replay_steps.StepLedger.__new__(replay_steps.StepLedger)
        self._ledger._settling_seconds = 8.0

    async def step(self) -> None:
        """Take a step and do not commit."""
        assert await self._ledger._step(self._connection) is not None


async def test_two_jobs_of_one_endpoint_never_make_two_deliveries_of_one_event(stage: Stage) -> None:
    assert await two_jobs_at_once(stage) == 1


async def test_without_the_endpoints_lock_they_would(stage: Stage) -> None:
    guard = "OF r, e SKIP LOCKED"
    assert guard in STATEMENTS["pick_replay"]

    with patch.dict(STATEMENTS, {"pick_replay": STATEMENTS["pick_replay"].replace(guard, "OF r SKIP LOCKED")}):
        assert await two_jobs_at_once(stage) == 2


async def test_an_endpoint_has_one_replay_at_a_time(stage: Stage) -> None:
    first = await stage.replay(Wanted.ALL)

    second = await stage.replays.create(
        a_deed(stage.tenant),
        stage.public_id,
        Selection(Wanted.ALL),
        rate=None,
        expected=NOTHING,
        show=repr_bytes,
    )
    await stage.replays.cancel(a_deed(stage.tenant), first.public_id)
    third = await stage.replay(Wanted.ALL)

    assert second == replays.Running(first.public_id)
    assert third.public_id != first.public_id


async def test_a_held_endpoint_gets_no_replay_and_one_that_runs_waits(stage: Stage) -> None:
    await stage.settle(await stage.accept(1))
    await stage.replay(Wanted.ALL)
    await stage.holding.hold(stage.tenant, stage.public_id, EndpointStatus.PAUSED)

    refused = await stage.replays.create(
        a_deed(stage.tenant),
        stage.public_id,
        Selection(Wanted.ALL),
        rate=None,
        expected=NOTHING,
        show=repr_bytes,
    )
    await stage.run(most=3)
    (waiting,) = await stage.world.rows("SELECT state, n_made FROM replay")
    await stage.holding.enable(stage.tenant, stage.public_id)
    await stage.drained()

    assert refused == replays.NotEnabled(EndpointStatus.PAUSED)
    assert tuple(waiting) == ("running", 0)
    assert await stage.world.value("SELECT n_made FROM replay WHERE kind = 'replay'") == 1


async def test_rates_are_half_of_what_the_endpoint_takes_or_what_was_asked_up_to_the_whole(stage: Stage) -> None:
    await stage.world.sql.execute("UPDATE host SET rate = 40")

    async def rate_of(asked: float | None) -> float:
        made = await stage.replays.create(
            a_deed(stage.tenant),
            stage.public_id,
            Selection(Wanted.ALL),
            rate=asked,
            expected=NOTHING,
            show=repr_bytes,
        )
        assert isinstance(made, Replay)
        await stage.replays.cancel(a_deed(stage.tenant), made.public_id)
        return made.rate

    assert [await rate_of(asked) for asked in (None, 5.0, 1_000.0)] == [20.0, 5.0, 40.0]
    await stage.world.sql.execute("UPDATE endpoint SET rate_limit = 1.5")
    assert [await rate_of(asked) for asked in (None, 0.5, 1_000.0)] == [1.0, 0.5, 1.5]


async def test_a_canceled_replay_makes_nothing_more_and_what_ended_stays_so(stage: Stage) -> None:
    await stage.settle(await stage.accept(2))
    job = await stage.replay(Wanted.ALL)

    canceled = await stage.replays.cancel(a_deed(stage.tenant), job.public_id)
    await stage.run()
    done = await stage.replay(Wanted.ALL)
    await stage.drained()
    too_late = await stage.replays.cancel(a_deed(stage.tenant), done.public_id)

    assert canceled is not None
    assert (canceled.state, canceled.n_made) == (ReplayState.CANCELED, 0)
    assert too_late is not None
    assert (too_late.state, too_late.n_made) == (ReplayState.DONE, 2)


async def test_canceling_a_drain_cancels_what_is_still_held(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wishes, "ROWS_AT_ONCE", 2)
    for delivery in await stage.accept(3):
        await stage.settle([delivery], VerdictKind.RETRY)
    await stage.holding.hold(stage.tenant, stage.public_id, EndpointStatus.PAUSED)
    await stage.accept(2)
    await stage.holding.enable(stage.tenant, stage.public_id)
    (drain,) = await stage.replays.page(stage.tenant, limit=10)

    await stage.replays.cancel(a_deed(stage.tenant), drain.public_id)
    await stage.run()

    assert await stage.world.value("SELECT count(*) FROM delivery") == 0
    assert await stage.world.value("SELECT count(*) FROM attempt WHERE verdict = 'canceled'") == 3


async def test_jobs_are_listed_newest_first_and_never_to_strangers(stage: Stage) -> None:
    other = await stage.endpoint()
    first = await stage.replay(Wanted.ALL)
    await stage.holding.hold(stage.tenant, other[1], EndpointStatus.PAUSED)
    await stage.holding.enable(stage.tenant, other[1])
    stranger = stage.tenant._replace(environment="test")

    page = await stage.replays.page(stage.tenant, limit=10)

    assert [job.endpoint for job in page] == [other[1], stage.public_id]
    assert await stage.replays.page(stage.tenant, below=page[0].replay_id, limit=10) == [page[1]]
    assert await stage.replays.page(stage.tenant, endpoint=other[1], limit=10) == [page[0]]
    assert await stage.replays.page(stranger, limit=10) == []
    assert await stage.replays.find(stranger, first.public_id) is None
    assert await stage.replays.cancel(a_deed(stranger), first.public_id) is None
    assert await stage.world.value("SELECT count(*) FROM replay WHERE state = 'running'") == 2


async def test_jobs_are_forgotten_ninety_days_after_they_ended(stage: Stage) -> None:
    old, young = await stage.replay(Wanted.ALL), (await stage.endpoint())[1]
    await stage.replays.cancel(a_deed(stage.tenant), old.public_id)
    await stage.world.sql.execute("UPDATE replay SET ended_at = now() - interval '91 days'")
    await stage.holding.hold(stage.tenant, young, EndpointStatus.PAUSED)
    await stage.holding.enable(stage.tenant, young)

    await Forgetting(stage.process.links["control"]).forget(Old.REPLAYS)

    assert [job.endpoint for job in await stage.replays.page(stage.tenant, limit=10)] == [young]


async def test_deleting_an_endpoint_ends_its_replay(stage: Stage) -> None:
    await stage.settle(await stage.accept(1))
    job = await stage.replay(Wanted.ALL)

    await EndpointLedger(stage.pool, default_limits=DEFAULT_LIMITS).delete(a_deed(stage.tenant), stage.public_id)
    await stage.run()

    found = await stage.replays.find(stage.tenant, job.public_id)
    assert found is not None
    assert (found.state, found.n_made) == (ReplayState.CANCELED, 0)
