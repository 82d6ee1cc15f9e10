"""The cheapest client that still reads answers: prepared requests over connections that stay, at a steady pace.

It shares the cores with what is measured, so it tells what it took itself.

    python -m tests.bench.readers --url URL --plan FILE

reads while standard input says so: a line begins a time of reading, the next one ends it, and one JSON line about it
goes to standard output; the end of the input ends the process.
"""

import argparse
import asyncio
import json
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import uvloop

READS_PER_SECOND: Final = 200
_N_CONNECTIONS: Final = 20
_HEAD_END: Final = b"\r\n\r\n"


class Readers:
    """Connections and the pace at which they ask; one request under way on each."""

    def __init__(self, requests: list[bytes]) -> None:
        self._requests = cycle(requests)
        self.idle: list[_Reader] = []
        self.n_answers = self.n_refused = self.n_late = 0

    def ask(self) -> None:
        """Make the next request, unless all connections wait for an answer: then it is left out and counted."""
        if self.idle:
            self.idle.pop().ask(next(self._requests))
        else:
            self.n_late += 1

    def told(self) -> dict[str, float]:
        """Return what was counted since the last time."""
        told: dict[str, float] = {"answers": self.n_answers, "refused": self.n_refused, "late": self.n_late}
        self.n_answers = self.n_refused = self.n_late = 0
        return told


class _Reader(asyncio.Protocol):
    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._transport: Any = None
        self._begun: list[bytes] = []
        self._missing: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._readers.idle.append(self)

    def ask(self, request: bytes) -> None:
        self._transport.write(request)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._missing is None:
            self._begun.append(data)
            begun = b"".join(self._begun)
            end = begun.find(_HEAD_END)
            if end < 0:
                return
            self._readers.n_refused += not begun.startswith(b"HTTP/1.1 200 ")
            at = begun.index(b"Content-Length: ") + 16
            self._missing = int(begun[at : begun.index(b"\r\n", at)]) + end + len(_HEAD_END) - len(begun)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._begun, self._missing = [], None
            self._readers.n_answers += 1
            self._readers.idle.append(self)


async def read(url: str, plan: dict[str, list[str]]) -> None:
    """Read whenever standard input says so, until it ends."""
    readers = Readers(_requests(urlsplit(url).netloc, plan))
    words = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), sys.stdin)
    while await words.readline():
        began = time.process_time()
        await _read_until(asyncio.ensure_future(words.readline()), readers, url)
        told = readers.told() | {"cpu_seconds": time.process_time() - began}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def _requests(host: str, plan: dict[str, list[str]]) -> list[bytes]:
    """Return every path with every key, neither twice in a row."""
    paths, keys = plan["paths"], plan["keys"]
    pairs = [(paths[(n + shift) % len(paths)], key) for shift in range(len(paths)) for n, key in enumerate(keys)]
    return [
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n\r\n".encode() for path, key in pairs
    ]


async def _read_until(ended: "asyncio.Future[bytes]", readers: Readers, url: str) -> None:
    """Ask at a steady pace until then, over connections of this time: the server closes those that rest for long."""
    where, loop = urlsplit(url), asyncio.get_running_loop()
    for _ in range(_N_CONNECTIONS):
        await loop.create_connection(lambda: _Reader(readers), str(where.hostname), where.port or 80)
    began, n_asked = time.monotonic(), 0
    while not ended.done():
        readers.ask()
        n_asked += 1
        await asyncio.sleep(max(0.0, began + n_asked / READS_PER_SECOND - time.monotonic()))
    # What is under way is still answered.
    while len(readers.idle) < _N_CONNECTIONS:
        await asyncio.sleep(0.01)
    while readers.idle:
        readers.idle.pop().close()


def main() -> None:
    """Read as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--plan", type=Path, required=True)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(read(arguments.url, json.loads(arguments.plan.read_text())))


if __name__ == "__main__":
    main()
