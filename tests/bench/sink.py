"""The cheapest endpoint that still reads requests: many ports, one process, keep-alive, 204.

It frames requests by content-length, counts them, and keeps times of arrival by event id or port where asked. It shares
the two cores with what is measured, so it has no event loop, which costs nearly twice as much: epoll itself, one
receive and one send per request, and TLS in memory, where no look for a next record asks the kernel.

    python -m tests.bench.sink --ports 20 --ready FILE [--tls FOLDER] [--times] [--arrivals]
"""

import argparse
import json
import select
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from dispatcher.sending.faults import AttemptFailed
from dispatcher.sending.tls import TlsLayer

_ANSWER: Final = b"HTTP/1.1 204 No Content\r\n\r\n"
_BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
_BACKLOG: Final = 1_024
_READ_BYTES: Final = 1 << 14


class Counts:
    """What came: how many requests, when the first and the last, and more where asked."""

    def __init__(self, *, times: bool, arrivals: bool) -> None:
        self.n = 0
        self.first = self.last = 0
        self.times: dict[bytes, int] | None = {} if times else None
        self.arrivals: list[tuple[int, int]] | None = [] if arrivals else None

    def answer(self, question: bytes) -> Any:
        """Answer `count`, `span` (seconds from the first request to the last), `times` or `arrivals`."""
        if question == b"count":
            return self.n
        if question == b"span":
            return (self.last - self.first) / 1e9
        if question == b"arrivals":
            return self.arrivals
        return {name.decode(): at for name, at in (self.times or {}).items()}


class Framing:
    """Requests of one connection, which may arrive in pieces or glued together."""

    def __init__(self, counts: Counts, host: int) -> None:
        self._counts = counts
        self._host = host
        self._buffer = b""

    def feed(self, data: bytes) -> int:
        """Take bytes in; return how many requests have become whole."""
        counts = self._counts
        buffer = self._buffer + data if self._buffer else data
        n = 0
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = buffer[:end].lower()
            at = head.find(b"content-length:")
            line_end = head.find(b"\r\n", at)
            length = int(head[at + 15 : line_end if line_end > 0 else len(head)])
            if len(buffer) < end + 4 + length:
                break
            if counts.times is not None:
                at = head.find(b"webhook-id:") + 11
                counts.times.setdefault(head[at : head.find(b"\r\n", at)].strip(), time.monotonic_ns())
            if counts.arrivals is not None:
                counts.arrivals.append((self._host, time.monotonic_ns()))
            buffer = buffer[end + 4 + length :]
            n += 1
        self._buffer = buffer
        if n:
            counts.last = time.monotonic_ns()
            counts.first = counts.first or counts.last
            counts.n += n
        return n


class ServingLayer(TlsLayer):
    """The server's side of TLS, as the wire has the client's."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.is_established = self.is_ended = False

    def hear(self, data: bytes) -> bytes:
        """Return what the peer's bytes say; empty while they shake hands."""
        if not self.is_established:
            self.shake(data)
            data = b""
        return self.open(data)


class Sink:
    """All ports and their connections."""

    def __init__(self, counts: Counts, context: ssl.SSLContext | None) -> None:
        self._counts = counts
        self._context = context
        self._poll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}

    def listen(self, answer: bytes, host: int) -> int:
        """Open a port whose requests get this answer; return its number."""
        return self._listen(partial(self._visit, answer, host))

    def listen_for_questions(self) -> int:
        """Open a port that answers questions, one JSON line each; return its number."""
        return self._listen(self._ask)

    def serve(self) -> NoReturn:
        """Serve until a signal ends the process."""
        readers = self._readers
        while True:
            for number, _ in self._poll.poll():
                readers[number]()

    def _listen(self, begin: Callable[[socket.socket], Callable[[], None]]) -> int:
        listening = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)

        def accept() -> None:
            connection, _ = listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._watch(connection, begin(connection))

        self._watch(listening, accept)
        number: int = listening.getsockname()[1]
        return number

    def _watch(self, one: socket.socket, read: Callable[[], None]) -> None:
        self._readers[one.fileno()] = read
        self._poll.register(one, select.EPOLLIN)

    def _leave(self, one: socket.socket) -> None:
        del self._readers[one.fileno()]
        one.close()

    def _visit(self, answer: bytes, host: int, one: socket.socket) -> Callable[[], None]:
        feed = Framing(self._counts, host).feed
        receive, send = one.recv, one.sendall
        layer = None if self._context is None else ServingLayer(self._context)

        def read() -> None:
            try:
                data = receive(_READ_BYTES)
                if not data:
                    self._leave(one)
                elif layer is None:
                    if n := feed(data):
                        send(answer * n)
                else:
                    said = layer.hear(data)
                    n = feed(said) if said else 0
                    if leaving := layer.seal(answer * n) if n and answer else layer.pending():
                        send(leaving)
            except (OSError, AttemptFailed):
                # It has left in its own way, or says what is no TLS.
                self._leave(one)

        return read

    def _ask(self, one: socket.socket) -> Callable[[], None]:
        def read() -> None:
            question = one.recv(_READ_BYTES).strip()
            if question:
                one.sendall(json.dumps(self._counts.answer(question)).encode() + b"\n")
            else:
                self._leave(one)

        return read


def main() -> None:
    """Parse the command line and serve until SIGTERM; the ready file holds the ports and the one for questions."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ports", type=int, default=20)
    parser.add_argument("--ready", type=Path, required=True)
    parser.add_argument("--tls", type=Path)
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--arrivals", action="store_true", help="keep when each port got each request")
    parser.add_argument("--hang", type=int, default=0, help="so many ports never answer")
    parser.add_argument("--busy", type=int, default=0, help="the next so many ports answer 503")
    arguments = parser.parse_args()
    counts = Counts(times=arguments.times, arrivals=arguments.arrivals)
    sink = Sink(counts, _tls(arguments.tls) if arguments.tls else None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    kinds = [b""] * arguments.hang + [_BUSY] * arguments.busy
    kinds += [_ANSWER] * (arguments.ports - len(kinds))
    ready = {
        "ports": [sink.listen(answer, host) for host, answer in enumerate(kinds)],
        "control": sink.listen_for_questions(),
    }
    half = arguments.ready.with_suffix(".partial")
    half.write_text(json.dumps(ready))
    half.rename(arguments.ready)
    sink.serve()


def _tls(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    return context


if __name__ == "__main__":
    main()
