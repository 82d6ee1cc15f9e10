"""Test events: one request outside the lanes, made as every other request is.

A test is asked for by a person who waits for its result, so it does not queue, takes no token of its host and is never
tried again; how many there may be is bounded where they are asked for, by the host that they really go to: an endpoint
may be moved in between. It goes to paused and disabled endpoints, too.
"""

import asyncio
from dataclasses import replace
from typing import Final, Protocol

from dispatcher.directory import Directory
from dispatcher.kit import clock
from dispatcher.model.delivery import Delivery
from dispatcher.model.endpoint import EndpointStatus, Target
from dispatcher.model.outcome import Outcome, OutcomeKind
from dispatcher.model.trial import Admit, Trial

LONGEST_SECONDS: Final = 8.0
"""A person waits for this long and no longer."""


class Sender(Protocol):
    """What a test needs of the sending room."""

    async def send(self, target: Target, delivery: Delivery, attempt_no: int, *, on_written: "OnWritten") -> Outcome:
        """Make one request; `on_written` is given its bytes."""
        ...

    def write(self, target: Target, delivery: Delivery, attempt_no: int) -> bytes:
        """Return a request's bytes without sending them."""
        ...


class OnWritten(Protocol):
    """Told a request's bytes."""

    def __call__(self, request: bytes, /) -> None:
        """Take them."""
        ...


class Trials:
    """Makes tests with the directory's targets and the process' own sender."""

    def __init__(self, directory: Directory, sender: Sender) -> None:
        self._directory = directory
        self._sender = sender

    async def write(self, delivery: Delivery) -> Trial | None:
        """Return the request that a test would be, and send nothing; None when the endpoint does not exist.

        Raises:
            SealBroken: a secret or a header of the endpoint does not open.
            Unavailable: Postgres is away.
        """
        target = await self._target(delivery)
        return None if target is None else Trial(self._sender.write(target, delivery, 1), None, (), target.host_id)

    async def send(self, delivery: Delivery, admit: Admit) -> Trial | None:
        """Send a test and return what it met; errors as `write`, and those of `admit`. Takes at most eight seconds."""
        target = await self._target(delivery)
        if target is None:
            return None
        with admit(target.authority, is_verified=target.is_verified):
            return await self._send(target, delivery)

    async def _send(self, target: Target, delivery: Delivery) -> Trial:
        written: list[bytes] = []
        started = clock.mono()
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                outcome = await self._sender.send(target, delivery, 1, on_written=written.append)
        except TimeoutError:
            reason = f"no result within {LONGEST_SECONDS:g} seconds"
            outcome = Outcome(OutcomeKind.TIMEOUT_RESPONSE, clock.mono() - started, reason=reason)
        request = written[-1] if written else self._sender.write(target, delivery, 1)
        return Trial(request, outcome, target.key_ids, target.host_id)

    async def _target(self, delivery: Delivery) -> Target | None:
        target = await self._directory.target(delivery.endpoint_id)
        if target is None or target.status is EndpointStatus.DELETED:
            return None
        # One attempt is all there is.
        return replace(target, schedule=(0.0,))
