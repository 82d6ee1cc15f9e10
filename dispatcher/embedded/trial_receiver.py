"""A receiver for trials: verifies, prints, and fails as asked, so that retries can be seen on one machine."""

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from aiohttp import web

from dispatcher.kit import clock
from dispatcher.receiver import InvalidWebhook, verify

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
    """One request as it came, and what was answered. `fault` says why the signature was refused, if it was."""

    at: float
    path: str
    event_id: str
    event_type: str
    attempt: str
    status: int
    is_verified: bool
    fault: str
    body: bytes


class TrialReceiver:
    """Serves POST on every path of `host:port` (0: any free port); use as an async context manager.

    `on_received` is called with each request once its answer is decided, just before it is sent.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        on_received: Callable[[Received], None] = lambda _: None,
    ) -> None:
        self.behaviour = behaviour
        self.url = ""
        self._host = host
        self._port = port
        self._on_received = on_received
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
        fault, is_verified = "", False
        if self.behaviour.secrets:
            try:
                verify(request.headers, body, *self.behaviour.secrets)
                is_verified = True
            except InvalidWebhook as refusal:
                fault = str(refusal)
        if self.behaviour.delay_seconds:
            await asyncio.sleep(self.behaviour.delay_seconds)
        status = 400 if fault else self._next_status()
        self._on_received(
            Received(
                clock.now(),
                request.path,
                request.headers.get("webhook-id", ""),
                request.headers.get("x-webhook-event", ""),
                request.headers.get("x-webhook-attempt", ""),
                status,
                is_verified,
                fault,
                body,
            )
        )
        return web.Response(status=status, text=fault or None)

    def _next_status(self) -> int:
        status = next(self._statuses)
        return 500 if self._random.random() < self.behaviour.fail_rate else status
