"""The token desk: fetches from Postgres the permission to send, for all lanes that need it, in one statement.

A lane that was at rest and gets a delivery is served at once. A lane that is busy asks before it runs dry, and such
asks are collected: a round every few dozen milliseconds serves all busy hosts together. Idle hosts never ask.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from dispatcher.kit import clock
from dispatcher.lanes.lane import Lane, Place, Queue
from dispatcher.model.errors import Unavailable
from dispatcher.policy.pacing import Ask, Grant, grants_of

_ROUND_SECONDS: Final = 0.15
"""Longest time between two rounds for lanes that are busy; shorter where tokens live shorter."""

_OF_LIFE: Final = 0.6
"""A round comes when this share of the shortest token life is over."""

_REST_SECONDS: Final = 0.5
"""A lane without a grant for longer was at rest: it does not wait for the next round."""

_DRY_SECONDS: Final = 0.008
"""Between two rounds when a busy lane ran dry: its demand grows faster than was foreseen."""

_DRAINED_SECONDS: Final = 0.04
"""A host that gave less than was asked is at its limit: it is asked again when a few tokens have come together."""

_BUSY_ROW_SECONDS: Final = 0.01
_AWAY_SECONDS: Final = 0.25
_SOONEST_SECONDS: Final = 0.002

_log = structlog.get_logger("lanes")


class Tokens(Protocol):
    """What the desk needs of the ledger. Raises Fenced, Unavailable."""

    async def lease(self, asks: Sequence[Ask]) -> list[Grant]:
        """Take tokens of hosts; a host that another replica is at is absent."""
        ...

    async def lease_for_endpoints(self, asks: Sequence[Ask]) -> list[Grant]:
        """Take tokens of endpoints with a pace of their own."""
        ...


class Lanes(Protocol):
    """What the desk tells the board."""

    def ready(self, lane: Lane) -> None:
        """Let a lane go on: it has tokens."""
        ...

    def pause_host(self, host_id: int, seconds: float) -> None:
        """Stop sending to a host."""
        ...

    def pause_endpoint(self, endpoint_id: int, seconds: float) -> None:
        """Stop sending to an endpoint."""
        ...


class TokenDesk:
    """Collects asks and serves them. `ask` may be called from anywhere in the loop; `run` serves."""

    def __init__(self, tokens: Tokens, *, on_counted: Callable[[int, int, int], None]) -> None:
        self._tokens = tokens
        self._on_counted = on_counted
        self._asking: dict[int, Lane] = {}
        self._queues: dict[int, tuple[Lane, Queue, list[float]]] = {}
        self._asked = asyncio.Event()
        self._next_round = self._last_round = 0.0
        self.lanes: Lanes

    def ask(self, lane: Lane) -> None:
        """Note that a lane needs tokens, or will soon. A lane whose place is WAITING is told by `lanes.ready`."""
        if lane.host_id not in self._asking:
            self._asking[lane.host_id] = lane
            self._asked.set()
        elif lane.place is Place.WAITING:
            self._asked.set()

    def ask_for_endpoint(self, lane: Lane, queue: Queue) -> None:
        """Note that an endpoint needs a token of its own pace."""
        if queue.endpoint_id not in self._queues:
            self._queues[queue.endpoint_id] = (lane, queue, [0.0])
            self._asked.set()

    def forget(self, lane: Lane) -> None:
        """Drop what a lane asked for: it is gone or paused."""
        self._answered(lane)
        for queue in lane.queues.values():
            self._answered_endpoint(queue)

    def _answered(self, lane: Lane) -> None:
        """Strike a lane's ask out, but not that of another one for its host: it may have been forgotten meanwhile."""
        if self._asking.get(lane.host_id) is lane:
            del self._asking[lane.host_id]

    def _answered_endpoint(self, queue: Queue) -> None:
        """Strike a queue's ask out, but not that of another one of its endpoint, which may have moved meanwhile."""
        asked = self._queues.get(queue.endpoint_id)
        if asked is not None and asked[1] is queue:
            del self._queues[queue.endpoint_id]

    async def run(self) -> None:
        """Serve asks until canceled. Waits Postgres' absences out; raises Fenced when this replica was taken over."""
        while True:
            now = clock.mono()
            due = self._next_due(now)
            if due > now:
                await self._wait(due - now)
                continue
            try:
                await self._round(now)
                await self._endpoint_round(now)
            except Unavailable as fault:
                _log.warning("tokens_unavailable", reason=str(fault))
                self._next_round = clock.mono() + _AWAY_SECONDS

    async def _wait(self, seconds: float) -> None:
        self._asked.clear()
        try:
            async with asyncio.timeout(None if math.isinf(seconds) else max(seconds, _SOONEST_SECONDS)):
                await self._asked.wait()
        except TimeoutError:
            return

    def _next_due(self, now: float) -> float:
        """Return when the next round is due: at once for lanes that were at rest, else with the round."""
        due = min((max(held[0], self._held_off(now)) for _, _, held in self._queues.values()), default=math.inf)
        for lane in self._asking.values():
            if lane.place is not Place.WAITING:
                at = self._next_round
            elif now - lane.granted_at > _REST_SECONDS:
                at = self._held_off(now)
            else:
                at = max(self._held_off(now), min(self._next_round, self._last_round + _DRY_SECONDS))
            due = min(due, max(lane.ask_at, at))
        return due

    def _held_off(self, now: float) -> float:
        """Return until when nobody is served: only after a failure, never longer than its pause."""
        return min(self._next_round, now + _AWAY_SECONDS) if self._next_round - now > _ROUND_SECONDS else 0.0

    async def _round(self, now: float) -> None:
        lanes = {lane.host_id: lane for lane in self._asking.values() if lane.ask_at <= now}
        horizon = min((lane.grants.token_seconds for lane in lanes.values()), default=_ROUND_SECONDS)
        step = min(_ROUND_SECONDS, horizon * _OF_LIFE)
        asks = []
        for lane in lanes.values():
            want = lane.wanted(min(lane.grants.token_seconds, step * 1.7))
            if want > 0:
                asks.append(Ask(lane.host_id, want))
            else:
                self._serve_from_purse(lane)
        if not asks:
            return
        sent = clock.mono()
        self._last_round, self._next_round = sent, sent + step
        grants = {grant.number: grant for grant in await self._tokens.lease(asks)}
        n_expired = n_used = 0
        for ask in asks:
            lane = lanes[ask.number]
            n_expired += lane.purse.discard(clock.mono())
            n_used += lane.used
            self._give(lane, ask.want, grants.get(ask.number), sent)
        self._on_counted(sum(grant.n for grant in grants.values()), n_used, n_expired)

    def _serve_from_purse(self, lane: Lane) -> None:
        self._answered(lane)
        if lane.place is Place.WAITING:
            self.lanes.ready(lane)

    def _give(self, lane: Lane, want: int, grant: Grant | None, sent: float) -> None:
        now = clock.mono()
        if grant is None:
            lane.ask_at = now + _BUSY_ROW_SECONDS
            return
        if grant.paused_seconds > 0:
            self._answered(lane)
            self.lanes.pause_host(lane.host_id, grant.paused_seconds)
            return
        lane.granted(grant.n, sent + lane.grants.token_seconds, grant.scale, now)
        if grant.n < want:
            lane.ask_at = now + max(grant.next_seconds, min(_DRAINED_SECONDS, lane.grants.token_seconds / 2))
        if grant.n == 0:
            return
        self._answered(lane)
        if lane.place is Place.WAITING:
            self.lanes.ready(lane)

    async def _endpoint_round(self, now: float) -> None:
        asking = [(lane, queue, held) for lane, queue, held in self._queues.values() if held[0] <= now]
        asks = []
        for _, queue, _ in asking:
            if queue.pace is None:
                continue
            grants = grants_of(queue.pace.rate, queue.pace.burst)
            want = max(1, min(len(queue), queue.pace.in_flight, grants.burst))
            asks.append(Ask(queue.endpoint_id, want, grants.interval_us, grants.burst))
        granted: dict[int, Grant] = {}
        sent = clock.mono()
        if asks:
            granted = {grant.number: grant for grant in await self._tokens.lease_for_endpoints(asks)}
        for lane, queue, held in asking:
            self._give_endpoint(lane, queue, held, granted.get(queue.endpoint_id), sent)

    def _give_endpoint(self, lane: Lane, queue: Queue, held: list[float], grant: Grant | None, sent: float) -> None:
        if queue.pace is not None and queue.purse is not None:
            if grant is None:
                return
            if grant.paused_seconds > 0:
                self._answered_endpoint(queue)
                self.lanes.pause_endpoint(queue.endpoint_id, grant.paused_seconds)
                return
            if grant.n == 0:
                held[0] = clock.mono() + max(grant.next_seconds, _SOONEST_SECONDS)
                return
            queue.purse.add(grant.n, sent + grants_of(queue.pace.rate, queue.pace.burst).token_seconds)
        self._answered_endpoint(queue)
        lane.come_back(queue)
        self.lanes.ready(lane)
