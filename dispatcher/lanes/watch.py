"""What becomes of a host or an endpoint after each attempt: faster, slower, or a pause."""

from typing import Final, Protocol

from dispatcher.lanes.lane import Lane, Queue
from dispatcher.model.delivery import Settlement
from dispatcher.model.outcome import OutcomeKind
from dispatcher.policy.health import FAILURES, OVERLOADS, Sign, sign_of

_WELLS: Final = 5
"""So many successes of a host at nearly its full rate are worth a word, fewer of a slower one: at a twentieth of its
rate, shared by five replicas, five take half a minute. Postgres lets the rate double every two seconds at most."""


class Orders(Protocol):
    """Where decisions go."""

    def pause(self, endpoint_id: int, host_id: int, seconds: float | None) -> None:
        """Pause for as long as asked, or by the breaker."""
        ...

    def slow_down(self, host_id: int) -> None:
        """Halve the rate."""
        ...

    def recovers(self, host_id: int) -> None:
        """Let the rate grow."""
        ...

    def forgive(self, endpoint_id: int) -> None:
        """Forget pauses in a row."""
        ...


class Watch:
    """Reads each settlement, adjusts the lane and gives orders. One loop only."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    def note(self, lane: Lane, queue: Queue, settlement: Settlement, now: float) -> None:
        """Learn from one settlement; one without a request says nothing."""
        if settlement.outcome is None:
            return
        if settlement.outcome.kind is OutcomeKind.DELIVERED and lane.is_well and not queue.is_probing:
            # Nearly all of them: nothing to learn but that one more went well.
            queue.breaker.note(failed=False, now=now)
            return
        sign = sign_of(settlement.outcome)
        lane.note(sign, settlement.started_mono, now)
        if sign is Sign.NONE:
            return
        if sign is Sign.WELL:
            self._went_well(lane, queue)
        if sign in OVERLOADS:
            self._orders.slow_down(lane.host_id)
        failed = sign in FAILURES
        opens = queue.breaker.note(failed=failed, now=now)
        if settlement.verdict.endpoint_pause_seconds > 0:
            self._orders.pause(queue.endpoint_id, lane.host_id, settlement.verdict.endpoint_pause_seconds)
        elif opens or (failed and queue.is_probing):
            queue.breaker.clear()
            self._orders.pause(queue.endpoint_id, lane.host_id, None)

    def _went_well(self, lane: Lane, queue: Queue) -> None:
        if queue.is_probing:
            queue.end_probing()
            self._orders.forgive(queue.endpoint_id)
            # The other replicas need not find out for themselves.
            self._orders.recovers(lane.host_id)
        elif lane.scale < 1.0:
            lane.wells += 1
            if lane.wells >= min(_WELLS, lane.limits.burst) * lane.scale:
                lane.wells = 0
                self._orders.recovers(lane.host_id)
