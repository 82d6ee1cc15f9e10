"""Single deliveries by hand on a real Postgres: once more, not at all, now."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

from collections.abc import AsyncIterator

import pytest

from dispatcher.ledger.wishes import Wish
from dispatcher.model.endpoint import EndpointStatus
from dispatcher.model.outcome import VerdictKind
from dispatcher.model.replay import Wanted, Work
from tests.rooms.holding_world import Stage, open_stage
from tests.rooms.test_api_harness import ledger_template, ledger_url


@pytest.fixture
async def stage(ledger_url: str) -> AsyncIterator[Stage]:
    async with open_stage(ledger_url) as made:
        yield made


async def ended(stage: Stage, kind: VerdictKind = VerdictKind.EXHAUSTED) -> int:
    """Return the number of a delivery that ended."""
    (delivery,) = await stage.accept(1)
    await stage.settle([delivery], kind)
    return delivery.delivery_id


async def waiting(stage: Stage) -> int:
    """Return the number of a delivery that waits for its second attempt."""
    number = await ended(stage, VerdictKind.RETRY)
    await stage.world.sql.execute("UPDATE delivery SET due_at = now() + interval '1 hour'")
    return number


@pytest.mark.parametrize("kind", [VerdictKind.DELIVERED, VerdictKind.EXHAUSTED])
async def test_a_delivery_that_ended_is_sent_again(stage: Stage, kind: VerdictKind) -> None:
    number = await ended(stage, kind)

    wish = await stage.wishes.resend(stage.tenant, number)
    twice = await stage.wishes.resend(stage.tenant, number)

    (claimed,) = await stage.process.claim()
    assert (wish, twice) == (Wish.GRANTED, Wish.OPEN)
    assert (claimed.delivery_id, claimed.attempts, claimed.attempts_before) == (number, 1, 1)
    assert claimed.body.startswith(b"{")


async def test_a_canceled_one_that_was_never_tried_begins_at_the_first_attempt(stage: Stage) -> None:
    (delivery,) = await stage.accept(1)
    await stage.settle([delivery], VerdictKind.PARKED)
    await stage.world.sql.execute("UPDATE delivery SET attempts = 0")
    await stage.wishes.cancel(stage.tenant, delivery.delivery_id)

    await stage.wishes.resend(stage.tenant, delivery.delivery_id)

    (claimed,) = await stage.process.claim()
    assert (claimed.attempts, claimed.attempts_before) == (0, 0)


async def test_nothing_is_sent_again_without_its_event_its_endpoint_or_its_owner(stage: Stage) -> None:
    number, other = await ended(stage), await ended(stage)
    stranger = stage.tenant._replace(environment="test")
    assert await stage.wishes.resend(stranger, number) is Wish.UNKNOWN
    assert await stage.wishes.resend(stage.tenant, 4_711_000) is Wish.UNKNOWN
    await stage.world.sql.execute("UPDATE attempt SET attempt_no = 30000 WHERE delivery_id = $1", other)
    assert await stage.wishes.resend(stage.tenant, other) is Wish.TOO_OFTEN
    await stage.holding.hold(stage.tenant, stage.public_id, EndpointStatus.PAUSED)
    assert await stage.wishes.resend(stage.tenant, number) is Wish.NOT_ENABLED
    await stage.world.sql.execute("UPDATE endpoint SET status = 'enabled'")
    await stage.world.sql.execute("DELETE FROM event")

    assert await stage.wishes.resend(stage.tenant, number) is Wish.EVENT_GONE
    assert await stage.world.value("SELECT count(*) FROM delivery") == 0


async def test_a_waiting_or_held_delivery_is_canceled_at_once(stage: Stage) -> None:
    first, held = await waiting(stage), await waiting(stage)
    await stage.world.sql.execute("UPDATE delivery SET held = true WHERE delivery_id = $1", held)

    wishes = [await stage.wishes.cancel(stage.tenant, number) for number in (first, held)]

    assert wishes == [Wish.GRANTED, Wish.GRANTED]
    assert await stage.world.value("SELECT count(*) FROM delivery") == 0
    rows = await stage.world.rows("SELECT attempt_no, outcome, event_type FROM attempt WHERE verdict = 'canceled'")
    assert [tuple(row) for row in rows] == [(2, None, "verification.completed")] * 2
    assert await stage.wishes.cancel(stage.tenant, first) is Wish.ENDED


async def test_one_that_a_process_has_is_canceled_when_it_comes_back_unfinished(stage: Stage) -> None:
    failing, succeeding = await stage.accept(2)
    steps = stage.steps()
    for delivery in (failing, succeeding, failing):
        assert await stage.wishes.cancel(stage.tenant, delivery.delivery_id) is Wish.GRANTED
    rows_before = await stage.world.rows("SELECT ctid::text, xmin::text FROM delivery")

    assert await steps.fulfil_wishes() == 0
    rows_after = await stage.world.rows("SELECT ctid::text, xmin::text FROM delivery")
    await stage.settle([failing], VerdictKind.RETRY)
    await stage.settle([succeeding])
    before = await steps.work()
    n_canceled = await steps.fulfil_wishes()

    assert (before, await steps.work()) == (Work(False, True), Work(False, False))
    assert rows_after == rows_before, "the owner finds its row by its place"
    assert n_canceled == 1
    assert await stage.world.value("SELECT count(*) FROM cancellation") == 0
    verdicts = await stage.world.rows("SELECT delivery_id, verdict FROM attempt WHERE verdict <> 'retry' ORDER BY 1")
    assert [tuple(row) for row in verdicts] == [
        (failing.delivery_id, "canceled"),
        (succeeding.delivery_id, "delivered"),
    ]


async def test_a_wish_of_the_time_before_does_not_cancel_what_a_replay_reopens(stage: Stage) -> None:
    over, under_way = await stage.accept(2)
    for delivery in (over, under_way):
        assert await stage.wishes.cancel(stage.tenant, delivery.delivery_id) is Wish.GRANTED
    await stage.settle([over])

    await stage.replay(Wanted.ALL)
    await stage.run()
    wishes = await stage.world.rows("SELECT delivery_id FROM cancellation")

    assert [row["delivery_id"] for row in wishes] == [under_way.delivery_id]
    assert await stage.steps().fulfil_wishes() == 0
    assert await stage.world.value("SELECT count(*) FROM delivery") == 2


async def test_a_wish_of_the_time_before_does_not_cancel_what_is_sent_again(stage: Stage) -> None:
    (delivery,) = await stage.accept(1)
    await stage.wishes.cancel(stage.tenant, delivery.delivery_id)
    await stage.settle([delivery])

    await stage.wishes.resend(stage.tenant, delivery.delivery_id)

    assert await stage.steps().fulfil_wishes() == 0
    assert len(await stage.process.claim()) == 1


async def test_a_waiting_delivery_is_tried_now_and_others_stay_as_they_are(stage: Stage) -> None:
    number, done = await waiting(stage), await ended(stage)
    held = await waiting(stage)
    (owned,) = await stage.accept(1)
    await stage.world.sql.execute("UPDATE delivery SET held = true WHERE delivery_id = $1", held)

    wishes = [await stage.wishes.retry(stage.tenant, one) for one in (number, done, held, owned.delivery_id)]

    assert wishes == [Wish.GRANTED, Wish.ENDED, Wish.HELD, Wish.GRANTED]
    assert [d.delivery_id for d in await stage.process.claim()] == [number]


@pytest.mark.parametrize("act", ["cancel", "retry"])
async def test_strangers_reach_no_delivery(stage: Stage, act: str) -> None:
    number = await waiting(stage)
    (owned,) = await stage.accept(1)
    stranger = stage.tenant._replace(environment="test")

    wishes = [await getattr(stage.wishes, act)(stranger, one) for one in (number, owned.delivery_id)]

    assert wishes == [Wish.UNKNOWN, Wish.UNKNOWN]
    assert await stage.world.value("SELECT count(*) FROM delivery") == 2
    assert await stage.world.value("SELECT count(*) FROM cancellation") == 0


async def test_a_replay_leaves_alone_what_was_sent_again_by_hand(stage: Stage) -> None:
    number = await ended(stage)
    await stage.wishes.resend(stage.tenant, number)

    await stage.replay(Wanted.ALL)
    await stage.drained()

    assert await stage.world.value("SELECT count(*) FROM delivery") == 1
    assert await stage.world.value("SELECT n_skipped FROM replay") == 1
