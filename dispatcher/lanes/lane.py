"""The queues of one host inside one process: one per endpoint, taken in turns."""

import math
from collections import deque
from enum import Enum, auto
from typing import Final

from dispatcher.model.delivery import Delivery
from dispatcher.model.endpoint import HostLimits
from dispatcher.policy.health import Breaker, Sign, Window
from dispatcher.policy.pacing import Grants, Purse, grants_of

MOST_QUEUED: Final = 1_000
"""No lane holds more, whatever its rate: deeper queues only age in memory. A guess that keeps 20 busy hosts fed."""

_TOKEN_SECONDS: Final = 2.0
"""A lane keeps what its host may take within this time; the rest is better off in Postgres."""

_SILENT_SECONDS: Final = 1.0
"""A lane whose oldest request is older, and that completed nothing since, is suspect before any deadline is over."""


class Place(Enum):
    """Where a lane stands on the board."""

    IDLE = auto()
    """Nothing that may go, or as many requests in flight as allowed: the next submit or completion moves it."""
    READY = auto()
    """In the ring: may start a request now."""
    WAITING = auto()
    """Asked for tokens: their coming moves it."""
    ASIDE = auto()
    """Its kind has its share of the process's slots: the next completion moves it."""


class Queue:
    """The deliveries of one endpoint. First attempts and later ones take turns, so neither starves the other."""

    __slots__ = (
        "again",
        "breaker",
        "endpoint_id",
        "fresh",
        "in_flight",
        "in_turn",
        "is_probing",
        "most_in_flight",
        "pace",
        "purse",
        "rested_looks",
        "turn_of_again",
    )

    def __init__(self, endpoint_id: int, *, is_probing: bool = False) -> None:
        self.endpoint_id = endpoint_id
        self.fresh: deque[Delivery] = deque()
        self.again: deque[Delivery] = deque()
        self.turn_of_again = False
        self.in_flight = 0
        self.in_turn = False
        """Whether it stands in its lane's ring."""
        self.breaker = Breaker()
        self.is_probing = is_probing
        """Whether it was paused and has not answered well since: one request at a time."""
        self.pace: HostLimits | None = None
        """Its own limits, below the host's; None when the host's are all there is."""
        self.most_in_flight = self._cap()
        """Its own cap on requests in flight, far away when it has none."""
        self.purse: Purse | None = None
        """Tokens for `pace`."""
        self.rested_looks = 0
        """How often in a row the board has found it at rest."""

    def __len__(self) -> int:
        """Return the number of deliveries in it."""
        return len(self.fresh) + len(self.again)

    @property
    def is_at_rest(self) -> bool:
        """Tell whether it holds nothing, sends nothing, and keeps nothing in mind but its breaker's last minute."""
        return not (self.fresh or self.again or self.in_flight or self.in_turn or self.is_probing)

    def begin_probing(self) -> None:
        """Send one request at a time from now on: it is paused."""
        self.is_probing = True
        self.most_in_flight = self._cap()

    def end_probing(self) -> None:
        """Go on as before the pause: it answered well since, here or to another replica."""
        self.is_probing = False
        self.most_in_flight = self._cap()
        self.breaker.clear()

    def put(self, delivery: Delivery) -> None:
        """Append a delivery."""
        (self.again if delivery.attempts else self.fresh).append(delivery)

    def offers(self, *, may_repeat: bool) -> bool:
        """Tell whether a delivery may be taken; later attempts only where `may_repeat`."""
        return bool(self.fresh) or (may_repeat and bool(self.again))

    def take(self, *, may_repeat: bool) -> Delivery:
        """Take the next delivery; call only when one is offered."""
        if self.again and may_repeat and (self.turn_of_again or not self.fresh):
            self.turn_of_again = False
            return self.again.popleft()
        self.turn_of_again = True
        return self.fresh.popleft()

    def pop_newest(self) -> Delivery:
        """Take the delivery that came last of its kind, a first attempt if there is one."""
        return (self.fresh or self.again).pop()

    def empty(self) -> list[Delivery]:
        """Take everything out."""
        taken = [*self.again, *self.fresh]
        self.again.clear()
        self.fresh.clear()
        return taken

    def set_pace(self, pace: HostLimits | None) -> None:
        """Adopt own limits; tokens of a former pace are thrown away."""
        if pace != self.pace:
            self.pace = pace
            self.purse = None if pace is None else Purse()
            self.most_in_flight = self._cap()

    def _cap(self) -> int:
        if self.is_probing:
            return 1
        return MOST_QUEUED if self.pace is None else self.pace.in_flight


