"""All lanes of one process, and the choice of who goes next.

    submit --> lane (bounded) --> ring of ready lanes --> carry() as a task --> settlement
                  |  refused: the row goes back to Postgres      ^
                  '-- no token: timer heap --------------------- '

`_pump` is synchronous and changes state only; it starts tasks and awaits nothing. It runs after every submit,
completion and timer. The ring gives each host one request per turn, so a host with a long queue cannot delay one
with a short queue by more than a turn. Choosing is O(1).

Memory is bounded by counted bytes. Intake asks `room` before it polls: while bytes or queued deliveries are over
their mark it waits, and its group membership lives on. Deliveries in lanes that crawl (a dead host, an exhausted
rate) do not count against the mark of queued deliveries, or a few bad hosts would stop intake for everybody; their
own lanes are bounded instead, and what is over goes back to Postgres.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from dispatcher.kit import clock
from dispatcher.lanes.courier import parked
from dispatcher.lanes.lane import Lane, Place
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.endpoint import HostLimits

_OVERHEAD_BYTES: Final = 1_024
"""What a delivery costs beside its body: tuple, task, buffers. Measured about 700; counted generously."""

_FALLEN_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.5
_IDLE_LOOKS: Final = 20
"""A lane without work is forgotten after this many looks (10 s), when its pacer has long been full again."""


@dataclass(frozen=True, slots=True)
class BoardLimits:
    """What one process may hold. `queued_high` and `queued_low` open and close intake (hysteresis)."""

    in_flight: int
    memory_bytes: int
    queued_high: int = 2_000
    queued_low: int = 1_000


class Board:
    """The lanes of this process. Every method but `run`, `room` and `drain` is synchronous; one loop only.

    `carry` takes a delivery through one attempt and returns its settlement; when it raises, which is a bug, the
    delivery goes back to Postgres for half a minute. `settle` takes the
    settlement. `limits_of` names a host's limits. `may_start` is asked before every start with the monotonic time:
    the lease and the recorder speak through it; while it says no the board looks again every 50 ms.
    """

    def __init__(
        self,
        *,
        carry: Callable[[Delivery], Awaitable[Settlement]],
        settle: Callable[[Settlement], None],
        limits_of: Callable[[int], HostLimits],
        may_start: Callable[[float], bool],
        limits: BoardLimits,
    ) -> None:
        self._carry = carry
        self._settle = settle
        self._limits_of = limits_of
        self._may_start = may_start
        self._limits = limits
        # Touched by the loop's tasks, never across an await.
        self._lanes: dict[int, Lane] = {}
        self._ring: deque[Lane] = deque()
        self._timers: list[tuple[float, int, Lane]] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._tasks: dict[asyncio.Task[None], Delivery] = {}
        self._idle_looks: dict[int, int] = {}
        self._queued = 0
        self._crawling = 0
        self._bytes = 0
        self._stopped = False
        self._room = asyncio.Event()
        self._room.set()
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def in_flight(self) -> int:
        """Return the number of attempts under way."""
        return len(self._tasks)

    @property
    def queued(self) -> int:
        """Return the number of deliveries waiting in lanes."""
        return self._queued

    @property
    def held_bytes(self) -> int:
        """Return the counted bytes of queued deliveries and attempts under way."""
        return self._bytes

    @property
    def n_lanes(self) -> int:
        """Return the number of lanes in memory."""
        return len(self._lanes)

    def oldest_throttled_seconds(self, now: float) -> float:
        """Return for how long the oldest delivery has waited in a lane that has no token; 0 when none."""
        return max((now - lane.queue[0].accepted_mono for _, _, lane in self._timers if lane.queue), default=0.0)

    def full_hosts(self) -> list[int]:
        """Return the hosts whose lanes refuse more."""
        return [lane.host_id for lane in self._lanes.values() if lane.is_full]

    def unwilling_hosts(self) -> list[int]:
        """Return the hosts for which no waiting rows should be claimed now."""
        return [lane.host_id for lane in self._lanes.values() if not lane.wants_more]

    def has_room(self) -> bool:
        """Tell whether intake may read more."""
        return self._room.is_set()

    async def room(self) -> None:
        """Return when there is room for another poll's worth of deliveries."""
        await self._room.wait()

    def submit(self, delivery: Delivery) -> float | None:
        """Put a delivery into its host's lane; call `start` after the last of a batch.

        Returns None when it was taken, else (the lane is full, or the board is stopping) the seconds after which to
        offer it again: the row belongs back in Postgres until then.
        """
        lane = self._lanes.get(delivery.host_id)
        if lane is None:
            lane = self._lanes[delivery.host_id] = Lane(delivery.host_id, self._limits_of(delivery.host_id))
        if self._stopped:
            return 0.0
        if lane.is_full:
            return max(1.0, lane.seconds_to_clear())
        lane.queue.append(delivery)
        self._queued += 1
        self._bytes += len(delivery.body) + _OVERHEAD_BYTES
        if lane.place is Place.IDLE and lane.in_flight < lane.most_in_flight:
            self._make_ready(lane)
        return None

    def start(self) -> None:
        """Start whatever may start now."""
        self._pump()
        self._watch_room()

    def set_limits(self, host_id: int, limits: HostLimits) -> None:
        """Give a host new limits; they hold from its next start on."""
        lane = self._lanes.get(host_id)
        if lane is not None and lane.limits != limits:
            lane.set_limits(limits)

    async def run(self) -> None:
        """Look at the lanes twice a second until canceled: which crawl, which can be forgotten."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._look()
            self.start()

    async def drain(self, seconds: float) -> list[Delivery]:
        """Stop: start nothing more, give attempts under way `seconds`, cancel the rest.

        Returns the deliveries that were still queued, untried. Canceled attempts are settled as interrupted by
        `carry`. A second call, or a cancel, cuts the wait short.
        """
        self._stopped = True
        queued = [delivery for lane in self._lanes.values() for delivery in lane.queue]
        for lane in self._lanes.values():
            lane.queue.clear()
        self._queued = 0
        self._room.set()
        try:
            async with asyncio.timeout(seconds):
                await self._quiet.wait()
        except TimeoutError:
            self.interrupt()
            await self._quiet.wait()
        return queued

    def interrupt(self) -> None:
        """Cancel every attempt under way."""
        for task in list(self._tasks):
            task.cancel()

    def _make_ready(self, lane: Lane) -> None:
        lane.place = Place.READY
        self._ring.append(lane)

    def _pump(self) -> None:
        if self._stopped or not (self._ring or self._timers):
            return
        now = clock.mono()
        self._wake_waiting(now)
        while self._ring and len(self._tasks) < self._limits.in_flight:
            if not self._may_start(now):
                self._set_alarm(now + 0.05)
                return
            self._turn(self._ring.popleft(), now)
        if self._timers:
            self._set_alarm(self._timers[0][0])

    def _turn(self, lane: Lane, now: float) -> None:
        """Give one lane its turn: one request, or a place among those that wait for a token."""
        if not lane.queue or lane.in_flight >= lane.most_in_flight:
            lane.place = Place.IDLE
            return
        wait = lane.pacer.reserve(now)
        if wait > 0:
            lane.place = Place.WAITING
            lane.wait_until = now + wait
            heapq.heappush(self._timers, (lane.wait_until, lane.host_id, lane))
            return
        self._begin(lane, lane.queue.popleft())
        if lane.queue and lane.in_flight < lane.most_in_flight:
            self._ring.append(lane)
        else:
            lane.place = Place.IDLE

    def _begin(self, lane: Lane, delivery: Delivery) -> None:
        lane.in_flight += 1
        self._queued -= 1
        task = asyncio.get_running_loop().create_task(self._attempt(lane, delivery), name="attempt")
        self._tasks[task] = delivery
        self._quiet.clear()
        task.add_done_callback(self._ended)

    async def _attempt(self, lane: Lane, delivery: Delivery) -> None:
        try:
            self._settle(await self._carry(delivery))
        except Exception:
            # A bug of ours must not leave the delivery in nobody's hands: it comes back, and so does the bug.
            self._settle(parked(delivery, _FALLEN_SECONDS, clock.mono()))
            raise
        finally:
            lane.in_flight -= 1
            lane.done += 1
            self._bytes -= len(delivery.body) + _OVERHEAD_BYTES
            if lane.queue and lane.place is Place.IDLE:
                self._make_ready(lane)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not self._tasks:
            self._quiet.set()
        if not task.cancelled() and (fault := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "an attempt fell", "exception": fault, "task": task}
            )
        self._pump()
        if not self._room.is_set():
            self._watch_room()

    def _wake_waiting(self, now: float) -> None:
        timers = self._timers
        while timers and timers[0][0] <= now:
            self._make_ready(heapq.heappop(timers)[2])

    def _set_alarm(self, when: float) -> None:
        if self._alarm is not None:
            if self._alarm.when() <= when and not self._alarm.cancelled():
                return
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(when, self._ring_alarm)

    def _ring_alarm(self) -> None:
        self._alarm = None
        self._pump()

    def _watch_room(self) -> None:
        waiting = self._queued - self._crawling
        if self._bytes >= self._limits.memory_bytes or waiting >= self._limits.queued_high:
            self._room.clear()
        elif self._bytes < self._limits.memory_bytes * 0.9 and waiting <= self._limits.queued_low:
            self._room.set()

    def _look(self) -> None:
        """Find the lanes that crawl: more queued than they complete in two looks. Forget idle ones."""
        crawling = 0
        for lane in list(self._lanes.values()):
            if len(lane.queue) > max(32, 4 * lane.done):
                crawling += len(lane.queue)
            lane.done = 0
            if lane.is_idle and lane.place is Place.IDLE:
                looks = self._idle_looks.get(lane.host_id, 0) + 1
                self._idle_looks[lane.host_id] = looks
                if looks >= _IDLE_LOOKS:
                    del self._lanes[lane.host_id], self._idle_looks[lane.host_id]
            else:
                self._idle_looks.pop(lane.host_id, None)
        self._crawling = crawling
