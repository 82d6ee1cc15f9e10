"""What attempts tell about the health of a host, and how much is sent to it then.

Three answers to trouble, from mild to strict:

* AIMD, per process: requests in flight to a host are halved when it is overloaded and grow by one per full window of
  successes (Chiu and Jain 1989; the reference for services is Netflix' concurrency limits).
* Slowing down, over all replicas: 429, 502, 503 and 504 halve the host's rate; success doubles it again.
* The breaker, over all replicas: an endpoint whose attempts mostly fail by our not getting an answer of use is
  paused, about 5 s at first and up to 5 min, and its host with it when it has no other endpoint or three of them fail.
"""

from collections import deque
from enum import Enum, auto
from typing import Final

from dispatcher.model.outcome import Outcome, OutcomeKind

_BREAKER_SECONDS: Final = 60.0
_BREAKER_ATTEMPTS: Final = 10
_BREAKER_SHARE: Final = 0.5
_BUCKETS: Final = 6
_BUCKET_SECONDS: Final = _BREAKER_SECONDS / _BUCKETS


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
    """How many requests may be in flight: additive increase, multiplicative decrease, within 1 and `most`.

    `size` is that number: at least 1, or 0 when `most` is 0.
    """

    __slots__ = ("_credit", "_cut_at", "_exact", "most", "size")

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = most
        self._exact = float(most)
        self._credit = 0
        self._cut_at = -1.0

    def set_most(self, most: int) -> None:
        """Change the upper bound; a window that stood at the old one moves along."""
        if self._exact >= self.most:
            self._exact = float(most)
        self.most = most
        self.size = min(int(self._exact), most)

    def succeeded(self, in_flight: int) -> None:
        """Note a success while `in_flight` requests were under way, itself included: only a used window grows."""
        if self.size >= self.most or in_flight * 2 < self._exact:
            return
        self._credit += 1
        if self._credit >= self._exact:
            self._credit = 0
            self._exact = min(self._exact + 1.0, float(self.most))
            self.size = int(self._exact)

    def suffered(self, factor: float, started: float, now: float) -> None:
        """Shrink by `factor`, once for all requests that were already under way at the last cut."""
        if started < self._cut_at:
            return
        self._cut_at = now
        self._credit = 0
        self._exact = max(1.0, self._exact * factor)
        self.size = min(int(self._exact), self.most)


class Breaker:
    """Counts one endpoint's attempts of the last minute, in buckets of ten seconds."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: deque[list[float]] = deque(maxlen=_BUCKETS)

    def note(self, *, failed: bool, now: float) -> bool:
        """Count one attempt; return whether it opens: 10 attempts in 60 s, at least half of them failures."""
        buckets = self._buckets
        if not buckets or now - buckets[-1][0] >= _BUCKET_SECONDS:
            buckets.append([now, 0, 0])
        bucket = buckets[-1]
        bucket[1] += 1
        if not failed:
            return False
        bucket[2] += 1
        attempts = failures = 0.0
        for began, n, n_failed in buckets:
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
