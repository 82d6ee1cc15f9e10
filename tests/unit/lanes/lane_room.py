"""The whole room of the lanes with its neighbours in memory, wired as the composition root wires it."""

import asyncio
import contextlib
import math
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dispatcher.kit import clock
from dispatcher.kit.supervise import spawn
from dispatcher.lanes.board import Board
from dispatcher.lanes.courier import Courier, parked
from dispatcher.lanes.doors import BoardLimits, Doors
from dispatcher.lanes.due import DueReader
from dispatcher.lanes.keeper import HostKeeper
from dispatcher.lanes.lane import Lane, Place, Queue
from dispatcher.lanes.tokens import TokenDesk
from dispatcher.lanes.watch import Watch
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.endpoint import HostLimits, Target
from dispatcher.model.errors import Unavailable
from dispatcher.model.outcome import Outcome, OutcomeKind, VerdictKind
from dispatcher.policy.pacing import UNVERIFIED
from dispatcher.recording import Recorder
from tests.support.builders import a_delivery, a_target, an_outcome
from tests.support.hosts import HostRow, MemoryHosts
from tests.unit.lanes.waiting_rows import WaitingRows

DEADLINE_SECONDS = 20.0
"""No attempt is longer."""

_TOKEN_SECONDS = 0.5
_OVERHEAD_BYTES = 1_024


@dataclass
class Manner:
    """How an endpoint answers."""

    kind: OutcomeKind = OutcomeKind.DELIVERED
    status: int | None = 200
    seconds: float = 0.05
    retry_after: bytes | None = None


@dataclass
class Starts:
    """Requests begun under one promise (rate, burst): a leaky bucket that they may not overflow."""

    limits: HostLimits
    since: float
    level: float = 0.0
    at: float = 0.0

    def note(self, now: float, what: str) -> None:
        """Count one start; those soon after a change of limits may still be under the promise before."""
        if now < self.since:
            return
        self.level = max(0.0, self.level - (now - self.at) * self.limits.rate) + 1.0
        self.at = now
        assert self.level <= self.limits.burst + 1e-6, f"{what} gets more than {self.limits} by {self.level:.2f}"


class WatchedBoard(Board):
    """A board that is held to its promises at every start."""

    def _begin(self, lane: Lane, queue: Queue, delivery: Delivery, now: float) -> None:
        most = self._limits.in_flight
        assert not self._stopped
        assert self._doors.may_start(now)
        assert len(self._tasks) < most
        assert lane.in_flight <= lane.window.size <= lane.window.most
        assert queue.in_flight <= queue.most_in_flight
        assert not lane.is_suspect or self._suspects_in_flight * 4 < most
        n_fresh = sum(len(q.fresh) for one in self._lanes.values() for q in one.queues.values())
        assert not delivery.attempts or not n_fresh or self._again_in_flight * 2 < most
        assert self._paused_hosts.until.get(lane.host_id, 0.0) <= now
        assert self._paused_endpoints.until.get(queue.endpoint_id, 0.0) <= now
        super()._begin(lane, queue, delivery, now)


class Endpoints:
    """The directory: which endpoints are verified, which have a rate of their own."""

    def __init__(self, host_of: dict[int, int]) -> None:
        self.targets: dict[int, Target] = {n: a_target(endpoint_id=n, host_id=of) for n, of in host_of.items()}
        self.limits: dict[int, HostLimits] = {}
        self.seconds = 0.0
        self.is_away = False

    async def load(self) -> None:
        """Be read, which takes its time."""
        await asyncio.sleep(self.seconds)
        if self.is_away:
            raise Unavailable("away")

    async def target(self, endpoint_id: int) -> Target | None:
        """Return where to send."""
        if self.is_away and endpoint_id % 3 == 0:
            raise Unavailable("away")
        return self.targets[endpoint_id]

    def pace_of(self, endpoint_id: int) -> HostLimits | None:
        """Return an endpoint's own limits."""
        target = self.targets[endpoint_id]
        if not target.is_verified:
            return UNVERIFIED
        rate = target.rate_limit
        return None if rate is None else HostLimits(rate, max(1, round(rate)), max(1, round(rate)))


