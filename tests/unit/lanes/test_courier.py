"""One delivery, one attempt, one settlement: every way it can go."""

import asyncio
from collections.abc import Callable

import pytest

from dispatcher.lanes.courier import Courier, parked
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.endpoint import EndpointStatus, Target
from dispatcher.model.errors import SealBroken, Unavailable
from dispatcher.model.outcome import Outcome, OutcomeKind, VerdictKind
from tests.support.builders import a_delivery, a_target, an_outcome

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]


class Sender:
    """Answers with one outcome, after a while."""

    def __init__(self, outcome: Outcome, seconds: float = 0.0) -> None:
        self.outcome, self.seconds = outcome, seconds
        self.asked: list[tuple[Target, Delivery, int]] = []

    async def send(self, target: Target, delivery: Delivery, attempt_no: int) -> Outcome:
        self.asked.append((target, delivery, attempt_no))
        await asyncio.sleep(self.seconds)
        return self.outcome


class Directory:
    """Knows one target, or why it does not."""

    def __init__(self, answer: Target | Exception | None) -> None:
        self.answer = answer

    async def target(self, endpoint_id: int) -> Target | None:
        assert endpoint_id == 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Meter:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Settlement] = []

    def attempted(self, delivery: Delivery, target: Target | None, settlement: Settlement) -> None:
        assert settlement.delivery is delivery
        del target
        self.told.append(settlement)


def a_courier(
    answer: Target | Exception | None, outcome: Outcome, *, seconds: float = 0.0
) -> tuple[Courier, Sender, Meter]:
    """Return a courier with its fakes."""
    sender, meter = Sender(outcome, seconds), Meter()
    jitter: Callable[[], float] = lambda: 1.0  # noqa: E731 - one line says it
    return Courier(sender=sender, directory=Directory(answer), meter=meter, jitter=jitter), sender, meter


async def test_a_success_names_the_keys_that_signed() -> None:
    target, delivery = a_target(), a_delivery(attempts=2)
    courier, sender, meter = a_courier(target, an_outcome())

    settlement = await courier.carry(delivery)

    assert sender.asked == [(target, delivery, 3)]
    assert (settlement.verdict.kind, settlement.verdict.attempts) == (VerdictKind.DELIVERED, 3)
    assert (settlement.attempt_no, settlement.key_ids) == (3, (7,))
    assert meter.told == [settlement]


async def test_a_delivery_that_was_sent_again_gets_its_whole_schedule() -> None:
    courier, sender, _ = a_courier(a_target(schedule=(0.0, 42.0)), an_outcome(OutcomeKind.HTTP_5XX, status=500))

    first = await courier.carry(a_delivery(attempts=10, attempts_before=10))
    assert first.last_attempt == 12
    second = await courier.carry(a_delivery(attempts=11, attempts_before=10))

    assert [attempt_no for _, _, attempt_no in sender.asked] == [11, 12]
    assert (first.verdict.kind, first.verdict.attempts, first.verdict.retry_in_seconds) == (VerdictKind.RETRY, 11, 42.0)
    assert (second.verdict.kind, second.verdict.attempts) == (VerdictKind.EXHAUSTED, 12)


async def test_a_failure_follows_the_endpoints_own_schedule() -> None:
    courier, _, _ = a_courier(a_target(schedule=(0.0, 42.0)), an_outcome(OutcomeKind.HTTP_5XX, status=500))

    first = await courier.carry(a_delivery())
    last = await courier.carry(a_delivery(attempts=1))

    assert (first.verdict.kind, first.verdict.retry_in_seconds) == (VerdictKind.RETRY, 42.0)
    assert last.verdict.kind is VerdictKind.EXHAUSTED


@pytest.mark.parametrize(
    ("answer", "kind", "retry_in"),
    [
        (a_target(status=EndpointStatus.PAUSED), VerdictKind.HELD, 0.0),
        (a_target(status=EndpointStatus.DISABLED), VerdictKind.HELD, 0.0),
        (a_target(status=EndpointStatus.DELETED), VerdictKind.CANCELED, None),
        (None, VerdictKind.CANCELED, None),
        (Unavailable("Postgres is away"), VerdictKind.PARKED, 1.0),
    ],
    ids=["paused", "disabled", "deleted", "unknown", "directory away"],
)
async def test_nothing_is_sent_where_nothing_may_be_sent(
    answer: Target | Exception | None, kind: VerdictKind, retry_in: float | None
) -> None:
    courier, sender, _ = a_courier(answer, an_outcome())

    settlement = await courier.carry(a_delivery(attempts=2))

    assert sender.asked == []
    assert settlement.outcome is None
    assert (settlement.verdict.kind, settlement.verdict.retry_in_seconds) == (kind, retry_in)
    assert settlement.verdict.attempts == 2


async def test_a_secret_that_does_not_open_costs_the_endpoint_nothing() -> None:
    courier, sender, _ = a_courier(SealBroken("endpoint_secret:we_1:7"), an_outcome())

    settlement = await courier.carry(a_delivery(attempts=1))

    assert sender.asked == []
    assert settlement.outcome is not None
    assert settlement.outcome.kind is OutcomeKind.INTERNAL_ERROR
    assert (settlement.verdict.kind, settlement.verdict.attempts) == (VerdictKind.INTERRUPTED, 1)
    assert (settlement.verdict.retry_in_seconds or 0.0) > 1.0


async def test_an_attempt_that_is_cut_is_settled_as_interrupted_and_costs_nothing() -> None:
    courier, _, _ = a_courier(a_target(), an_outcome(), seconds=60.0)
    task = asyncio.get_running_loop().create_task(courier.carry(a_delivery(attempts=1)))
    await asyncio.sleep(1.0)

    task.cancel()
    settlement = await task

    assert settlement.outcome is not None
    assert settlement.outcome.kind is OutcomeKind.INTERRUPTED
    assert (settlement.verdict.kind, settlement.verdict.attempts) == (VerdictKind.INTERRUPTED, 1)
    assert settlement.verdict.retry_in_seconds == 0.0


async def test_parking_keeps_the_count_of_attempts() -> None:
    settlement = parked(a_delivery(attempts=4), 2.5, 100.0)

    assert (settlement.verdict.kind, settlement.verdict.attempts) == (VerdictKind.PARKED, 4)
    assert (settlement.outcome, settlement.verdict.retry_in_seconds) == (None, 2.5)


async def test_an_outcome_that_cannot_be_counted_is_settled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fall(*_: object) -> None:
        raise ValueError

    courier, sender, meter = a_courier(a_target(), an_outcome())
    monkeypatch.setattr(meter, "attempted", fall)

    settlement = await courier.carry(a_delivery())

    assert settlement.verdict.kind is VerdictKind.DELIVERED
    assert len(sender.asked) == 1


async def test_a_delivery_whose_endpoint_moved_goes_back_instead_of_to_the_new_host_on_the_old_ones_tokens() -> None:
    courier, sender, _ = a_courier(a_target(host_id=2, hostname="moved.example"), an_outcome())

    settlement = await courier.carry(a_delivery(host_id=1, attempts=2))

    assert sender.asked == []
    assert (settlement.outcome, settlement.verdict.kind) == (None, VerdictKind.PARKED)
    assert (settlement.verdict.attempts, settlement.verdict.retry_in_seconds) == (2, 1.0)
