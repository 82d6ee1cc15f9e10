"""From the producer's send to the request received, at a steady rate."""

import asyncio
import base64
import datetime as dt
import hashlib
import time
from collections.abc import Callable

from tests.bench.drain import add_endpoints, environment_of, remove_endpoints
from tests.bench.lab import Lab, event_data, event_headers, producer, sink
from tests.support.daemon import Daemon, running


def event_id(producer_id: str) -> str:
    """Return the public event id that the dispatcher derives from source and id."""
    digest = hashlib.sha256(f"/bench\n{producer_id}".encode()).digest()[:20]
    return "evt_" + base64.b32encode(digest).decode().lower()


async def latency(lab: Lab, *, per_second: int, seconds: int, loop: str = "uvloop") -> list[float]:
    """Return the latencies in milliseconds, ascending, of `per_second` events/s for `seconds`, one host, https."""
    topic = f"latency-{loop}-{per_second}"
    await lab.make_topic(topic)
    async with sink(lab.folder, n_ports=1, tls=True, times=True) as to:
        ids = await add_endpoints(lab, lab.settings(topic), to, "https")
        daemon = Daemon(lab.folder, lab.settings(topic), ("--loop", loop), name=f"latency-{loop}")
        async with running(daemon):
            await send(lab, topic, per_second, 2, "warm")
            await to.count_to(per_second * 2, seconds=30)
            sent = await send(lab, topic, per_second, seconds, "run")
            await to.count_to(per_second * (seconds + 2), seconds=30)
            received = await to.ask("times")
            assert await daemon.stop() == 0
        await remove_endpoints(lab, lab.settings(topic), ids, "https")
    return sorted((received[event_id(name)] - at) / 1e6 for name, at in sent.items())


async def send(
    lab: Lab, topic: str, per_second: int, seconds: int, phase: str, workflow: Callable[[int], int] = lambda _: 0
) -> dict[str, int]:
    """Send at a steady pace; return the monotonic nanosecond at which each send was called, in order.

    `workflow` names the endpoint of the n-th event.
    """
    sent: dict[str, int] = {}
    waiting = []
    async with producer(lab) as kafka:
        began = time.monotonic()
        for number in range(per_second * seconds):
            await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            name = f"{topic}-{phase}-{number}"
            when = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            host = workflow(number)
            data = event_data(number, workflow=f"wf_{host}")
            sent[name] = time.monotonic_ns()
            key = f"ver_{number:012d}".encode()
            waiting.append(
                await kafka.send(
                    topic, data, key=key, headers=event_headers(name, number, environment_of("https", host), when)
                )
            )
        for one in waiting:
            await one
    return sent


def percentile(ascending: list[float], share: float) -> float:
    """Return the value below which `share` (0..1) of the ascending values lie."""
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))]
