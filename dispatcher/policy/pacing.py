"""Pacing of one host: GCRA, the virtual-scheduling form of the leaky bucket (ITU-T I.371, annex A).

`rate` requests per second and a burst of `burst`: in every window of W seconds at most `burst + rate * W` requests
are granted. The whole state is one number, the theoretical arrival time of the next request.
"""

import math
from typing import Final


class Pacer:
    """Grants requests to one host. Time is an argument: monotonic seconds that never go back.

    `rate` is requests per second (> 0), `burst` how many may go at once after a rest (>= 1).
    """

    __slots__ = ("_arrival", "_interval", "_tolerance")

    def __init__(self, rate: float, burst: int) -> None:
        self._interval: Final = 1.0 / rate
        # A millionth of a request more: sums of floats must not deny the last request of a burst.
        self._tolerance: Final = (burst - 1 + 1e-6) * self._interval
        self._arrival = 0.0

    def reserve(self, now: float) -> float:
        """Take one request and return 0.0, or take nothing and return the seconds until one will be granted."""
        arrival = self._arrival
        if arrival <= now:
            self._arrival = now + self._interval
            return 0.0
        wait = arrival - self._tolerance - now
        if wait > 0.0:
            # Rounded up: whoever waits exactly this long must not come a hair too early.
            return wait + 2 * math.ulp(max(arrival, now))
        self._arrival = arrival + self._interval
        return 0.0

    def peek(self, now: float) -> float:
        """Return the seconds until a request would be granted, 0.0 for at once; takes nothing."""
        wait = self._arrival - self._tolerance - now
        return wait + 2 * math.ulp(max(self._arrival, now)) if wait > 0.0 else 0.0
