"""The queue of one host inside one process."""

from collections import deque
from enum import Enum, auto
from typing import Final

from dispatcher.model.delivery import Delivery
from dispatcher.model.endpoint import HostLimits
from dispatcher.policy.pacing import Pacer

MOST_QUEUED: Final = 1_000
"""No lane holds more, whatever its rate: deeper queues only age in memory. A guess that keeps 20 busy hosts fed."""

_TOKEN_SECONDS: Final = 2.0
"""A lane keeps what its host may take within this time; the rest is better off in Postgres."""


class Place(Enum):
    """Where a lane stands on the board."""

    IDLE = auto()
    """Nothing queued, or as many requests in flight as allowed: the next submit or completion moves it."""
    READY = auto()
    """In the ring: may start a request now."""
    WAITING = auto()
    """In the timer heap: its pacer has no token yet."""


class Lane:
    """Deliveries of one host in order of arrival, with its pacer and its cap on requests in flight."""

    __slots__ = (
        "done",
        "host_id",
        "in_flight",
        "limits",
        "most_in_flight",
        "most_queued",
        "pacer",
        "place",
        "queue",
        "wait_until",
    )

    def __init__(self, host_id: int, limits: HostLimits) -> None:
        self.host_id = host_id
        self.queue: deque[Delivery] = deque()
        self.in_flight = 0
        self.place = Place.IDLE
        self.wait_until = 0.0
        self.done = 0
        """Requests completed since the board last looked: tells a slow lane from a busy one."""
        self.set_limits(limits)

    def set_limits(self, limits: HostLimits) -> None:
        """Adopt limits; the pacer starts anew with a full burst."""
        self.limits = limits
        self.pacer = Pacer(limits.rate, limits.burst)
        self.most_in_flight = limits.in_flight
        self.most_queued = min(MOST_QUEUED, limits.burst + int(limits.rate * _TOKEN_SECONDS))

    @property
    def is_full(self) -> bool:
        """Tell whether one more delivery would be refused."""
        return len(self.queue) >= self.most_queued

    @property
    def wants_more(self) -> bool:
        """Tell whether waiting rows should be claimed for this host: the lane is less than half full."""
        return len(self.queue) * 2 < self.most_queued

    def seconds_to_clear(self) -> float:
        """Return how long the queue will take at the host's rate."""
        return len(self.queue) / self.limits.rate

    @property
    def is_idle(self) -> bool:
        """Tell whether the lane could be forgotten without losing anything but its pacer's memory."""
        return not self.queue and not self.in_flight
