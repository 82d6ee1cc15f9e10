"""What attempts tell about the health of a host, and how much is sent to it then.

Three answers to trouble, from mild to strict:

* AIMD, per process: requests in flight to a host are halved when it is overloaded and grow by one per full window of
  successes (Chiu and Jain 1989; the reference for services is Netflix' concurrency limits).
* Slowing down, over all replicas: 429, 502, 503 and 504 halve the host's rate; success doubles it again.
* The breaker, over all replicas: an endpoint whose attempts mostly fail by our not getting an answer of use is
  paused, 5 s at first and up to 5 min, and its host with it when it has no other endpoint or three of them fail.
"""

from collections import deque
from enum import Enum, auto
from typing import Final

from dispatcher.model.outcome import Outcome, OutcomeKind

_BREAKER_SECONDS: Final = 60.0
_BREAKER_ATTEMPTS: Final = 10
_BREAKER_SHARE: Final = 0.5
_BUCKETS: Final = 6


class Sign(Enum):
    """What one outcome says about the host that gave it."""

    WELL = auto()
    """2xx."""
    ANSWERS = auto()
    """It lives but will not have this: 3xx, 4xx."""
    OVERLOADED = auto()
    """429: it asks for less."""
    BUSY = auto()
    """502, 503, 504: overloaded, and failing."""
    FAILING = auto()
    """Other 5xx, and what breaks off: reset, TLS, protocol, name resolution."""
    SILENT = auto()
    """It keeps us waiting: timeouts."""
    NONE = auto()
    """Our own doing."""


_SIGNS: Final = {
    OutcomeKind.DELIVERED: Sign.WELL,
    OutcomeKind.HTTP_3XX: Sign.ANSWERS,
    OutcomeKind.HTTP_4XX: Sign.ANSWERS,
    OutcomeKind.HTTP_410: Sign.ANSWERS,
    OutcomeKind.HTTP_429: Sign.OVERLOADED,
    OutcomeKind.HTTP_5XX: Sign.FAILING,
    OutcomeKind.TIMEOUT_CONNECT: Sign.SILENT,
    OutcomeKind.TIMEOUT_RESPONSE: Sign.SILENT,
    OutcomeKind.DNS_ERROR: Sign.FAILING,
    OutcomeKind.CONNECTION_REFUSED: Sign.FAILING,
    OutcomeKind.CONNECTION_RESET: Sign.FAILING,
    OutcomeKind.TLS_ERROR: Sign.FAILING,
    OutcomeKind.ADDRESS_FORBIDDEN: Sign.NONE,
    OutcomeKind.PROTOCOL_ERROR: Sign.FAILING,
    OutcomeKind.INTERRUPTED: Sign.NONE,
    OutcomeKind.INTERNAL_ERROR: Sign.NONE,
}
_BUSY: Final = frozenset({502, 503, 504})
FAILURES: Final = frozenset({Sign.BUSY, Sign.FAILING, Sign.SILENT})
"""Signs that count against an endpoint in its breaker."""

OVERLOADS: Final = frozenset({Sign.OVERLOADED, Sign.BUSY})
"""Signs that halve a host's rate."""


def sign_of(outcome: Outcome) -> Sign:
    """Return what an outcome says about its host."""
    if outcome.status in _BUSY:
        return Sign.BUSY
    return _SIGNS[outcome.kind]


class Window:
    """How many requests may be in flight: additive increase, multiplicative decrease, within 1 and `most`."""

    __slots__ = ("_credit", "_cut_at", "_size", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._size = float(most)
        self._credit = 0
        self._cut_at = -1.0

    @property
    def size(self) -> int:
        """Return how many requests may be in flight: at least 1, or 0 when `most` is 0."""
        return min(int(self._size), self.most)

    def set_most(self, most: int) -> None:
        """Change the upper bound; a window that stood at the old one moves along."""
        if self._size >= self.most:
            self._size = float(most)
        self.most = most

    def succeeded(self, in_flight: int) -> None:
        """Note a success while `in_flight` requests were under way, itself included: only a used window grows."""
        if self._size >= self.most or in_flight * 2 < self._size:
            return
        self._credit += 1
        if self._credit >= self._size:
            self._credit = 0
            self._size = min(self._size + 1.0, float(self.most))

    def suffered(self, factor: float, started: float, now: float) -> None:
        """Shrink by `factor`, once for all requests that were already under way at the last cut."""
        if started < self._cut_at:
            return
        self._cut_at = now
        self._credit = 0
        self._size = max(1.0, self._size * factor)


class Breaker:
    """Counts one endpoint's attempts of the last minute, in buckets of ten seconds."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: deque[list[float]] = deque(maxlen=_BUCKETS)

    def note(self, *, failed: bool, now: float) -> bool:
        """Count one attempt; return whether it opens: 10 attempts in 60 s, at least half of them failures."""
        width = _BREAKER_SECONDS / _BUCKETS
        if not self._buckets or now - self._buckets[-1][0] >= width:
            self._buckets.append([now, 0, 0])
        bucket = self._buckets[-1]
        bucket[1] += 1
        bucket[2] += failed
        if not failed:
            return False
        attempts = failures = 0.0
        for began, n, n_failed in self._buckets:
            if now - began < _BREAKER_SECONDS:
                attempts += n
                failures += n_failed
        return attempts >= _BREAKER_ATTEMPTS and failures >= attempts * _BREAKER_SHARE

    def clear(self) -> None:
        """Begin anew, after a pause."""
        self._buckets.clear()


def share_of(most: int, *, n_replicas: int, rank: int, host_id: int) -> int:
    """Return this replica's share of a host's cap on requests in flight; the shares of all replicas sum up to it.

    `rank` counts the live replicas from 0; whose turn the remainder is rotates with the host. A share may be 0.
    """
    n_replicas = max(1, n_replicas)
    place = (rank + host_id) % n_replicas
    return most // n_replicas + (place < most % n_replicas)
