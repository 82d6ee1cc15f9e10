"""Buckets of tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.api import throttle
from dispatcher.api.throttle import Allowance, Buckets, Windows, rate_headers

ALLOWANCE = Allowance(per_second=20.0, burst=40)


def test_a_burst_passes_and_then_one_every_twentieth_of_a_second() -> None:
    buckets = Buckets(ALLOWANCE)

    first = [buckets.take("key", 100.0).is_allowed for _ in range(41)]
    soon = [buckets.take("key", 100.0 + n * 0.05).is_allowed for n in (0.5, 1.1, 1.5, 2.2)]

    assert first == [True] * 40 + [False]
    assert soon == [False, True, False, True]


@given(st.lists(st.floats(0, 0.2), max_size=200))
def test_no_window_ever_passes_more_than_burst_and_rate(gaps: list[float]) -> None:
    buckets = Buckets(ALLOWANCE)
    now, passed = 0.0, []
    for gap in gaps:
        now += gap
        if buckets.take("key", now).is_allowed:
            passed.append(now)

    for n, begin in enumerate(passed):
        for count, end in enumerate(passed[n:], start=1):
            assert count <= ALLOWANCE.burst + (end - begin) * ALLOWANCE.per_second + 1e-6


# In steps that floats hold exactly: the end of a window is not a matter of rounding.
@given(st.lists(st.integers(0, 160).map(lambda n: n / 8), max_size=60))
def test_a_window_passes_so_many_wherever_it_begins_and_no_fewer(gaps: list[float]) -> None:
    windows, now = Windows(10, 60.0), 0.0
    passed: list[float] = []
    for gap in gaps:
        now += gap
        wait = windows.wait("we_1", now)
        within = [one for one in passed if one > now - 60.0]
        assert (wait == 0.0) == (len(within) < 10)
        if wait == 0.0:
            windows.take("we_1", now)
            passed.append(now)


def test_a_window_is_forgotten_once_it_is_past_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "_MOST_WINDOWS", 2)
    windows = Windows(2, 60.0)
    for name, now in (("a", 0.0), ("b", 1.0), ("a", 10.0)):
        windows.take(name, now)

    waits = [windows.wait("c", now) for now in (20.0, 60.5, 61.0)]

    assert waits == [41.0, 0.5, 0.0]
    assert list(windows._taken) == ["a"]
    assert windows.wait("a", 61.0) == 0.0
    assert windows.wait("c", 70.0) == 0.0
    assert not windows._taken


def test_one_callers_flood_leaves_the_others_alone() -> None:
    buckets = Buckets(ALLOWANCE)
    for _ in range(100):
        buckets.take("loud", 0.0)

    assert buckets.take("quiet", 0.0).is_allowed


def test_a_token_given_back_can_be_taken_again_but_never_more_than_the_burst() -> None:
    buckets = Buckets(Allowance(1.0, 1))
    buckets.give_back("key", 0.0)

    assert buckets.take("key", 0.0).is_allowed
    buckets.give_back("key", 0.0)
    assert [buckets.take("key", 0.0).is_allowed for _ in range(2)] == [True, False]


def test_the_number_of_callers_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "_MOST_BUCKETS", 3)
    buckets = Buckets(Allowance(1.0, 1))

    for name in "abcd":
        buckets.take(name, 0.0)

    assert len(buckets._levels) == 3
    assert not buckets.take("d", 0.0).is_allowed
    assert buckets.take("a", 0.0).is_allowed


def test_a_client_reads_how_it_stands() -> None:
    buckets = Buckets(Allowance(2.0, 4))
    told = [rate_headers(buckets.take("key", 0.0), Allowance(2.0, 4)) for _ in range(5)]

    assert told[0] == {"RateLimit-Policy": '"key";q=4;w=2', "RateLimit": '"key";r=3;t=1'}
    assert told[4] == {"RateLimit-Policy": '"key";q=4;w=2', "RateLimit": '"key";r=0;t=2', "Retry-After": "1"}
