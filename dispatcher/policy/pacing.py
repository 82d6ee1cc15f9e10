"""How fast a host may be sent to, over all replicas together.

The promise of a host's limits is: in every window of W seconds at most `burst + rate * W` requests begin, whatever
the number of replicas and whatever dies. Postgres grants tokens by GCRA, the virtual-scheduling form of the leaky
bucket (ITU-T I.371, annex A), with interval T and burst b': at most `b' + W / T` per window of its own time. A token
granted at time g is used at latest `token_seconds` after the statement that asked for it was sent, hence no later
than g + token_seconds: so at most `b' + rate * (W + token_seconds)` requests begin in any window. With
`b' = burst - rate * token_seconds` that is the promise. No clock is compared with another one, and tokens that are
lost with a process only cost speed.
"""

import math
from collections import deque
from typing import Final, NamedTuple

from dispatcher.model.endpoint import HostLimits

_LONGEST_TOKEN_SECONDS: Final = 0.5
_SHORTEST_TOKEN_SECONDS: Final = 0.02
"""Below this a token could die on the way from Postgres; such limits are refused."""

UNVERIFIED: Final = HostLimits(rate=1.0, burst=1, in_flight=1)
"""What an endpoint without any success so far gets: the rate over all replicas, the cap in each of them.

An attempt takes ten seconds at most, so all replicas together have no more than ten in flight.
"""


class Grants(NamedTuple):
    """How tokens are granted so that limits hold: interval in microseconds, burst b', and a token's time to live."""

    interval_us: int
    burst: int
    token_seconds: float


def grants_of(rate: float, burst: int) -> Grants:
    """Return how to grant tokens for a promise of `rate` per second and `burst` (>= 1)."""
    if burst == 1:
        return Grants(math.ceil(1.1e6 / rate), 1, 0.1 / rate)
    seconds = min(_LONGEST_TOKEN_SECONDS, (burst - 1) / (2 * rate))
    return Grants(math.ceil(1e6 / rate), math.floor(burst - rate * seconds + 1e-9), seconds)


def limits_fault(rate: float, burst: int) -> str | None:
    """Return what is wrong with limits, in words; None when they can be kept."""
    if grants_of(rate, burst).token_seconds >= _SHORTEST_TOKEN_SECONDS:
        return None
    needed = max(2, math.ceil(2 * rate * _SHORTEST_TOKEN_SECONDS) + 1)
    return f"a burst of {burst} is too small for {rate:g} requests per second; make it at least {needed}"


class Ask(NamedTuple):
    """What a lane or an endpoint asks for; `interval_us` and `burst` are needed for endpoints only."""

    number: int
    want: int
    interval_us: int = 0
    burst: int = 0


class Grant(NamedTuple):
    """What Postgres gave: `n` tokens, the host's scale, seconds until the next token and until the pause's end."""

    number: int
    n: int
    scale: float
    next_seconds: float
    paused_seconds: float


class Pauses(NamedTuple):
    """Who is paused now, with the seconds left: hosts and endpoints by number.

    Also who was within the last hour and has not answered well since, with 0 or less.
    """

    hosts: dict[int, float]
    endpoints: dict[int, float]


class Purse:
    """Tokens of one host in this process, each with the monotonic time at which it dies. Soonest first."""

    __slots__ = ("_coins", "_n")

    def __init__(self) -> None:
        self._coins: deque[list[float]] = deque()
        self._n = 0

    def add(self, n: int, dies_at: float) -> None:
        """Put in `n` tokens; times of death never go back from one call to the next by more than a token's life."""
        if n > 0:
            self._coins.append([dies_at, n])
            self._n += n

    def take(self, now: float) -> bool:
        """Take one token that lives; False when there is none."""
        coins = self._coins
        while coins:
            first = coins[0]
            if first[0] <= now:
                self._n -= int(first[1])
                coins.popleft()
                continue
            first[1] -= 1
            self._n -= 1
            if not first[1]:
                coins.popleft()
            return True
        return False

    def holds(self, now: float) -> bool:
        """Tell whether there is a token that lives; the dead ones before it are thrown away."""
        coins = self._coins
        while coins and coins[0][0] <= now:
            self._n -= int(coins.popleft()[1])
        return bool(coins)

    def discard(self, now: float) -> int:
        """Throw away the dead ones and return how many they were."""
        before = self._n
        while self._coins and self._coins[0][0] <= now:
            self._n -= int(self._coins.popleft()[1])
        return before - self._n

    def count(self) -> int:
        """Return how many tokens are in it, some of which may be dead."""
        return self._n

    def clear(self) -> None:
        """Throw all away: the host was paused."""
        self._coins.clear()
        self._n = 0
