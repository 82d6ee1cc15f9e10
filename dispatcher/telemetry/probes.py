"""The operator's port: `/metrics`, `/healthz` (no new process is needed), `/readyz` (this process can do its job)."""

import asyncio
from collections.abc import Callable
from typing import Final, Self

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from dispatcher.kit import clock

_STALE_SECONDS: Final = 10.0
_BEAT_SECONDS: Final = 0.5


class Probes:
    """What the probes answer. `conditions` names what readiness needs, each as a quick question.

    `vitals` names what nothing but a new process can mend: with one of them gone this one counts as dead.
    """

    def __init__(self, *, on_lag: Callable[[float], None] = lambda _: None) -> None:
        self.conditions: dict[str, Callable[[], bool]] = {}
        self.vitals: dict[str, Callable[[], bool]] = {}
        self._beat_mono = clock.mono()
        self._on_lag = on_lag

    @property
    def is_alive(self) -> bool:
        """Tell whether the loop turned within the last ten seconds."""
        return clock.mono() - self._beat_mono < _STALE_SECONDS

    def liveness(self) -> dict[str, bool]:
        """Return whether the loop turns, and each vital with its answer."""
        return {"alive": self.is_alive} | {name: ask() for name, ask in self.vitals.items()}

    def readiness(self) -> dict[str, bool]:
        """Return each condition with its answer."""
        return {name: ask() for name, ask in self.conditions.items()}

    async def run(self) -> None:
        """Beat until canceled, and tell how late each beat came (seconds)."""
        while True:
            before = clock.mono()
            await asyncio.sleep(_BEAT_SECONDS)
            self._beat_mono = clock.mono()
            self._on_lag(max(0.0, self._beat_mono - before - _BEAT_SECONDS))


class ProbeServer:
    """Serves the probes on `host:port` (0: any free one); an async context manager, `url` is its base."""

    def __init__(self, probes: Probes, registry: CollectorRegistry, *, host: str, port: int) -> None:
        self.url = ""
        self._probes = probes
        self._registry = registry
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=20.0, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _healthz(self, _: web.Request) -> web.Response:
        return _answer(self._probes.liveness())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _answer(self._probes.readiness())


def _answer(facts: dict[str, bool]) -> web.Response:
    status = 200 if all(facts.values()) else 503
    return web.Response(status=status, body=orjson.dumps(facts), content_type="application/json")
