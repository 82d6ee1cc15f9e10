"""How often a caller may ask: a bucket of tokens for each, or a window, in the memory of this process."""

import math
from collections import deque
from collections.abc import Hashable, Mapping
from typing import Final, NamedTuple

_MOST_BUCKETS: Final = 10_000
"""Beyond it the one that was used longest ago is forgotten, which can only be to the good of its owner."""

_MOST_WINDOWS: Final = 10_000
"""Windows remembered at a time: some 20 MB."""


class Allowance(NamedTuple):
    """How much may be done: `burst` at once, `per_second` in the long run."""

    per_second: float
    burst: int


class Standing(NamedTuple):
    """How a caller stands after asking: whether it may, what is left, and the seconds until one more, and until all."""

    is_allowed: bool
    n_left: int
    next_seconds: float
    full_seconds: float


class Buckets:
    """One bucket per name, each full at first. Touched between awaits only."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        # The longest unused first; each with its level at the moment of its last use (monotonic).
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, name: str, now: float) -> Standing:
        """Take one token of the caller's bucket, if it holds one, and say how it stands."""
        level = self._level(name, now)
        is_allowed = level >= 1
        return self._put(name, level - 1 if is_allowed else level, now, is_allowed=is_allowed)

    def give_back(self, name: str, now: float) -> None:
        """Put back a token that was taken for nothing."""
        self._put(name, min(self._allowance.burst, self._level(name, now) + 1), now, is_allowed=True)

    def _level(self, name: str, now: float) -> float:
        level, since = self._levels.pop(name, (float(self._allowance.burst), now))
        return min(self._allowance.burst, level + (now - since) * self._allowance.per_second)

    def _put(self, name: str, level: float, now: float, *, is_allowed: bool) -> Standing:
        self._levels[name] = (level, now)
        if len(self._levels) > _MOST_BUCKETS:
            del self._levels[next(iter(self._levels))]
        per_second = self._allowance.per_second
        full_seconds = (self._allowance.burst - level) / per_second
        return Standing(is_allowed, math.floor(level), max(0.0, 1 - level) / per_second, full_seconds)


class Windows:
    """At most `n` per name within any `seconds`, however they are spread. Touched between awaits only.

    A window that is past is forgotten. No other is: while there are as many as there may be, a further name waits.
    """

    def __init__(self, n: int, seconds: float) -> None:
        self._n = n
        self._seconds = seconds
        # The longest unused first; each with the moments of those within the window (monotonic).
        self._taken: dict[Hashable, deque[float]] = {}

    def wait(self, name: Hashable, now: float) -> float:
        """Return the seconds until one may be taken, 0.0 when there is one left."""
        self._forget_past(now)
        taken = self._taken.get(name)
        if taken is None:
            return self._end_of_oldest() - now if len(self._taken) >= _MOST_WINDOWS else 0.0
        return max(0.0, taken[0] + self._seconds - now) if len(taken) == self._n else 0.0

    def take(self, name: Hashable, now: float) -> None:
        """Take one, where `wait` said that there is one left."""
        taken = self._taken.pop(name, None) or deque(maxlen=self._n)
        taken.append(now)
        self._taken[name] = taken

    def _forget_past(self, now: float) -> None:
        while self._taken and self._end_of_oldest() <= now:
            del self._taken[next(iter(self._taken))]

    def _end_of_oldest(self) -> float:
        return next(iter(self._taken.values()))[-1] + self._seconds


def rate_headers(standing: Standing, allowance: Allowance) -> Mapping[str, str]:
    """Return what tells a client how it stands: the quota, what is left, and when to come again if refused.

    The fields are those of draft-ietf-httpapi-ratelimit-headers-10; a window is as long as an empty bucket takes
    to fill.
    """
    window = math.ceil(allowance.burst / allowance.per_second)
    headers = {
        "RateLimit-Policy": f'"key";q={allowance.burst};w={window}',
        "RateLimit": f'"key";r={standing.n_left};t={math.ceil(standing.full_seconds)}',
    }
    if not standing.is_allowed:
        headers["Retry-After"] = str(max(1, math.ceil(standing.next_seconds)))
    return headers
