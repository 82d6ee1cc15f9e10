"""What to do after an attempt: done, again later, or never again.

The live schedule, seconds before each attempt, with the time since the first:

| attempt | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| wait | 0 | 5 s | 5 min | 30 min | 2 h | 5 h | 10 h | 14 h | 20 h | 24 h |
| since first | 0 | 5 s | 5 min | 35 min | 2.6 h | 7.6 h | 17.6 h | 31.6 h | 51.6 h | 75.6 h |

Each wait is multiplied by a jitter of 0.9 to 1.1, so that what failed together does not come back together.
"""

import datetime as dt
import math
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from functools import lru_cache
from itertools import accumulate
from typing import Final

from dispatcher.model.outcome import FREE_OUTCOMES, Outcome, OutcomeKind, Verdict, VerdictKind

LIVE_SCHEDULE: Final = (0.0, 5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
TEST_SCHEDULE: Final = (0.0, 5.0, 60.0, 300.0)

LONGEST_WAIT_SECONDS: Final = 86_400.0
"""No peer can put off the next attempt further than this."""

_INTERNAL_ERROR_SECONDS: Final = 30.0
_MOST_ATTEMPTS: Final = 24
_LONGEST_SCHEDULE_SECONDS: Final = 8 * 86_400.0
_LONGEST_HEADER: Final = 64
_PAUSING: Final = frozenset({429, 503})


def parse_retry_after(value: bytes, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, 0 to 24 h; None when it says nothing usable.

    Takes whole seconds and the three date forms of RFC 9110 (read against `now`, Unix seconds). A date in the past
    is 0; a huge number or a far date is 24 h; signs, fractions, exponents and lists are refused.
    """
    if len(value) > _LONGEST_HEADER or not value.isascii():
        return None
    text = value.decode("ascii").strip(" \t")
    if text.isdigit():
        return min(float(text), LONGEST_WAIT_SECONDS)
    if not text[:3].isalpha():
        return None
    try:
        parsed = parsedate_to_datetime(text)
        # The form of C's asctime names no zone; HTTP means UTC, Python would take the machine's.
        moment = (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=dt.UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return min(max(0.0, moment - now), LONGEST_WAIT_SECONDS)


@lru_cache(maxsize=64)
def success(attempts: int) -> Verdict:
    """Return the verdict after a 2xx at the `attempts`th attempt; one object for all of them."""
    return Verdict(VerdictKind.DELIVERED, attempts)


def judge(
    outcome: Outcome, charged: int, schedule: Sequence[float], now: float, jitter: float, *, attempts_before: int = 0
) -> Verdict:
    """Decide about a delivery after an attempt.

    `charged` counts the attempts charged so far, `schedule` the seconds before each, `now` is Unix seconds (for
    Retry-After dates), `jitter` the factor for the next wait (0.9 to 1.1). Of those charged, `attempts_before` were
    made before the delivery was sent again: the schedule begins after them. Only 2xx is success; 410 means the
    endpoint is gone; our own interruptions cost nothing; everything else is tried again until the schedule ends.
    """
    if outcome.kind is OutcomeKind.DELIVERED:
        return success(charged + 1)
    if outcome.kind is OutcomeKind.HTTP_410:
        return Verdict(VerdictKind.GONE, charged + 1, 0.0)
    if outcome.kind in FREE_OUTCOMES:
        wait = 0.0 if outcome.kind is OutcomeKind.INTERRUPTED else _INTERNAL_ERROR_SECONDS * jitter
        return Verdict(VerdictKind.INTERRUPTED, charged, wait)
    attempts = charged + 1
    made = attempts - attempts_before
    asked = None if outcome.retry_after is None else parse_retry_after(outcome.retry_after, now)
    pause = asked if asked is not None and outcome.status in _PAUSING else 0.0
    if made >= len(schedule):
        return Verdict(VerdictKind.EXHAUSTED, attempts, None, pause)
    wait = max(schedule[made] * jitter, asked or 0.0)
    return Verdict(VerdictKind.RETRY, attempts, min(wait, LONGEST_WAIT_SECONDS * 1.1), pause)


def check_schedule(schedule: Sequence[float]) -> list[str]:
    """Return what is wrong with a schedule (seconds before each attempt), in words; empty when nothing is."""
    faults = []
    if not 1 <= len(schedule) <= _MOST_ATTEMPTS:
        faults.append(f"a schedule has 1 to {_MOST_ATTEMPTS} entries")
    if any(not math.isfinite(wait) or wait < 0 for wait in schedule):
        faults.append("every entry is a number of seconds, 0 or more")
    elif any(wait > LONGEST_WAIT_SECONDS for wait in schedule):
        faults.append("no entry is longer than a day")
    elif sum(schedule) > _LONGEST_SCHEDULE_SECONDS:
        faults.append("all entries together are at most 8 days")
    return faults


def preview(schedule: Sequence[float]) -> list[float]:
    """Return for each attempt the seconds since the event, without jitter: where the waits add up to."""
    return list(accumulate(schedule))
