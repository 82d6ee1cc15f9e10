"""A receiver for trials: verifies, prints, and fails as asked, so that retries can be seen on one machine."""

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from aiohttp import web

from dispatcher.kit import clock
from dispatcher.receiver import Claim, Inbox, InvalidWebhook, Standing, verify

_LARGEST_BODY: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a trial receiver answers.

    `statuses` are given in turn, round and round. With probability `fail_rate` (0..1) the answer is 500 instead.
    `delay_seconds` passes before each answer. With `secrets` every signature is checked; a bad one gets 400.
    """

    statuses: Sequence[int] = (204,)
    fail_rate: float = 0.0
    delay_seconds: float = 0.0
    secrets: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came, and what was answered.

    `fault` says why the signature was refused, if it was; a duplicate is an event that the inbox has finished already.
    """

    at: float
    path: str
    event_id: str
    event_type: str
    attempt: str
    status: int
    is_verified: bool
    is_duplicate: bool
    fault: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)


class TrialReceiver:
    """Serves POST on every path of `host:port` (0: any free port); use as an async context manager.

    `on_received` is called with each request once its answer is decided, just before it is sent. With an `inbox`, an
    event that was answered with 2xx before gets 204 again and takes no turn.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        on_received: Callable[[Received], None] = lambda _: None,
        inbox: Inbox | None = None,
    ) -> None:
        self.behaviour = behaviour
        self.url = ""
        self._host = host
        self._port = port
        self._on_received = on_received
        self._inbox = inbox
        self._statuses = itertools.cycle(behaviour.statuses)
        self._random = random.Random()  # noqa: S311 - chance, not secrecy
        self._runner: web.AppRunner | None = None

    def behave(self, behaviour: Behaviour) -> None:
        """Answer otherwise from the next request on."""
        self.behaviour = behaviour
        self._statuses = itertools.cycle(behaviour.statuses)

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_post("/{path:.*}", self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        port: int = self._runner.addresses[0][1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        fault = self._fault(request, body)
        claim = None if fault else await self._claim(request.headers.get("webhook-id", ""))
        if self.behaviour.delay_seconds:
            await asyncio.sleep(self.behaviour.delay_seconds)
        status = 400 if fault else self._status(claim)
        if self._inbox is not None and claim is not None and claim.standing is Standing.MINE:
            await asyncio.to_thread(self._inbox.finish if 200 <= status < 300 else self._inbox.release, claim)
        self._on_received(
            Received(
                clock.now(),
                request.path,
                request.headers.get("webhook-id", ""),
                request.headers.get("x-webhook-event", ""),
                request.headers.get("x-webhook-attempt", ""),
                status,
                is_verified=bool(self.behaviour.secrets) and not fault,
                is_duplicate=claim is not None and claim.standing is Standing.DONE,
                fault=fault,
                headers=tuple(request.headers.items()),
                body=body,
            )
        )
        return web.Response(status=status, text=fault or None)

    def _fault(self, request: web.Request, body: bytes) -> str:
        if not self.behaviour.secrets:
            return ""
        try:
            verify(request.headers, body, self.behaviour.secrets)
        except InvalidWebhook as refusal:
            return str(refusal)
        return ""

    async def _claim(self, event_id: str) -> Claim | None:
        if self._inbox is None or not event_id:
            return None
        return await asyncio.to_thread(self._inbox.claim, event_id)

    def _status(self, claim: Claim | None) -> int:
        if claim is not None and claim.standing is not Standing.MINE:
            return 204 if claim.standing is Standing.DONE else 409
        return self._next_status()

    def _next_status(self) -> int:
        status = next(self._statuses)
        return 500 if self._random.random() < self.behaviour.fail_rate else status
