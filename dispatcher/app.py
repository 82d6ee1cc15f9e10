"""The composition root: builds the rooms, wires their doors, owns start and stop.

Reads like the journey: Kafka records are accepted by the ledger, fresh deliveries are submitted to the lanes, the
courier carries each through one attempt, the recorder settles it; what waits in Postgres comes back through the
due-reader.

Stopping, in this order: readiness goes off; intake and the due-reader stop taking, the last accept finishes; what
is queued goes back to Postgres untried; attempts under way get their drain seconds, the rest are cut and settled
as interrupted; the recorder writes everything; the own replica row is deleted; Kafka, HTTP and connections close.
A second signal skips the drain seconds. A root task that ends by itself is a fault: everything falls, the exit is
not zero, and whoever supervises the process starts a new one.
"""

import asyncio
import random
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import structlog

from dispatcher.directory import Directory
from dispatcher.intake.loop import Intake
from dispatcher.journal import Journal
from dispatcher.kit import clock
from dispatcher.kit.stopping import StopRequest
from dispatcher.kit.supervise import finish_within, sleep_until_set, spawn
from dispatcher.lanes.board import Board, BoardLimits
from dispatcher.lanes.courier import Courier, parked
from dispatcher.lanes.due import DueReader
from dispatcher.ledger.claims import ClaimLedger
from dispatcher.ledger.connections import Link, Pool
from dispatcher.ledger.directory import DirectoryLedger
from dispatcher.ledger.intake import IntakeLedger
from dispatcher.ledger.replicas import Membership, Replica, register
from dispatcher.ledger.settlement import SettlementLedger
from dispatcher.model.delivery import Delivery
from dispatcher.model.errors import DispatcherError, Unavailable
from dispatcher.recording import Recorder
from dispatcher.settings import Settings

_log = structlog.get_logger("app")

_FLUSH_SECONDS: Final = 10.0
"""How long the last results may take to be written; after it they are sent again by another replica."""

_ORPHAN_SECONDS: Final = 30.0
_PARTITION_SECONDS: Final = 3_600.0


class RootTaskEnded(DispatcherError):
    """A task that should run for ever returned: a bug, or a replica that was taken over."""


@dataclass(frozen=True, slots=True)
class Links:
    """The four dedicated connections of one process."""

    intake: Link
    settlement: Link
    claims: Link
    control: Link


class Deliverer:
    """The middle of the journey: takes deliveries that this process owns into the lanes, and out of them again.

    Owns the board, the directory, the recorder and the due-reader.
    """

    def __init__(self, settings: Settings, links: Links, replica: Replica, services: "Services") -> None:
        limits = settings.limits.host_limits()
        self.directory = Directory(
            DirectoryLedger(links.control),
            services.vault,
            schedules={"live": settings.retry.live, "test": settings.retry.test},
            default_limits=limits,
            on_limits=lambda host_id, own: self.board.set_limits(host_id, own),
        )
        self.recorder = Recorder(SettlementLedger(links.settlement, replica), services.journal)
        self.courier = Courier(
            sender=services.sender,
            directory=self.directory,
            meter=services.journal,
            jitter=lambda: random.uniform(0.9, 1.1),  # noqa: S311 - spreads load, keeps no secret
        )
        self.board = Board(
            carry=self.courier.carry,
            settle=self._settle,
            limits_of=self.directory.limits_of,
            may_start=lambda now: replica.may_send(now) and not self.recorder.is_behind,
            limits=BoardLimits(settings.limits.in_flight, settings.limits.memory_bytes),
        )
        self.claims = ClaimLedger(links.claims, replica)
        self.due = DueReader(self.claims, self.board, self.submit, lambda: random.uniform(0.8, 1.2))  # noqa: S311

    async def submit(self, deliveries: Sequence[Delivery]) -> None:
        """Put deliveries into their lanes; what a lane refuses goes back to Postgres. Never loses one."""
        try:
            await self.directory.load([delivery.endpoint_id for delivery in deliveries])
        except Unavailable as fault:
            # The courier asks again for each and parks those it cannot place.
            _log.warning("directory_unavailable", reason=str(fault))
        now = clock.mono()
        for delivery in deliveries:
            refused_for = self.board.submit(delivery)
            if refused_for is not None:
                self.recorder.settle(parked(delivery, refused_for, now))
        self.board.start()

    def _settle(self, settlement: Settlement) -> None:
        if settlement.verdict.kind is VerdictKind.DELIVERED:
            target = self.directory.peek(settlement.delivery.endpoint_id)
            if target is not None and not target.is_verified:
                self.recorder.first_success(target.endpoint_id)
        elif settlement.verdict.kind is VerdictKind.GONE:
            self.directory.forget(settlement.delivery.endpoint_id)
        self.recorder.settle(settlement)

    async def drain(self, seconds: float, stop: StopRequest) -> None:
        """Empty the lanes: queued deliveries back to Postgres, attempts under way to their end or their cut."""
        pressing = spawn(stop.pressed.wait(), name="pressed")
        pressing.add_done_callback(lambda _: self.board.interrupt())
        queued = await self.board.drain(seconds)
        pressing.cancel()
        now = clock.mono()
        for delivery in queued:
            self.recorder.settle(parked(delivery, 0.0, now))