@dataclass
class Peers:
    """The customers' side: answers as told, and counts what comes."""

    endpoints: Endpoints
    manners: dict[int, Manner] = field(default_factory=dict)
    running: Counter[int] = field(default_factory=Counter)
    host_starts: dict[int, Starts] = field(default_factory=dict)
    endpoint_starts: dict[int, Starts] = field(default_factory=dict)
    n_sent: int = 0

    async def send(self, target: Target, delivery: Delivery, attempt_no: int) -> Outcome:
        """Make one request."""
        assert attempt_no == delivery.attempts + 1
        now, endpoint = clock.mono(), target.endpoint_id
        self.n_sent += 1
        self.host_starts[target.host_id].note(now, f"host {target.host_id}")
        if (starts := self._starts_of(endpoint, now)) is not None:
            starts.note(now, f"endpoint {endpoint}")
        manner = self.manners.get(endpoint, Manner())
        self.running[endpoint] += 1
        try:
            if manner.seconds > DEADLINE_SECONDS:
                await asyncio.sleep(DEADLINE_SECONDS)
                return an_outcome(OutcomeKind.TIMEOUT_RESPONSE, status=None)
            await asyncio.sleep(manner.seconds)
        finally:
            self.running[endpoint] -= 1
        return an_outcome(manner.kind, status=manner.status, retry_after=manner.retry_after)

    def _starts_of(self, endpoint: int, now: float) -> Starts | None:
        pace = self.endpoints.pace_of(endpoint)
        starts = self.endpoint_starts.get(endpoint)
        if pace is None or starts is None or starts.limits != pace:
            # The board looks at paces twice a second; until then tokens of the one before are good.
            self.endpoint_starts.pop(endpoint, None)
            if pace is None:
                return None
            starts = self.endpoint_starts[endpoint] = Starts(pace, now + 0.5)
        return starts


class Unmetered:
    """Notes nothing."""

    def attempted(self, delivery: Delivery, target: Target | None, settlement: Settlement) -> None:
        """Forget an attempt."""

    def settled(self, n_settlements: int, seconds: float) -> None:
        """Forget a batch."""

    def announced(self, news: Sequence[Any]) -> None:
        """Forget news."""


