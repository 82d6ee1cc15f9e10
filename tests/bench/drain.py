"""Drain a preloaded topic: throughput, CPU, round trips, memory."""

import asyncio
import datetime as dt
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import asyncpg

from tests.bench.lab import (
    Lab,
    SinkProcess,
    Stolen,
    cpu_seconds,
    event_data,
    event_headers,
    producer,
    resident_bytes,
    sink,
)
from tests.support.daemon import Api, Daemon, running

N_HOSTS = 20
MOST_ENDPOINTS = 50


@dataclass
class Drain:
    """What one drain took. CPU in seconds per 1,000 deliveries; `round_trips` per 1,000 deliveries.

    `stolen` is the share of the cores' time that other machines had meanwhile.

    A daemon is ready when it reads, and so is at work by then: the counting begins before it is started, and what
    a start with nothing to do costs is taken off.
    """

    scheme: str
    n: int
    seconds: float
    daemon_cpu: float
    postgres_cpu: float
    broker_cpu: float
    sink_cpu: float
    round_trips: float
    memory_early: int
    memory_peak: int
    stolen: float

    @property
    def per_second(self) -> float:
        """Return deliveries per second, from the first to the last request."""
        return self.n / self.seconds

    def allowed(self, n_cores: int) -> float:
        """Return the deliveries per second that so many cores can do at most at what everybody took together."""
        return n_cores * 1_000 / (self.daemon_cpu + self.postgres_cpu + self.broker_cpu + self.sink_cpu)


async def publish(lab: Lab, topic: str, n: int, environment: str) -> None:
    """Put `n` events of 1 KiB on the topic, keyed by verification, spread over the hosts by workflow."""
    when = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    async with producer(lab) as kafka:
        for first in range(0, n, 2_000):
            sent = []
            for number in range(first, min(n, first + 2_000)):
                data = event_data(number, workflow=f"wf_{number % N_HOSTS}")
                headers = event_headers(f"{topic}-{number}", number, environment, when)
                sent.append(await kafka.send(topic, data, key=f"ver_{number:012d}".encode(), headers=headers))
            for one in sent:
                await one


def environment_of(scheme: str, number: int) -> str:
    """Return the environment of the endpoint with this number: an account has at most 50 in each."""
    return "live" if scheme == "https" and number < MOST_ENDPOINTS else "test"


def key_of(lab: Lab, scheme: str, number: int) -> str:
    """Return the API key for the endpoint with this number."""
    return lab.live_key if environment_of(scheme, number) == "live" else lab.test_key


async def add_endpoints(lab: Lab, settings: dict[str, str], to: SinkProcess, scheme: str) -> list[str]:
    """Register one endpoint per port with a daemon of its own that reads nothing yet; return their ids."""
    daemon = Daemon(lab.folder, settings, name="registrar")
    async with running(daemon):
        made = [
            await Api(daemon.ready["api_url"], key_of(lab, scheme, number)).add_endpoint(
                f"{scheme}://127.0.0.1:{port}/hook", ["verification.*"], filter={"workflows": [f"wf_{number}"]}
            )
            for number, port in enumerate(to.ports)
        ]
        await daemon.stop()
    return [endpoint["id"] for endpoint in made]


async def remove_endpoints(lab: Lab, settings: dict[str, str], ids: list[str], scheme: str) -> None:
    """Delete the endpoints again, so that the next scenario starts clean."""
    daemon = Daemon(lab.folder, settings, name="registrar")
    async with running(daemon):
        for number, one in enumerate(ids):
            api = Api(daemon.ready["api_url"], key_of(lab, scheme, number))
            await api.call("DELETE", f"/v1/webhook_endpoints/{one}", status=204)
        await daemon.stop()