class Lane:
    """Deliveries of one host in the queues of their endpoints, with its tokens and its cap on requests in flight.

    `most_in_flight` is this process's share of the host's cap; 0 means that other replicas serve the host.
    """

    __slots__ = (
        "ask_at",
        "done",
        "granted_at",
        "grants",
        "host_id",
        "idle_looks",
        "in_flight",
        "is_paced",
        "is_suspect",
        "limits",
        "most_queued",
        "n_queued",
        "place",
        "purse",
        "queues",
        "rate",
        "ring",
        "scale",
        "since_done",
        "used",
        "wells",
        "window",
    )

    def __init__(self, host_id: int, limits: HostLimits, most_in_flight: int) -> None:
        self.host_id = host_id
        self.queues: dict[int, Queue] = {}
        self.ring: deque[Queue] = deque()
        """Queues that hold something and are not held back by a pace of their own."""
        self.n_queued = 0
        self.in_flight = 0
        self.place = Place.IDLE
        self.done = 0
        """Requests completed since the board last looked: tells a slow lane from a busy one."""
        self.idle_looks = 0
        """How often in a row the board has found it without work."""
        self.since_done = 0.0
        """Monotonic time of the latest completion, or of the start that ended a rest."""
        self.is_suspect = False
        """Whether it keeps us waiting: such lanes share a quarter of the process's slots."""
        self.is_paced = False
        """Whether some endpoint of it has a pace of its own."""
        self.purse = Purse()
        self.used = 0
        """Tokens used since the latest grant."""
        self.granted_at = -math.inf
        self.rate = 0.0
        """Tokens per second used of late."""
        self.ask_at = 0.0
        """Monotonic time before which asking for tokens is useless."""
        self.scale = 1.0
        """The share of the host's rate that it gets, as told with the latest grant."""
        self.wells = 0
        """Successes since the last word about recovery."""
        self.window = Window(most_in_flight)
        self.set_limits(limits, most_in_flight)

    def set_limits(self, limits: HostLimits, most_in_flight: int) -> None:
        """Adopt limits and this process's share of the cap on requests in flight."""
        self.limits = limits
        self.grants: Grants = grants_of(limits.rate, limits.burst)
        self.window.set_most(most_in_flight)
        self.most_queued = min(MOST_QUEUED, limits.burst + int(limits.rate * _TOKEN_SECONDS))

    def put(self, delivery: Delivery, queue: Queue) -> None:
        """Append a delivery to its endpoint's queue, and the queue to the ring unless it stands there."""
        queue.put(delivery)
        self.n_queued += 1
        if not queue.in_turn and queue.in_flight < queue.most_in_flight:
            queue.in_turn = True
            self.ring.append(queue)

    def choose(self, now: float, *, may_repeat: bool) -> Queue | None:
        """Return the queue whose turn it is and leave it first in the ring; None when none may go.

        Queues that are empty, at their own cap or without a token of their own pace leave the ring.
        """
        ring = self.ring
        for _ in range(len(ring)):
            queue = ring[0]
            if (
                not (queue.fresh or queue.again)
                or queue.in_flight >= queue.most_in_flight
                or (queue.purse is not None and not queue.purse.holds(now))
            ):
                ring.popleft()
                queue.in_turn = False
            elif queue.offers(may_repeat=may_repeat):
                return queue
            else:
                ring.rotate(-1)
        return None

    def take(self, queue: Queue, now: float, *, may_repeat: bool) -> Delivery:
        """Take the next delivery of the first queue and send that queue to the end of the ring."""
        delivery = queue.take(may_repeat=may_repeat)
        if queue.purse is not None:
            queue.purse.take(now)
        queue.in_flight += 1
        self.in_flight += 1
        self.n_queued -= 1
        self.used += 1
        if (queue.fresh or queue.again) and queue.in_flight < queue.most_in_flight:
            self.ring.rotate(-1)
        else:
            self.ring.popleft()
            queue.in_turn = False
        return delivery

    def come_back(self, queue: Queue) -> None:
        """Put a queue into the ring again if it has something and nothing of its own holds it back."""
        if not queue.in_turn and (queue.fresh or queue.again) and queue.in_flight < queue.most_in_flight:
            queue.in_turn = True
            self.ring.append(queue)

    def forget_rested(self, n_looks: int) -> None:
        """Forget the queues at rest for the `n_looks`th time in a row: each counts in `fair_share`."""
        for queue in list(self.queues.values()):
            queue.rested_looks = queue.rested_looks + 1 if queue.is_at_rest else 0
            if queue.rested_looks >= n_looks:
                del self.queues[queue.endpoint_id]

    def heads(self) -> list[Delivery]:
        """Return the first delivery of each kind of each queue."""
        kinds = [kind for queue in self.queues.values() for kind in (queue.fresh, queue.again)]
        return [kind[0] for kind in kinds if kind]

    def longest(self) -> Queue:
        """Return the queue that holds most."""
        return max(self.queues.values(), key=len)

    @property
    def is_well(self) -> bool:
        """Tell whether the host has all that it may have and keeps nobody waiting."""
        return self.scale >= 1.0 and not self.is_suspect and self.window.size >= self.window.most

    @property
    def is_full(self) -> bool:
        """Tell whether one more delivery would be too many."""
        return self.n_queued >= self.most_queued

    @property
    def fair_share(self) -> int:
        """Return how many deliveries each endpoint may hold while the lane is full."""
        return max(1, self.most_queued // max(1, len(self.queues)))

    def crowded(self) -> list[int]:
        """Return the endpoints that hold their fair share."""
        share = self.fair_share
        return [queue.endpoint_id for queue in self.queues.values() if len(queue) >= share]

    def served(self) -> list[int]:
        """Return the endpoints of which enough is here: half their fair share, or any under a pace of their own."""
        share = self.fair_share
        return [
            queue.endpoint_id
            for queue in self.queues.values()
            if len(queue) * 2 >= share or (queue.pace is not None and len(queue))
        ]

    def seconds_to_clear(self) -> float:
        """Return how long the queues will take at the host's rate."""
        return self.n_queued / (self.limits.rate * self.scale)

    @property
    def is_idle(self) -> bool:
        """Tell whether the lane could be forgotten without losing anything but its memory of the host."""
        return not self.n_queued and not self.in_flight

    def note(self, sign: Sign, started: float, now: float) -> None:
        """Learn from one outcome: how many requests may be in flight, and whether the host keeps us waiting."""
        if sign is Sign.WELL or sign is Sign.ANSWERS:
            self.window.succeeded(self.in_flight)
            self.is_suspect = False
        elif sign is Sign.SILENT:
            self.window.suffered(0.7, started, now)
            self.is_suspect = True
        elif sign is not Sign.NONE:
            self.window.suffered(0.5 if sign is not Sign.FAILING else 0.9, started, now)

    def look(self, now: float) -> None:
        """Suspect a lane that has had nothing back for a second while requests are under way."""
        if self.in_flight and not self.done and now - self.since_done > _SILENT_SECONDS:
            self.is_suspect = True

    def granted(self, n: int, dies_at: float, scale: float, now: float) -> None:
        """Take tokens, and learn from how many were used since the last ones how fast they are needed."""
        elapsed = now - self.granted_at
        if elapsed > 0:
            weight = min(1.0, elapsed / 0.25)
            self.rate += weight * (self.used / elapsed - self.rate)
        self.used = 0
        self.granted_at = now
        self.scale = scale
        self.purse.add(n, dies_at)

    def wanted(self, horizon: float) -> int:
        """Return how many tokens to ask for: what can be used within `horizon` seconds, at most one grant's burst."""
        free = max(0, self.window.size - self.in_flight)
        soon = math.ceil(self.rate * horizon)
        need = max(min(self.n_queued, max(free, 2 * soon, 2 * self.used)), soon)
        return min(need - self.purse.count(), self.grants.burst)