class LaneRoom:
    """Board, desk, watch, keeper, due-reader, courier and recorder of one process, and the world around them."""

    def __init__(self, chance: random.Random, host_of: dict[int, int], limits: dict[int, HostLimits]) -> None:
        self.host_of = host_of
        self.hosts = MemoryHosts({number: HostRow(of) for number, of in limits.items()}, host_of)
        self.rows = WaitingRows(self.hosts)
        self.endpoints = Endpoints(host_of)
        self.endpoints.limits = dict(limits)
        self.peers = Peers(self.endpoints)
        for number, of in limits.items():
            self.peers.host_starts[number] = Starts(of, 0.0)
        self.may_start = True
        self.in_transit: set[int] = set()
        self._begun: list[asyncio.Task[None]] = []
        self.recorder = Recorder(self.rows, Unmetered())
        courier = Courier(
            sender=self.peers, directory=self.endpoints, meter=Unmetered(), jitter=lambda: chance.uniform(0.9, 1.1)
        )
        self.keeper = HostKeeper(self.hosts, on_limits=self.adopt_limits)
        self.desk = TokenDesk(self.hosts, on_counted=lambda *_: None)
        self.board = self.keeper.lanes = self.desk.lanes = WatchedBoard(
            Doors(
                carry=courier.carry,
                settle=self._settle,
                limits_of=self.endpoints.limits.__getitem__,
                pace_of=self.endpoints.pace_of,
                may_start=lambda _: self.may_start and not self.recorder.is_behind,
            ),
            self.desk,
            Watch(self.keeper),
            BoardLimits(in_flight=24, memory_bytes=400_000, queued_high=120, queued_low=60),
        )
        self.due = DueReader(
            self.rows,
            self.board,
            self.submit,
            learn=self.learn,
            on_adopted=lambda _: None,
            jitter=lambda: chance.uniform(0.8, 1.2),
        )
        self.fallen: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self.fallen.append(context.get("exception") or RuntimeError(context["message"]))
        )
        works = {
            "board": self.board.run(),
            "tokens": self.desk.run(),
            "hosts": self.keeper.run(),
            "due": self.due.run(),
            "recorder": self.recorder.run(),
        }
        self.tasks = {name: spawn(work, name=name) for name, work in works.items()}

    async def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Take new deliveries as intake does: those whose lanes are full stay in the table."""
        hosts, endpoints = self.board.full_hosts(), self.board.full_endpoints()
        self.rows.accept(deliveries)
        kept = []
        for delivery in deliveries:
            if delivery.host_id in hosts or delivery.endpoint_id in endpoints:
                row = self.rows.rows[delivery.delivery_id]
                row.is_owned, row.due_at = False, clock.mono()
            else:
                kept.append(delivery)
        if kept:
            await self.submit(kept)

    async def learn(self, deliveries: Sequence[Delivery]) -> None:
        """Read what is to be known of deliveries on their way into lanes."""
        self.in_transit |= {delivery.delivery_id for delivery in deliveries}
        with contextlib.suppress(Unavailable):
            await self.endpoints.load()

    async def submit(self, deliveries: Sequence[Delivery]) -> None:
        """Put deliveries into their lanes; what a lane refuses goes back."""
        await self.learn(deliveries)
        now = clock.mono()
        for delivery in deliveries:
            self.in_transit.discard(delivery.delivery_id)
            refused = self.board.submit(delivery)
            if refused is not None:
                self.recorder.settle(parked(*refused, now))
        self.board.start()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something go on beside the rest."""
        self._begun.append(spawn(work, name="begun"))

    async def stop(self, drain_seconds: float) -> None:
        """Stop as the composition root does: take nothing more, empty the lanes, write every result."""
        self.due.stop()
        await asyncio.wait([self.tasks["due"], *self._begun])
        queued = await self.board.drain(drain_seconds)
        now = clock.mono()
        for delivery in queued:
            self.recorder.settle(parked(delivery, 0.0, now))
        self.recorder.close()
        await self.tasks["recorder"]

    async def end(self) -> None:
        """Cut whatever still goes on."""
        self.board.halt()
        tasks = [*self._begun, *self.tasks.values()]
        for task in tasks:
            task.cancel()
        self.board.interrupt()
        await asyncio.wait(tasks)

    def deliveries(self, endpoint_id: int, n: int) -> list[Delivery]:
        """Return new deliveries for one endpoint."""
        host_id, now = self.host_of[endpoint_id], clock.mono()
        return [a_delivery(endpoint_id=endpoint_id, host_id=host_id, body=b"{}", accepted_mono=now) for _ in range(n)]

    def change_limits(self, host_id: int, limits: HostLimits) -> None:
        """Change a host's limits in Postgres; what is promised is open until they are adopted here."""
        self.hosts.set_limits(host_id, limits)
        self.peers.host_starts[host_id] = Starts(limits, math.inf)

    def adopt_limits(self, host_id: int, limits: HostLimits) -> None:
        """Adopt a host's limits as the directory and the board do."""
        self.endpoints.limits[host_id] = limits
        if math.isinf(self.peers.host_starts[host_id].since):
            self._promise_anew(host_id)
        self.board.set_limits(host_id, limits)

    def _promise_anew(self, host_id: int) -> None:
        """Watch a host's starts against its present limits, from a moment on when no older token lives."""
        self.peers.host_starts[host_id] = Starts(self.endpoints.limits[host_id], clock.mono() + 2 * _TOKEN_SECONDS)

    def _settle(self, settlement: Settlement) -> None:
        endpoint_id = settlement.delivery.endpoint_id
        if settlement.verdict.kind is VerdictKind.DELIVERED:
            target = self.endpoints.targets[endpoint_id]
            self.endpoints.targets[endpoint_id] = replace(target, is_verified=True)
        self.recorder.settle(settlement)

    # what must hold

    def check(self) -> None:
        """Compare every count with what is there, and every lane's place with who knows of it."""
        if self.fallen:
            raise self.fallen[0]
        for task in self.tasks.values():
            if task.done() and not task.cancelled():
                task.result()
        self._check_counts()
        for lane in self.board._lanes.values():
            self._check_place(lane)
        self._check_desk()
        self._check_owners()

    def _check_counts(self) -> None:
        board = self.board
        lanes = list(board._lanes.values())
        queued = [d for lane in lanes for q in lane.queues.values() for d in (*q.fresh, *q.again)]
        going = [delivery for task, delivery in board._tasks.items() if not task.done()]
        by_host, by_endpoint = Counter(d.host_id for d in going), Counter(d.endpoint_id for d in going)
        assert board._queued == len(queued)
        assert board._fresh == sum(not d.attempts for d in queued)
        assert board._bytes == sum(len(d.body) + _OVERHEAD_BYTES for d in (*queued, *going))
        assert board._again_in_flight == sum(d.attempts > 0 for d in going)
        assert board._suspects_in_flight == sum(lane.in_flight for lane in lanes if lane.is_suspect)
        assert by_host.keys() <= board._lanes.keys()
        for lane in lanes:
            assert lane.n_queued == sum(len(queue) for queue in lane.queues.values())
            assert lane.in_flight == by_host[lane.host_id]
            assert not lane.n_queued or lane.window.most, "a delivery lies where nothing may go"
            for queue in lane.queues.values():
                assert queue.in_flight == by_endpoint[queue.endpoint_id]

    def _check_place(self, lane: Lane) -> None:
        board = self.board
        assert board._ring.count(lane) == (lane.place is Place.READY)
        assert board._aside.count(lane) == (lane.place is Place.ASIDE)
        if lane.place is Place.WAITING:
            assert self.desk._asking.get(lane.host_id) is lane, "a lane waits for tokens that nobody fetches"
        if lane.place is Place.IDLE:
            assert not lane.n_queued or not lane.ring or lane.in_flight >= lane.window.size, "a lane sleeps"
        for queue in lane.queues.values():
            assert lane.ring.count(queue) == queue.in_turn

    def _check_desk(self) -> None:
        lanes = self.board._lanes
        for host_id, lane in self.desk._asking.items():
            assert lanes.get(host_id) is lane, "the desk asks for a lane that is gone"
        for endpoint_id, (lane, queue, _) in self.desk._queues.items():
            assert lanes.get(lane.host_id) is lane
            assert lane.queues[endpoint_id] is queue

    def _check_owners(self) -> None:
        board = self.board
        here = [
            d.delivery_id for lane in board._lanes.values() for q in lane.queues.values() for d in (*q.fresh, *q.again)
        ]
        here += [delivery.delivery_id for task, delivery in board._tasks.items() if not task.done()]
        unwritten = [s.delivery.delivery_id for s, _ in self.recorder._waiting]
        assert len(set(here)) == len(here), "a delivery is in two places"
        assert not set(here) & set(unwritten), "a delivery goes on that was settled"
        assert set(here) <= self.rows.owned, "a delivery is here that is not ours"
        known = len(set(here) | set(unwritten) | self.in_transit) + self.recorder._n_under_way
        assert len(self.rows.owned) <= known + self.rows.n_under_claim, "a delivery is in nobody's hands"
