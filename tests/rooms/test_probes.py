"""The operator's port, asked as an orchestrator and a Prometheus ask it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from dispatcher.kit import clock
from dispatcher.telemetry.metrics import Metrics
from dispatcher.telemetry.probes import Probes, ProbeServer


@asynccontextmanager
async def asking(
    probes: Probes, registry: CollectorRegistry | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Any]:
    """Serve probes and give a function that asks a path: status and body."""

    async def ask(path: str) -> tuple[int, Any]:
        async with session.get(server.url + path) as answer:
            is_json = answer.content_type == "application/json"
            return answer.status, await answer.json() if is_json else await answer.text()

    async with (
        ProbeServer(probes, registry or CollectorRegistry(), host=host, port=0) as server,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
    ):
        yield ask


async def test_readiness_names_each_condition_and_needs_them_all() -> None:
    probes, holds = Probes(), {"kafka": True, "postgres": False}
    probes.conditions = {"kafka": lambda: holds["kafka"], "postgres": lambda: holds["postgres"]}

    async with asking(probes) as ask:
        assert await ask("/readyz") == (503, {"kafka": True, "postgres": False})
        holds["postgres"] = True
        assert await ask("/readyz") == (200, {"kafka": True, "postgres": True})
        holds["kafka"] = False
        assert await ask("/readyz") == (503, {"kafka": False, "postgres": True})


async def test_a_process_that_is_not_ready_is_alive() -> None:
    probes = Probes()
    probes.conditions = {"postgres": lambda: False}

    async with asking(probes) as ask:
        assert await ask("/healthz") == (200, {"alive": True})


async def test_a_process_that_has_lost_a_vital_counts_as_dead() -> None:
    probes, reads = Probes(), [True]
    probes.vitals = {"reading": lambda: reads[0]}

    async with asking(probes) as ask:
        assert await ask("/healthz") == (200, {"alive": True, "reading": True})
        reads[0] = False
        assert await ask("/healthz") == (503, {"alive": True, "reading": False})


async def test_a_loop_that_has_not_turned_for_ten_seconds_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.mono()
    monkeypatch.setattr(clock, "mono", lambda: now)
    probes = Probes()

    async with asking(probes) as ask:
        now += 9.9
        assert await ask("/healthz") == (200, {"alive": True})
        now += 0.1
        assert await ask("/healthz") == (503, {"alive": False})


async def test_the_beat_keeps_it_alive_and_tells_how_late_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lags, beaten = clock.mono(), list[float](), asyncio.Event()
    monkeypatch.setattr(clock, "mono", lambda: now)

    def told(seconds: float) -> None:
        lags.append(seconds)
        beaten.set()

    probes = Probes(on_lag=told)
    beating = asyncio.get_running_loop().create_task(probes.run())
    await asyncio.sleep(0)
    now += 60.0
    before = probes.is_alive

    async with asyncio.timeout(10):
        await beaten.wait()
    beating.cancel()

    assert (before, probes.is_alive) == (False, True)
    assert lags == [pytest.approx(59.5)]


async def test_metrics_are_scraped_as_prometheus_reads_them() -> None:
    registry = CollectorRegistry()
    Metrics(registry, ["verification.created"]).counts("records").add("accepted", by=2)

    async with asking(Probes(), registry) as ask:
        status, text = await ask("/metrics")

    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    assert status == 200
    assert [s.value for s in samples if s.labels == {"result": "accepted"}] == [2]


async def test_nothing_else_is_served_there() -> None:
    async with asking(Probes()) as ask:
        for path in ("/", "/metricsx", "/v1/endpoints"):
            assert (await ask(path))[0] == 404


async def test_it_serves_on_ipv6_too() -> None:
    async with asking(Probes(), host="::1") as ask:
        assert await ask("/healthz") == (200, {"alive": True})
