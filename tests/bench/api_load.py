"""Delivery latency while the API of the same process is read from, against that without.

    python -m tests.bench.api_load --url URL --plan FILE

reads until it is terminated, from a process of its own, and prints one JSON line: how many answers, and how many of
them were not 200.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import orjson

from tests.bench.drain import add_endpoints, remove_endpoints
from tests.bench.lab import ACCOUNT, Lab, SinkProcess, sink
from tests.bench.latency import event_id, send
from tests.support.daemon import Daemon, run_command, running

PER_SECOND: Final = 100
READS_PER_SECOND: Final = 200
_N_KEYS: Final = 16
"""One key may make 20 requests a second."""
_MOST_AT_ONCE: Final = 50
_READS: Final = (
    "/v1/webhook_endpoints",
    "/v1/deliveries",
    "/v1/deliveries?status=delivered&type=verification.*",
    "/v1/webhook_endpoints/{endpoint}",
    "/v1/webhook_endpoints/{endpoint}/deliveries",
    "/v1/webhook_endpoints/{endpoint}/attempts?outcome=2xx",
    "/v1/webhook_endpoints/{endpoint}/stats",
    "/v1/events?limit=5",
)


class Course(NamedTuple):
    """Latencies of deliveries in milliseconds, ascending; answers of the API, and those that were no 200."""

    milliseconds: list[float]
    n_answers: int
    n_refused: int


async def api_load(lab: Lab, seconds: int) -> tuple[Course, Course]:
    """Return the course of `seconds` without readers, and then with them, of one daemon."""
    topic = "api-load"
    await lab.make_topic(topic)
    settings = lab.settings(topic)
    keys = [_make_key(settings) for _ in range(_N_KEYS)]
    async with sink(lab.folder, n_ports=1, tls=True, times=True) as to:
        (endpoint,) = await add_endpoints(lab, settings, to, "https")
        daemon = Daemon(lab.folder, settings, ("--loop", "uvloop"), name=topic)
        async with running(daemon):
            await send(lab, topic, PER_SECOND, 2, "warm")
            alone = Course(await _deliver(lab, to, topic, seconds, "alone"), 0, 0)
            async with _readers(lab, daemon.ready["api_url"], endpoint, keys) as told:
                milliseconds = await _deliver(lab, to, topic, seconds, "read")
            assert await daemon.stop() == 0
        await remove_endpoints(lab, settings, [endpoint], "https")
    return alone, Course(milliseconds, told["answers"], told["refused"])


def _make_key(settings: dict[str, str]) -> str:
    made = orjson.loads(run_command(settings, "keys", "create", "--account", ACCOUNT, "--env", "live", "-o", "json"))
    key: str = made["key"]
    return key


async def _deliver(lab: Lab, to: SinkProcess, topic: str, seconds: int, phase: str) -> list[float]:
    sent = await send(lab, topic, PER_SECOND, seconds, phase)
    await to.have({event_id(name) for name in sent}, seconds=30)
    received = await to.ask("times")
    return sorted((received[event_id(name)] - at) / 1e6 for name, at in sent.items())


@asynccontextmanager
async def _readers(lab: Lab, url: str, endpoint: str, keys: list[str]) -> AsyncIterator[dict[str, int]]:
    """Read for the time of the block; what is given is filled at its end."""
    file = lab.folder / "readers.json"
    file.write_text(json.dumps({"keys": keys, "paths": [path.format(endpoint=endpoint) for path in _READS]}))
    words = (sys.executable, "-m", "tests.bench.api_load", "--url", url, "--plan", str(file))
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    told: dict[str, int] = {}
    try:
        yield told
    finally:
        process.terminate()
        printed, _ = await asyncio.to_thread(process.communicate, timeout=20)
    told.update(json.loads(printed))


async def _read(url: str, plan: dict[str, list[str]]) -> dict[str, int]:
    """Make requests at a steady pace, slower when so many are unanswered, until SIGTERM."""
    told = {"answers": 0, "refused": 0}
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    room = asyncio.Semaphore(_MOST_AT_ONCE)
    keys, paths = cycle(plan["keys"]), cycle(plan["paths"])

    async def ask(client: aiohttp.ClientSession) -> None:
        try:
            async with client.get(next(paths), headers={"Authorization": f"Bearer {next(keys)}"}) as answer:
                await answer.read()
        finally:
            room.release()
        told["answers"] += 1
        told["refused"] += answer.status != 200

    began, n_asked = time.monotonic(), 0
    async with aiohttp.ClientSession(url) as client, asyncio.TaskGroup() as group:
        while not ended.is_set():
            await asyncio.sleep(max(0.0, began + n_asked / READS_PER_SECOND - time.monotonic()))
            await room.acquire()
            group.create_task(ask(client))
            n_asked += 1
    return told


def main() -> None:
    """Read as the command line says and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--plan", type=Path, required=True)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(_read(arguments.url, json.loads(arguments.plan.read_text())))))


if __name__ == "__main__":
    main()
