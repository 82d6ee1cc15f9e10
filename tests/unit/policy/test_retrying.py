"""What follows an attempt: the schedule, Retry-After, and what costs nothing."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.model.outcome import FREE_OUTCOMES, Outcome, OutcomeKind, VerdictKind
from dispatcher.policy.retrying import (
    LIVE_SCHEDULE,
    LONGEST_WAIT_SECONDS,
    TEST_SCHEDULE,
    check_schedule,
    judge,
    parse_retry_after,
    preview,
)

NOW = 1_793_697_900.0
SCHEDULES = st.lists(st.floats(0.0, 86_400.0), min_size=1, max_size=24)
FAILURES = sorted(set(OutcomeKind) - FREE_OUTCOMES - {OutcomeKind.DELIVERED, OutcomeKind.HTTP_410})
JITTERS = st.floats(0.9, 1.1)


def failed(
    kind: OutcomeKind = OutcomeKind.HTTP_5XX, *, status: int | None = 500, retry_after: bytes | None = None
) -> Outcome:
    """Return a failed outcome."""
    return Outcome(kind, 0.1, status, retry_after=retry_after)


@given(kind=st.sampled_from(FAILURES), schedule=SCHEDULES, jitter=JITTERS, before=st.integers(0, 30))
def test_a_failure_is_tried_again_as_scheduled_until_the_schedule_ends(
    kind: OutcomeKind, schedule: list[float], jitter: float, before: int
) -> None:
    verdict = judge(failed(kind), before, schedule, NOW, jitter)

    assert verdict.attempts == before + 1
    if before + 1 >= len(schedule):
        assert (verdict.kind, verdict.retry_in_seconds) == (VerdictKind.EXHAUSTED, None)
    else:
        assert verdict.kind is VerdictKind.RETRY
        assert verdict.retry_in_seconds == pytest.approx(schedule[before + 1] * jitter)


@given(schedule=SCHEDULES, jitter=JITTERS, before=st.integers(0, 30_000), made=st.integers(0, 30))
def test_sent_again_a_delivery_goes_on_counting_and_begins_its_schedule_anew(
    schedule: list[float], jitter: float, before: int, made: int
) -> None:
    first_time = judge(failed(), made, schedule, NOW, jitter)

    again = judge(failed(), before + made, schedule, NOW, jitter, attempts_before=before)

    assert again == first_time._replace(attempts=before + made + 1)


@given(asked=st.integers(0, 10**9), schedule=SCHEDULES, jitter=JITTERS, status=st.sampled_from([429, 500, 503]))
def test_no_attempt_comes_before_retry_after_nor_later_than_the_cap(
    asked: int, schedule: list[float], jitter: float, status: int
) -> None:
    verdict = judge(failed(status=status, retry_after=str(asked).encode()), 0, schedule, NOW, jitter)

    if verdict.kind is VerdictKind.RETRY:
        assert verdict.retry_in_seconds is not None
        assert verdict.retry_in_seconds >= min(asked, LONGEST_WAIT_SECONDS)
        assert verdict.retry_in_seconds <= LONGEST_WAIT_SECONDS * 1.1
    assert verdict.endpoint_pause_seconds == (min(asked, LONGEST_WAIT_SECONDS) if status != 500 else 0.0)


@given(schedule=SCHEDULES, before=st.integers(0, 23))
def test_success_ends_it(schedule: list[float], before: int) -> None:
    verdict = judge(Outcome(OutcomeKind.DELIVERED, 0.1, 204), before, schedule, NOW, 1.0)

    assert (verdict.kind, verdict.attempts, verdict.retry_in_seconds) == (VerdictKind.DELIVERED, before + 1, None)


def test_410_closes_the_endpoint() -> None:
    verdict = judge(failed(OutcomeKind.HTTP_410, status=410), 0, LIVE_SCHEDULE, NOW, 1.0)

    assert (verdict.kind, verdict.attempts) == (VerdictKind.GONE, 1)


@given(kind=st.sampled_from(sorted(FREE_OUTCOMES)), before=st.integers(0, 30), schedule=SCHEDULES)
def test_what_is_our_own_doing_costs_no_attempt(kind: OutcomeKind, before: int, schedule: list[float]) -> None:
    verdict = judge(failed(kind, status=None), before, schedule, NOW, 1.0)

    assert verdict.attempts == before
    assert verdict.kind is VerdictKind.INTERRUPTED
    assert verdict.retry_in_seconds is not None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"120", 120.0),
        (b" 7 ", 7.0),
        (b"0", 0.0),
        (b"9" * 40, LONGEST_WAIT_SECONDS),
        (b"Tue, 03 Nov 2026 11:26:00 GMT", 60.0),
        (b"Tuesday, 03-Nov-26 11:26:00 GMT", 60.0),
        (b"Tue Nov  3 11:26:00 2026", 60.0),
        (b"Tue, 03 Nov 2020 09:25:59 GMT", 0.0),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_WAIT_SECONDS),
        (b"-1", None),
        (b"1.5", None),
        (b"1e400", None),
        (b"120, 130", None),
        (b"", None),
        (b"soon", None),
        (b"\xff\xfe", None),
        ("١٢".encode(), None),
        (b"Tue, 99 Nov 2026 99:99:99 GMT", None),
        (b"1" * 65, None),
        (b"\x1c7\x1f", None),
        (b"7\x00", None),
        (b"\t7 ", 7.0),
    ],
)
def test_retry_after_is_read_or_left_alone(value: bytes, seconds: float | None) -> None:
    # 1793704... is Tue, 03 Nov 2026 11:25:00 UTC, worked out here and not by the code under test.
    assert parse_retry_after(value, 1_793_705_100.0) == seconds


@pytest.fixture
def _far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put this machine fourteen hours ahead of UTC."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_far_east")
@pytest.mark.parametrize(
    "value", [b"Tue, 03 Nov 2026 11:26:00 GMT", b"Tuesday, 03-Nov-26 11:26:00 GMT", b"Tue Nov  3 11:26:00 2026"]
)
def test_dates_are_utc_whatever_the_zone_of_the_machine(value: bytes) -> None:
    assert parse_retry_after(value, 1_793_705_100.0) == 60.0


@given(st.binary(max_size=80))
def test_no_header_breaks_the_reading(value: bytes) -> None:
    seconds = parse_retry_after(value, NOW)

    assert seconds is None or 0.0 <= seconds <= LONGEST_WAIT_SECONDS


def test_the_schedules_are_the_published_ones() -> None:
    assert preview(LIVE_SCHEDULE)[-1] == pytest.approx(75.6 * 3_600, rel=0.001)
    assert (len(LIVE_SCHEDULE), len(TEST_SCHEDULE)) == (10, 4)
    assert check_schedule(LIVE_SCHEDULE) == check_schedule(TEST_SCHEDULE) == []


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ([], "1 to 24"),
        ([1.0] * 25, "1 to 24"),
        ([0.0, -1.0], "0 or more"),
        ([float("nan")], "0 or more"),
        ([86_401.0], "longer than a day"),
        ([86_400.0] * 9, "8 days"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_in_words(schedule: list[float], told: str) -> None:
    assert any(told in fault for fault in check_schedule(schedule))
