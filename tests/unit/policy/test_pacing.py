"""Pacing: the promise of a rate and a burst is kept, and what is granted dies in time."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.policy.pacing import Grants, Purse, grants_of, limits_fault

RATES = st.floats(0.1, 10_000.0)
BURSTS = st.integers(1, 100_000)


@given(rate=RATES, burst=BURSTS)
def test_what_is_granted_and_used_late_stays_within_the_promise(rate: float, burst: int) -> None:
    grants = grants_of(rate, burst)

    granted_per_second = 1e6 / grants.interval_us
    assert grants.burst >= 1
    assert granted_per_second <= rate * (1 + 1e-9)
    if burst == 1:
        # One at a time: the earliest use of one and the latest of the one before are an interval apart.
        assert grants.interval_us / 1e6 - grants.token_seconds >= 1 / rate * (1 - 1e-9)
        return
    # Uses in a window of W are grants in a window of W + token_seconds, for any W.
    assert grants.burst + granted_per_second * grants.token_seconds <= burst + 1e-6


@given(rate=RATES, burst=st.integers(2, 100_000))
def test_a_burst_of_at_least_half_is_left(rate: float, burst: int) -> None:
    assert grants_of(rate, burst).burst >= burst // 2


def test_the_default_limits_are_granted_as_designed() -> None:
    assert grants_of(100.0, 100) == Grants(10_000, 50, 0.495)
    assert grants_of(1.0, 1) == Grants(1_100_000, 1, 0.1)


@given(rate=RATES, burst=BURSTS)
def test_limits_that_are_refused_become_good_with_the_burst_that_is_named(rate: float, burst: int) -> None:
    fault = limits_fault(rate, burst)

    if fault is None:
        assert grants_of(rate, burst).token_seconds >= 0.02
    else:
        needed = int(fault.rpartition(" ")[2])
        assert needed > burst
        assert limits_fault(rate, needed) is None


@given(coins=st.lists(st.tuples(st.integers(0, 5), st.floats(0.0, 10.0)), max_size=20), now=st.floats(0.0, 10.0))
def test_a_purse_gives_each_living_token_once_and_no_dead_one(coins: list[tuple[int, float]], now: float) -> None:
    purse = Purse()
    for n, dies_at in sorted(coins, key=lambda coin: coin[1]):
        purse.add(n, dies_at)

    taken = 0
    while purse.holds(now):
        assert purse.take(now)
        taken += 1

    assert taken == sum(n for n, dies_at in coins if dies_at > now)
    assert not purse.take(now)
    assert purse.count() == 0


def test_the_dead_are_counted_when_thrown_away() -> None:
    purse = Purse()
    purse.add(3, 1.0)
    purse.add(2, 2.0)

    assert (purse.discard(1.5), purse.count()) == (3, 2)
    purse.clear()
    assert not purse.holds(0.0)
