"""The way of one delivery through one attempt: look up, send, judge."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from dispatcher.kit import clock
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.endpoint import EndpointStatus, Target
from dispatcher.model.errors import SealBroken, Unavailable
from dispatcher.model.outcome import FREE_OUTCOMES, Outcome, OutcomeKind, Verdict, VerdictKind
from dispatcher.policy.retrying import judge, success

_UNREACHABLE_RETRY_SECONDS: Final = 1.0
"""Also for a delivery of another host than its endpoint has: a directory is at most as old."""

_log = structlog.get_logger("lanes")


class Sender(Protocol):
    """What carrying needs of the sending room."""

    async def send(self, target: Target, delivery: Delivery, attempt_no: int) -> Outcome:
        """Make one request; every fault of the customer's side is an outcome."""
        ...


class Directory(Protocol):
    """What carrying needs of the directory."""

    async def target(self, endpoint_id: int) -> Target | None:
        """Return where to send; None when the endpoint does not exist."""
        ...


class Meter(Protocol):
    """What carrying tells the metrics and the log."""

    def attempted(self, delivery: Delivery, target: Target | None, settlement: Settlement) -> None:
        """Note one settled attempt, or a settlement without one."""
        ...


class Courier:
    """Carries deliveries: one attempt each, one settlement each. Never raises."""

    def __init__(self, *, sender: Sender, directory: Directory, meter: Meter, jitter: Callable[[], float]) -> None:
        self._sender = sender
        self._directory = directory
        self._meter = meter
        self._jitter = jitter

    async def carry(self, delivery: Delivery) -> Settlement:
        """Make one attempt and return what is to be written about it.

        A cancel during the attempt is answered with an interrupted settlement that costs no attempt: the cancel is
        the board's own word that time is up.
        """
        started = clock.mono()
        target: Target | None = None
        try:
            target = await self._directory.target(delivery.endpoint_id)
            if target is None or target.status is EndpointStatus.DELETED:
                return self._without_attempt(delivery, target, started, VerdictKind.CANCELED)
            if target.status is not EndpointStatus.ENABLED:
                return self._without_attempt(delivery, target, started, VerdictKind.HELD)
            if target.host_id != delivery.host_id:
                # The endpoint moved: the tokens, the cap and the pauses that let it go are another host's. Settling
                # puts the delivery under the host that the endpoint has then.
                return self._without_attempt(delivery, target, started, VerdictKind.PARKED)
            outcome = await self._sender.send(target, delivery, delivery.attempts + 1)
        except asyncio.CancelledError:
            outcome = Outcome(OutcomeKind.INTERRUPTED, clock.mono() - started, reason="shutdown")
        except Unavailable:
            return self._without_attempt(delivery, target, started, VerdictKind.PARKED)
        except SealBroken:
            outcome = Outcome(OutcomeKind.INTERNAL_ERROR, clock.mono() - started, reason="secret cannot be opened")
        return self._settled(delivery, target, outcome, started)

    def _settled(self, delivery: Delivery, target: Target | None, outcome: Outcome, started: float) -> Settlement:
        verdict, attempt_no = self._judge(delivery, target, outcome), delivery.attempts + 1
        if target is None or outcome.kind in FREE_OUTCOMES:
            settlement = Settlement(delivery, outcome, verdict, attempt_no, started, clock.mono())
        else:
            last_attempt = delivery.last_attempt(target.schedule)
            settlement = Settlement(
                delivery, outcome, verdict, attempt_no, started, clock.mono(), target.key_ids, last_attempt
            )
        return self._noted(target, settlement)

    def _judge(self, delivery: Delivery, target: Target | None, outcome: Outcome) -> Verdict:
        if outcome.kind is OutcomeKind.DELIVERED:
            # Nearly all of them, and neither the time nor chance has a say in it.
            return success(delivery.attempts + 1)
        return judge(
            outcome,
            delivery.attempts,
            target.schedule if target is not None else (0.0,),
            clock.now(),
            self._jitter(),
            attempts_before=delivery.attempts_before,
        )

    def _without_attempt(
        self, delivery: Delivery, target: Target | None, started: float, kind: VerdictKind
    ) -> Settlement:
        retry_in = {VerdictKind.CANCELED: None, VerdictKind.PARKED: _UNREACHABLE_RETRY_SECONDS}.get(kind, 0.0)
        verdict = Verdict(kind, delivery.attempts, retry_in)
        settlement = Settlement(delivery, None, verdict, delivery.attempts + 1, started, started)
        return self._noted(target, settlement)

    def _noted(self, target: Target | None, settlement: Settlement) -> Settlement:
        try:
            self._meter.attempted(settlement.delivery, target, settlement)
        except Exception:  # noqa: BLE001 - a bug in counting is no bug of the attempt
            # What was met is known and gets written: forgetting it would send the same request again, for ever.
            _log.exception("attempt_unnoted", endpoint_id=settlement.delivery.endpoint_id)
        return settlement


def parked(delivery: Delivery, retry_in_seconds: float, now: float) -> Settlement:
    """Return the settlement that gives a delivery back to Postgres untried."""
    verdict = Verdict(VerdictKind.PARKED, delivery.attempts, retry_in_seconds)
    return Settlement(delivery, None, verdict, delivery.attempts + 1, now, now)
