"""Run a sink as a process: `python -m tests.support.sink --ready-file FILE`; SIGTERM ends it."""

import argparse
import asyncio
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from tests.support.certificates import Certificates
from tests.support.sink.fast import FastSink, Tally
from tests.support.sink.listening import listening_sockets
from tests.support.sink.server import Sink


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.support.sink")
    parser.add_argument("--host", action="append", help="loopback address, repeatable")
    parser.add_argument("--port", type=int, default=0, help="0 is any free one")
    parser.add_argument("--ready-file", type=Path, required=True, help="JSON: urls, port, pid")
    parser.add_argument("--log", type=Path, help="a JSON line for each request (not with --fast)")
    parser.add_argument("--tls-ca-out", type=Path, help="serve https, write the authority there")
    parser.add_argument("--fast", action="store_true", help="count only, on uvloop")
    parser.add_argument("--status", type=int, default=200, help="what --fast answers")
    parser.add_argument("--times", action="store_true", help="with --fast: serve GET /_times")
    chosen = parser.parse_args()
    chosen.host = chosen.host or ["127.0.0.1"]
    return chosen


async def _run(chosen: argparse.Namespace) -> None:
    ended = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, ended.set)
    tls = None
    if chosen.tls_ca_out:
        certificates = Certificates()
        certificates.write_authority(chosen.tls_ca_out)
        tls = certificates.server_context()
    serving = _fast(chosen, tls) if chosen.fast else _scripted(chosen, tls)
    async with serving as port:
        _say_ready(chosen, port)
        await ended.wait()


@asynccontextmanager
async def _scripted(chosen: argparse.Namespace, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    async with Sink.serving(hosts=chosen.host, port=chosen.port, tls=tls, log=chosen.log) as sink:
        yield sink.port


@asynccontextmanager
async def _fast(chosen: argparse.Namespace, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    tally = Tally(status=chosen.status, is_timing=chosen.times)
    sockets = listening_sockets(chosen.host, chosen.port)
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda: FastSink(tally), sock=one, ssl=tls, backlog=4096) for one in sockets]
    try:
        yield sockets[0].getsockname()[1]
    finally:
        for server in servers:
            server.close()


def _say_ready(chosen: argparse.Namespace, port: int) -> None:
    facts = {
        "scheme": "https" if chosen.tls_ca_out else "http",
        "hosts": chosen.host,
        "port": port,
        "pid": os.getpid(),
    }
    fresh = chosen.ready_file.with_name(f"{chosen.ready_file.name}.new")
    fresh.write_text(json.dumps(facts))
    fresh.rename(chosen.ready_file)


def main() -> None:
    """Serve until told to end."""
    chosen = _arguments()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if chosen.fast else None) as runner:
        runner.run(_run(chosen))


if __name__ == "__main__":
    main()