async def drain(lab: Lab, scheme: str, n: int, *, loop: str = "uvloop", n_processes: int = 1) -> Drain:
    """Preload `n` events, start the daemon, and measure until the sink has them all."""
    topic = f"drain-{scheme}-{loop}-{n}-{n_processes}"
    await lab.make_topic(topic)
    idle = f"{topic}-idle"
    await lab.make_topic(idle)
    settings = lab.settings(topic)
    async with sink(lab.folder, n_ports=N_HOSTS, tls=scheme == "https") as to:
        ids = await add_endpoints(lab, lab.settings(idle), to, scheme)
        await publish(lab, topic, n, "live" if scheme == "https" else "test")
        words = ("--loop", loop, "--processes", str(n_processes))
        daemon = Daemon(lab.folder, settings, words, name=topic)
        start = await _cost_of_starting(lab, lab.settings(idle), words)
        result = await _measure(lab, daemon, to, scheme, n, start)
        await remove_endpoints(lab, lab.settings(idle), ids, scheme)
        return result


class Start(NamedTuple):
    """What a daemon takes that comes up with nothing to read, and goes: CPU seconds until ready, round trips in all."""

    cpu_seconds: float
    round_trips: int


async def _cost_of_starting(lab: Lab, settings: dict[str, str], words: tuple[str, ...]) -> Start:
    daemon = Daemon(lab.folder, settings, words, name="idle")
    trips = await _transactions(lab)
    async with running(daemon):
        cost = cpu_seconds(daemon.pid)
        await daemon.stop()
    return Start(cost, await _transactions(lab) - trips)


async def _measure(lab: Lab, daemon: Daemon, to: SinkProcess, scheme: str, n: int, start: Start) -> Drain:
    pids = {"postgres": lab.postgres.pid, "broker": lab.broker_pid, "sink": to.process.pid}
    before = {"daemon": start.cpu_seconds} | {name: cpu_seconds(pid) for name, pid in pids.items()}
    trips = await _transactions(lab) + start.round_trips
    async with running(daemon):
        pids["daemon"] = daemon.pid
        watch, stolen = Watch(daemon.pid), Stolen()
        took = await watch.until(to, n)
        share = stolen.share
        after = {name: cpu_seconds(pid) for name, pid in pids.items()}
        trips = await _transactions(lab) - trips
        assert await daemon.stop() == 0
    per = {name: (after[name] - before[name]) / n * 1_000 for name in pids}
    return Drain(
        scheme,
        n,
        took,
        per["daemon"],
        per["postgres"],
        per["broker"],
        per["sink"],
        trips / n * 1_000,
        watch.early,
        watch.peak,
        share,
    )


class Watch:
    """Follows a drain: when the first and the last request came, and the daemon's memory on the way."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.early = 0
        self.peak = 0

    async def until(self, to: SinkProcess, n: int) -> float:
        """Wait until the sink has counted `n`; return the seconds from its first request to its last."""
        async with asyncio.timeout(30 + n / 500):
            while (count := await to.ask("count")) < n:
                if count >= 10_000:
                    memory = resident_bytes(self._pid)
                    self.early = self.early or memory
                    self.peak = max(self.peak, memory)
                await asyncio.sleep(0.05)
        span: float = await to.ask("span")
        return span


async def _transactions(lab: Lab) -> int:
    """Count the transactions of the database so far: one per statement of the daemon, less the one that asks."""
    connection = await asyncpg.connect(lab.postgres.url)
    try:
        await connection.execute("SELECT pg_stat_force_next_flush()")
        await asyncio.sleep(1.1)
        count: int = await connection.fetchval(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        )
        return count - 2
    finally:
        await connection.close()


def baseline(
    lab: Lab, to: SinkProcess, scheme: str, client: str, loop: str, n: int, concurrency: int
) -> dict[str, Any]:
    """Run one ceiling as a process and return its figures, with `per_1000` CPU seconds and `per_second`."""
    body = lab.folder / "body.json"
    if not body.exists():
        body.write_bytes(event_data(1, workflow="wf_1", size=1_250))
    words = [sys.executable, "-m", "tests.bench.baseline", "--client", client, "--loop", loop, "--n", str(n)]
    words += ["--concurrency", str(concurrency), "--body", str(body), "--ports", ",".join(map(str, to.ports))]
    words += ["--ca", str(lab.folder / "ca.pem")] if scheme == "https" else []
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    found["per_1000"] = found["cpu_seconds"] / n * 1_000
    found["per_second"] = n / found["seconds"]
    return found
