"""The cheapest endpoint that still reads requests: many ports, one process, keep-alive, 204.

It frames requests by content-length, counts them, and keeps times of arrival by event id or port where asked, so that
the measured program is slowed by as little as possible on the same two cores.

    python -m tests.bench.sink --ports 20 --ready FILE [--tls FOLDER] [--times] [--arrivals]
"""

import argparse
import asyncio
import json
import signal
import ssl
import time
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


class Sink(asyncio.Protocol):
    """One connection. Requests may arrive in pieces or glued together."""

    count = 0
    first = last = 0
    times: dict[bytes, int] | None = None
    arrivals: list[tuple[int, int]] | None = None

    def __init__(self, answer: bytes = _ANSWER, host: int = 0) -> None:
        self._answer = answer
        self._host = host
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every whole request in the buffer."""
        buffer = self._buffer + data if self._buffer else data
        answers = 0
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = buffer[:end].lower()
            at = head.find(b"content-length:")
            line_end = head.find(b"\r\n", at)
            length = int(head[at + 15 : line_end if line_end > 0 else len(head)])
            if len(buffer) < end + 4 + length:
                break
            if Sink.times is not None:
                at = head.find(b"webhook-id:") + 11
                Sink.times.setdefault(head[at : head.find(b"\r\n", at)].strip(), time.monotonic_ns())
            if Sink.arrivals is not None:
                Sink.arrivals.append((self._host, time.monotonic_ns()))
            buffer = buffer[end + 4 + length :]
            answers += 1
        self._buffer = buffer
        if answers:
            Sink.last = time.monotonic_ns()
            Sink.first = Sink.first or Sink.last
            Sink.count += answers
            self._transport.write(self._answer * answers)


async def _control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer `count`, `span` (seconds from the first request to the last), `times`, `arrivals`; one JSON line each."""
    while line := await reader.readline():
        if line.strip() == b"count":
            answer: Any = Sink.count
        elif line.strip() == b"span":
            answer = (Sink.last - Sink.first) / 1e9
        elif line.strip() == b"arrivals":
            answer = Sink.arrivals
        else:
            answer = {name.decode(): at for name, at in (Sink.times or {}).items()}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
    writer.close()


def _tls(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    return context


async def serve(arguments: argparse.Namespace) -> None:
    """Listen until SIGTERM; the ready file holds the ports and the control port."""
    loop = asyncio.get_running_loop()
    context = _tls(arguments.tls) if arguments.tls else None
    if arguments.times:
        Sink.times = {}
    if arguments.arrivals:
        Sink.arrivals = []
    kinds = [b""] * arguments.hang + [_BUSY] * arguments.busy
    kinds += [_ANSWER] * (arguments.ports - len(kinds))
    servers = [
        await loop.create_server(partial(Sink, answer, host), "127.0.0.1", 0, ssl=context, backlog=1_024)
        for host, answer in enumerate(kinds)
    ]
    control = await asyncio.start_server(_control, "127.0.0.1", 0, limit=1 << 26)
    ready = {
        "ports": [server.sockets[0].getsockname()[1] for server in servers],
        "control": control.sockets[0].getsockname()[1],
    }
    half = arguments.ready.with_suffix(".partial")
    half.write_text(json.dumps(ready))
    half.rename(arguments.ready)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ports", type=int, default=20)
    parser.add_argument("--ready", type=Path, required=True)
    parser.add_argument("--tls", type=Path)
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--arrivals", action="store_true", help="keep when each port got each request")
    parser.add_argument("--hang", type=int, default=0, help="so many ports never answer")
    parser.add_argument("--busy", type=int, default=0, help="the next so many ports answer 503")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
