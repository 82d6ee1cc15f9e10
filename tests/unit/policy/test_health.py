"""Health: what outcomes say, how windows move, when a breaker opens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.model.outcome import OutcomeKind
from dispatcher.policy.health import FAILURES, OVERLOADS, Breaker, Sign, Window, share_of, sign_of
from tests.support.builders import an_outcome


@pytest.mark.parametrize("kind", list(OutcomeKind))
def test_every_outcome_says_something(kind: OutcomeKind) -> None:
    assert isinstance(sign_of(an_outcome(kind)), Sign)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_gateways_that_give_up_count_as_overload_and_as_failure(status: int) -> None:
    sign = sign_of(an_outcome(OutcomeKind.HTTP_5XX, status=status))

    assert sign in OVERLOADS
    assert sign in FAILURES


def test_too_many_requests_slows_down_and_breaks_nothing() -> None:
    sign = sign_of(an_outcome(OutcomeKind.HTTP_429, status=429))

    assert sign in OVERLOADS
    assert sign not in FAILURES


@given(most=st.integers(1, 200), steps=st.lists(st.booleans(), max_size=300))
def test_a_window_stays_between_one_and_its_bound(most: int, steps: list[bool]) -> None:
    window = Window(most)
    for now, good in enumerate(steps):
        if good:
            window.succeeded(window.size)
        else:
            window.suffered(0.5, now, now)
        assert 1 <= window.size <= most


def test_a_window_is_halved_once_for_requests_that_were_under_way_together() -> None:
    window = Window(64)

    for _ in range(64):
        window.suffered(0.5, 10.0, 10.5)

    assert window.size == 32
    window.suffered(0.5, 10.6, 11.0)
    assert window.size == 16


def test_a_window_grows_by_one_per_window_of_successes_and_only_when_used() -> None:
    window = Window(64)
    window.suffered(0.5, 0.0, 0.1)

    for _ in range(100):
        window.succeeded(3)
    assert window.size == 32
    for _ in range(32):
        window.succeeded(32)
    assert window.size == 33


def test_a_window_follows_its_bound() -> None:
    window = Window(64)

    window.set_most(20)
    assert window.size == 20
    window.set_most(64)
    assert window.size == 64
    window.set_most(0)
    assert window.size == 0


@pytest.mark.parametrize(("fine", "failed", "opens"), [(0, 9, False), (0, 10, True), (5, 5, True), (6, 5, False)])
def test_a_breaker_opens_at_ten_attempts_of_which_half_failed(fine: int, failed: int, *, opens: bool) -> None:
    breaker = Breaker()

    answers = [breaker.note(failed=False, now=0.0) for _ in range(fine)]
    answers += [breaker.note(failed=True, now=1.0) for _ in range(failed)]

    assert any(answers) is opens


def test_a_breaker_forgets_after_a_minute() -> None:
    breaker = Breaker()
    for _ in range(9):
        breaker.note(failed=True, now=0.0)

    assert not breaker.note(failed=True, now=61.0)


@given(most=st.integers(1, 500), n=st.integers(1, 20), host=st.integers(1, 10_000))
def test_the_shares_of_all_replicas_sum_up_to_the_cap(most: int, n: int, host: int) -> None:
    shares = [share_of(most, n_replicas=n, rank=rank, host_id=host) for rank in range(n)]

    assert sum(shares) == most
    assert max(shares) - min(shares) <= 1
