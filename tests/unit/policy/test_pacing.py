"""Pacing: never over rate and burst in any window, never starving."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.policy.pacing import Pacer

RATES = st.floats(0.1, 10_000.0)
BURSTS = st.integers(1, 500)
GAPS = st.lists(st.floats(0.0, 2.0), min_size=1, max_size=300)


@given(rate=RATES, burst=BURSTS, gaps=GAPS)
def test_no_window_holds_more_than_burst_and_rate_allow(rate: float, burst: int, gaps: list[float]) -> None:
    pacer = Pacer(rate, burst)
    now, granted = 0.0, []
    for gap in gaps:
        now += gap / rate
        if pacer.reserve(now) == 0.0:
            granted.append(now)

    for first, began in enumerate(granted):
        for last in range(first, len(granted)):
            assert last - first + 1 <= burst + rate * (granted[last] - began) + 1e-5


@given(rate=RATES, burst=BURSTS)
def test_a_full_burst_is_granted_at_once_and_the_next_waits(rate: float, burst: int) -> None:
    pacer = Pacer(rate, burst)

    answers = [pacer.reserve(1_000.0) for _ in range(burst + 1)]

    assert answers[:burst] == [0.0] * burst
    assert answers[burst] == pytest.approx(1 / rate, rel=1e-5)


@given(rate=RATES, burst=BURSTS, n=st.integers(1, 100), start=st.floats(0.0, 1e9))
def test_whoever_waits_as_long_as_told_is_served(rate: float, burst: int, n: int, start: float) -> None:
    pacer = Pacer(rate, burst)
    now, times = start, []
    for _ in range(burst + n):
        wait = pacer.reserve(now)
        if wait:
            now += wait
            assert pacer.reserve(now) == 0.0
        times.append(now)

    assert all(later >= earlier for earlier, later in pairwise(times))
    rounding = (burst + n) * 4 * math.ulp(times[-1])
    assert times[-1] - times[0] <= n / rate * 1.001 + rounding


@given(rate=RATES, burst=BURSTS)
def test_looking_takes_nothing(rate: float, burst: int) -> None:
    pacer = Pacer(rate, burst)

    for _ in range(burst):
        assert pacer.peek(7.0) == 0.0
        assert pacer.reserve(7.0) == 0.0

    assert pacer.peek(7.0) == pacer.reserve(7.0) > 0.0
