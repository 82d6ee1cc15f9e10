"""All lanes of one process, and the choice of who goes next.

    submit --> lane (bounded) --> ring of ready lanes --> carry() as a task --> settlement
                  |  refused: the row goes back to Postgres      ^
                  '-- no token: asks the desk, comes back -------'

`_pump` is synchronous and changes state only; it starts tasks and awaits nothing. It runs after every submit and
grant, and once for all completions of one turn of the loop. The ring gives each host one request per turn, and each
lane gives each endpoint one, so a host or an endpoint with a long queue cannot delay one with a short queue by more
than a turn. Choosing is O(1).

Three shares keep the slots of the process for those who use them well: a host has its cap; lanes that keep us waiting
hold at most a quarter together; later attempts hold at most half while first attempts wait.

Memory is bounded by counted bytes. Intake asks `room` before it polls: while bytes or queued deliveries are over
their mark it waits, and its group membership lives on. Deliveries in lanes that crawl (a dead host, an exhausted
rate) do not count against the mark of queued deliveries, or a few bad hosts would stop intake for everybody; their
own lanes are bounded instead, and what is over goes back to Postgres.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

from dispatcher.kit import clock
from dispatcher.lanes.courier import parked
from dispatcher.lanes.doors import BoardLimits, Doors
from dispatcher.lanes.lane import Lane, Place, Queue
from dispatcher.lanes.pauses import PauseBook
from dispatcher.lanes.tokens import TokenDesk
from dispatcher.lanes.watch import Watch
from dispatcher.model.delivery import Delivery
from dispatcher.model.endpoint import HostLimits
from dispatcher.policy.health import share_of

_OVERHEAD_BYTES: Final = 1_024
"""What a delivery costs beside its body: tuple, task, buffers. Measured about 700; counted generously."""

_FALLEN_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.5
_IDLE_LOOKS: Final = 20
"""A lane without work is forgotten after this many looks (10 s)."""
_RESTED_LOOKS: Final = 130
"""A queue without work is forgotten after this many looks (65 s): its breaker remembers a minute."""

_ELSEWHERE_SECONDS: Final = 1.0
"""How soon a delivery is offered again whose host other replicas serve."""


class Board:
    """The lanes of this process. Every method but `run`, `room` and `drain` is synchronous; one loop only."""

    def __init__(self, doors: Doors, desk: TokenDesk, watch: Watch, limits: BoardLimits) -> None:
        self._doors = doors
        self._desk = desk
        self._watch = watch
        self._limits = limits
        # Touched by the loop's tasks, never across an await.
        self._lanes: dict[int, Lane] = {}
        self._ring: deque[Lane] = deque()
        self._aside: deque[Lane] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._tasks: dict[asyncio.Task[None], Delivery] = {}
        self._pumps_soon = False
        self._paused_hosts, self._paused_endpoints = PauseBook(), PauseBook()
        self._n_replicas, self._rank = 1, 0
        self._queued = self._crawling = self._bytes = 0
        self._fresh = self._again_in_flight = self._suspects_in_flight = 0
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
    def suspects_in_flight(self) -> int:
        """Return the number of attempts under way to hosts that keep us waiting."""
        return self._suspects_in_flight

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
        heads = (head for lane in self._lanes.values() if lane.place is Place.WAITING for head in lane.heads())
        return now - min((head.accepted_mono for head in heads), default=now)

    def full_hosts(self) -> list[int]:
        """Return the hosts for which new deliveries should stay in Postgres: paused, or served elsewhere."""
        elsewhere = [lane.host_id for lane in self._lanes.values() if not lane.window.most]
        return [*self._paused_hosts.until, *elsewhere]

    def full_endpoints(self) -> list[int]:
        """Return the endpoints for which new deliveries should stay in Postgres: paused, or their queue is full."""
        crowded = [number for lane in self._lanes.values() if lane.is_full for number in lane.crowded()]
        return [*self._paused_endpoints.until, *crowded]

    def unwilling_endpoints(self) -> list[int]:
        """Return the endpoints for which no waiting rows should be claimed now: enough is here already."""
        return [number for lane in self._lanes.values() if lane.n_queued for number in lane.served()]

    @property
    def room_bytes(self) -> int:
        """Return how many bytes more may be held; 0 when there is no room."""
        return max(0, self._limits.memory_bytes - self._bytes)

    def has_room(self) -> bool:
        """Tell whether intake may read more."""
        return self._room.is_set()

    async def room(self) -> None:
        """Return when there is room for another poll's worth of deliveries."""
        await self._room.wait()

    def submit(self, delivery: Delivery) -> tuple[Delivery, float] | None:
        """Put a delivery into its host's lane; call `start` after the last of a batch.

        Returns None when all is well, else the delivery that has to go back to Postgres and the seconds after which
        to offer it again: this one, or the newest of the endpoint that holds most of a full lane.
        """
        if self._stopped:
            return delivery, 0.0
        now, host_id, endpoint_id = clock.mono(), delivery.host_id, delivery.endpoint_id
        until = max(self._paused_hosts.until.get(host_id, 0.0), self._paused_endpoints.until.get(endpoint_id, 0.0))
        if until > now:
            return delivery, until - now
        lane = self._lanes.get(host_id) or self._open(host_id)
        if not lane.window.most:
            return delivery, _ELSEWHERE_SECONDS
        queue = lane.queues.get(endpoint_id)
        if queue is None:
            queue = self._open_queue(lane, endpoint_id)
        refused: tuple[Delivery, float] | None = None
        if lane.is_full:
            longest = lane.longest()
            wait = max(1.0, lane.seconds_to_clear())
            if len(longest) <= len(queue) + 1:
                return delivery, wait
            refused = longest.pop_newest(), wait
            lane.n_queued -= 1
            self._uncount(refused[0])
        lane.put(delivery, queue)
        self._queued += 1
        self._fresh += not delivery.attempts
        self._bytes += len(delivery.body) + _OVERHEAD_BYTES
        if lane.place is Place.IDLE and lane.in_flight < lane.window.size:
            self._make_ready(lane)
        return refused

    def credit(self, host_id: int, n: int, sent: float) -> None:
        """Take tokens of a host that were charged by a claim whose statement was sent at `sent`."""
        lane = self._lanes.get(host_id) or self._open(host_id)
        lane.purse.add(n, sent + lane.grants.token_seconds)
        if lane.place is Place.WAITING:
            self._make_ready(lane)

    def ready(self, lane: Lane) -> None:
        """Give a lane that waited for tokens its turn again."""
        if lane.place is Place.WAITING or (lane.place is Place.IDLE and lane.ring):
            self._make_ready(lane)
            self._pump()

    def start(self) -> None:
        """Start whatever may start now."""
        self._pump()
        self._watch_room()

    def set_limits(self, host_id: int, limits: HostLimits) -> None:
        """Give a host new limits; they hold from its next start on."""
        lane = self._lanes.get(host_id)
        if lane is not None and lane.limits != limits:
            self._adopt(lane, limits)
            self._pump()

    def set_replicas(self, n: int, rank: int) -> None:
        """Share hosts' caps on requests in flight with `n` live replicas, this one being number `rank` from 0."""
        if (n, rank) != (self._n_replicas, self._rank):
            self._n_replicas, self._rank = n, rank
            for lane in self._lanes.values():
                self._adopt(lane, lane.limits)
            self._pump()

    def pause_host(self, host_id: int, seconds: float) -> None:
        """Send nothing to a host for some seconds; what is queued goes back to Postgres until then."""
        self._empty_host(host_id, self._paused_hosts.note(host_id, seconds, clock.mono()))

    def pause_endpoint(self, endpoint_id: int, seconds: float) -> None:
        """Send nothing to an endpoint for some seconds; what is queued goes back to Postgres until then."""
        self._empty_endpoint(endpoint_id, self._paused_endpoints.note(endpoint_id, seconds, clock.mono()))

    def set_pauses(self, hosts: dict[int, float], endpoints: dict[int, float]) -> None:
        """Adopt who is paused by seconds left, 0 or less when no success came since; own words of late are kept.

        Whoever is absent is probed no more: it answered well, here or elsewhere, or its pause was over an hour ago.
        """
        now = clock.mono()
        for host_id in self._paused_hosts.adopt(hosts, now):
            self._empty_host(host_id, hosts[host_id])
        for endpoint_id in self._paused_endpoints.adopt(endpoints, now):
            self._empty_endpoint(endpoint_id, endpoints[endpoint_id])
        for lane in self._lanes.values():
            for queue in lane.queues.values():
                if queue.is_probing and not self._was_paused(lane.host_id, queue.endpoint_id):
                    queue.end_probing()

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
        queued = [
            delivery for lane in self._lanes.values() for queue in lane.queues.values() for delivery in queue.empty()
        ]
        for lane in self._lanes.values():
            lane.n_queued = 0
        for delivery in queued:
            self._uncount(delivery)
        self._room.set()
        try:
            async with asyncio.timeout(seconds):
                await self._quiet.wait()
        except TimeoutError:
            self.interrupt()
            await self._quiet.wait()
        return queued

    def halt(self) -> None:
        """Start nothing more: something this process needs has fallen, and what it sends now it could not record."""
        self._stopped = True

    def interrupt(self) -> None:
        """Cancel every attempt under way."""
        for task in list(self._tasks):
            task.cancel()

    def _open(self, host_id: int) -> Lane:
        limits = self._doors.limits_of(host_id)
        lane = self._lanes[host_id] = Lane(host_id, limits, self._share(host_id, limits))
        return lane

    def _open_queue(self, lane: Lane, endpoint_id: int) -> Queue:
        # Lanes and processes forget, and others were never told: whoever was paused is met with one request at a time.
        queue = Queue(endpoint_id, is_probing=self._was_paused(lane.host_id, endpoint_id))
        lane.queues[endpoint_id] = queue
        self._set_pace(lane, queue)
        return queue

    def _was_paused(self, host_id: int, endpoint_id: int) -> bool:
        return host_id in self._paused_hosts.of_late or endpoint_id in self._paused_endpoints.of_late

    def _share(self, host_id: int, limits: HostLimits) -> int:
        return share_of(limits.in_flight, n_replicas=self._n_replicas, rank=self._rank, host_id=host_id)

    def _adopt(self, lane: Lane, limits: HostLimits) -> None:
        lane.set_limits(limits, self._share(lane.host_id, limits))
        # Whatever it was told about its next token was said of other limits.
        lane.ask_at = 0.0
        if not lane.window.most:
            self._send_back(lane, lane.queues.values(), _ELSEWHERE_SECONDS)
        if lane.place is Place.WAITING:
            self._desk.ask(lane)
        if lane.place is Place.IDLE and lane.ring and lane.in_flight < lane.window.size:
            self._make_ready(lane)

    def _uncount(self, delivery: Delivery) -> None:
        """Take a delivery that leaves a queue untried off the books."""
        self._queued -= 1
        self._fresh -= not delivery.attempts
        self._bytes -= len(delivery.body) + _OVERHEAD_BYTES

    def _empty_host(self, host_id: int, seconds: float) -> None:
        lane = self._lanes.get(host_id)
        if lane is not None:
            lane.purse.clear()
            for queue in lane.queues.values():
                queue.begin_probing()
            self._send_back(lane, lane.queues.values(), seconds)
            if lane.place is Place.WAITING:
                # Nobody brings it tokens any more: what comes after the pause has to ask anew.
                self._desk.forget(lane)
                lane.place = Place.IDLE

    def _empty_endpoint(self, endpoint_id: int, seconds: float) -> None:
        for lane in self._lanes.values():
            queue = lane.queues.get(endpoint_id)
            if queue is not None:
                queue.begin_probing()
                self._send_back(lane, [queue], seconds)

    def _send_back(self, lane: Lane, queues: Iterable[Queue], seconds: float) -> None:
        now = clock.mono()
        for queue in queues:
            for delivery in queue.empty():
                lane.n_queued -= 1
                self._uncount(delivery)
                self._doors.settle(parked(delivery, seconds, now))

    def _make_ready(self, lane: Lane) -> None:
        lane.place = Place.READY
        self._ring.append(lane)

    def _pump(self) -> None:
        if self._stopped or not self._ring:
            return
        now = clock.mono()
        if not self._doors.may_start(now):
            self._set_alarm(now + 0.05)
            return
        while self._ring and len(self._tasks) < self._limits.in_flight:
            self._turn(self._ring.popleft(), now)

    def _turn(self, lane: Lane, now: float) -> None:
        """Give one lane its turn: one request, or a place among those that wait."""
        if not lane.ring or lane.in_flight >= lane.window.size:
            lane.place = Place.IDLE
            return
        if lane.is_suspect and self._suspects_in_flight * 4 >= self._limits.in_flight:
            self._set_aside(lane)
            return
        may_repeat = not self._fresh or self._again_in_flight * 2 < self._limits.in_flight
        queue = lane.choose(now, may_repeat=may_repeat)
        if queue is None:
            self._ask_for_endpoints(lane)
            if lane.ring:
                self._set_aside(lane)
            else:
                lane.place = Place.IDLE
            return
        if not lane.purse.take(now):
            lane.place = Place.WAITING
            self._desk.ask(lane)
            return
        self._begin(lane, queue, lane.take(queue, now, may_repeat=may_repeat), now)
        if lane.ring and lane.in_flight < lane.window.size:
            self._ring.append(lane)
        else:
            lane.place = Place.IDLE
            self._ask_for_endpoints(lane)
        if lane.rate and lane.purse.count() <= lane.rate * lane.grants.token_seconds / 2:
            self._desk.ask(lane)

    def _ask_for_endpoints(self, lane: Lane) -> None:
        """Ask for tokens of endpoints with a pace of their own that wait for nothing else."""
        if not lane.is_paced:
            return
        for queue in lane.queues.values():
            if queue.purse is not None and len(queue) and not queue.in_turn and queue.in_flight < queue.most_in_flight:
                self._desk.ask_for_endpoint(lane, queue)

    def _set_pace(self, lane: Lane, queue: Queue) -> None:
        queue.set_pace(self._doors.pace_of(queue.endpoint_id))
        lane.is_paced = lane.is_paced or queue.pace is not None

    def _set_aside(self, lane: Lane) -> None:
        lane.place = Place.ASIDE
        self._aside.append(lane)

    def _begin(self, lane: Lane, queue: Queue, delivery: Delivery, now: float) -> None:
        if lane.in_flight == 1:
            lane.since_done = now
        self._queued -= 1
        self._again_in_flight += bool(delivery.attempts)
        self._fresh -= not delivery.attempts
        self._suspects_in_flight += lane.is_suspect
        task = asyncio.get_running_loop().create_task(self._attempt(lane, queue, delivery), name="attempt")
        self._tasks[task] = delivery
        self._quiet.clear()
        task.add_done_callback(self._ended)

    async def _attempt(self, lane: Lane, queue: Queue, delivery: Delivery) -> None:
        is_settled = False
        try:
            settlement = await self._doors.carry(delivery)
            self._doors.settle(settlement)
            is_settled = True
            was_suspect = lane.is_suspect
            self._watch.note(lane, queue, settlement, clock.mono())
            if lane.is_suspect != was_suspect:
                self._recount(lane)
        except Exception:
            # A bug of ours must not leave the delivery in nobody's hands: it comes back, and so does the bug. One that
            # is settled has left: a second word about it might even be written before the first.
            if not is_settled:
                self._doors.settle(parked(delivery, _FALLEN_SECONDS, clock.mono()))
            raise
        finally:
            lane.in_flight -= 1
            queue.in_flight -= 1
            lane.done += 1
            lane.since_done = clock.mono()
            self._again_in_flight -= delivery.attempts > 0
            self._suspects_in_flight -= lane.is_suspect
            self._bytes -= len(delivery.body) + _OVERHEAD_BYTES
            if queue.purse is not None:
                self._set_pace(lane, queue)
            lane.come_back(queue)
            if lane.ring and lane.place is Place.IDLE:
                self._make_ready(lane)

    def _recount(self, lane: Lane) -> None:
        """Count all requests of a lane as suspect that has become so, or none of one that is so no longer."""
        self._suspects_in_flight += lane.in_flight if lane.is_suspect else -lane.in_flight

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not self._tasks:
            self._quiet.set()
        if not task.cancelled() and (fault := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "an attempt fell", "exception": fault, "task": task}
            )
        if self._aside:
            self._make_ready(self._aside.popleft())
        if not self._pumps_soon:
            self._pumps_soon = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Start what the attempts that ended in this turn of the loop let start."""
        self._pumps_soon = False
        self.start()

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
        now, crawling = clock.mono(), 0
        self._paused_hosts.forget_past(now)
        self._paused_endpoints.forget_past(now)
        while self._aside:
            self._make_ready(self._aside.popleft())
        for lane in list(self._lanes.values()):
            if lane.n_queued > max(32, 4 * lane.done):
                crawling += lane.n_queued
            was_suspect = lane.is_suspect
            lane.look(now)
            if lane.is_suspect != was_suspect:
                self._recount(lane)
            lane.done = 0
            lane.is_paced = False
            for queue in lane.queues.values():
                self._set_pace(lane, queue)
                lane.come_back(queue)
            lane.forget_rested(_RESTED_LOOKS)
            if lane.place is Place.IDLE and lane.n_queued and lane.ring:
                self._make_ready(lane)
            if lane.place is Place.WAITING:
                # The net: nobody waits for tokens that nobody fetches.
                self._desk.ask(lane)
            lane.idle_looks = lane.idle_looks + 1 if lane.is_idle and lane.place is Place.IDLE else 0
            if lane.idle_looks >= _IDLE_LOOKS:
                self._desk.forget(lane)
                del self._lanes[lane.host_id]
        self._crawling = crawling
