"""Ceilings: what it costs to only post signed bodies, without Kafka, Postgres, lanes, logs or metrics.

    python -m tests.bench.baseline --client aiohttp|wire --ports 1,2 --n 5000 --concurrency 50 --body FILE
        [--ca FILE] [--loop uvloop]

Prints one JSON line: requests, wall seconds, CPU seconds of this process.
"""

import argparse
import asyncio
import base64
import hmac
import json
import resource
import ssl
import time
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

KEY = b"k" * 36


def signed_headers(number: int, body: bytes) -> dict[str, str]:
    """Return the headers that the dispatcher sends, signed the same way."""
    event_id, stamp = f"evt_{number:032d}", str(int(time.time()))
    digest = hmac.digest(KEY, f"{event_id}.{stamp}.".encode() + body, "sha256")
    return {
        "content-type": "application/json",
        "user-agent": "Bench-Webhooks/1",
        "webhook-id": event_id,
        "webhook-timestamp": stamp,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
        "x-webhook-event": "verification.completed",
        "x-webhook-delivery": "dlv_0123456789abc",
        "x-webhook-attempt": "1/10",
        "x-webhook-environment": "live",
    }


async def post_with_aiohttp(arguments: argparse.Namespace, body: bytes) -> None:
    """Post everything with one `ClientSession`, `concurrency` at a time."""
    context = ssl.create_default_context(cafile=arguments.ca) if arguments.ca else None
    scheme = "https" if context else "http"
    connector = aiohttp.TCPConnector(limit=0, ssl=context or True)
    numbers = iter(range(arguments.n))

    async def work(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            url = f"{scheme}://127.0.0.1:{arguments.ports[number % len(arguments.ports)]}/hook"
            async with session.post(
                url, data=body, headers=signed_headers(number, body), allow_redirects=False
            ) as answer:
                await answer.read()
                assert answer.status == 204

    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        for _ in range(arguments.concurrency):
            group.create_task(work(session))


async def post_with_wire(arguments: argparse.Namespace, body: bytes) -> None:
    """Post everything with the dispatcher's own sender, `concurrency` at a time."""
    from tests.bench.bare_wire import make_sender

    sender, targets, make_delivery = make_sender(arguments.ports, arguments.ca, KEY)
    numbers = iter(range(arguments.n))

    async def work() -> None:
        for number in numbers:
            outcome = await sender.send(targets[number % len(targets)], make_delivery(number, body), 1)
            assert outcome.status == 204, outcome

    async with asyncio.TaskGroup() as group:
        for _ in range(arguments.concurrency):
            group.create_task(work())
    await sender.aclose()


def main() -> None:
    """Run one client and print what it cost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--client", choices=("aiohttp", "wire"), required=True)
    parser.add_argument("--ports", type=lambda text: [int(part) for part in text.split(",")], required=True)
    parser.add_argument("--n", type=int, default=5_000)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--body", type=Path, required=True)
    parser.add_argument("--ca")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    arguments = parser.parse_args()
    body = arguments.body.read_bytes()
    post: Any = post_with_aiohttp if arguments.client == "aiohttp" else post_with_wire
    factory = uvloop.new_event_loop if arguments.loop == "uvloop" else asyncio.new_event_loop
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(post(arguments, body))
    after, took = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - began
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"n": arguments.n, "seconds": took, "cpu_seconds": cpu}))


if __name__ == "__main__":
    main()
