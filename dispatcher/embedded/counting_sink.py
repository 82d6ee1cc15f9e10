"""An endpoint that costs next to nothing: it counts requests, answers 204, and keeps when each event first came."""

import asyncio
import time
from collections.abc import Container
from typing import Final, Self, cast

_ANSWER: Final = b"HTTP/1.1 204 No Content\r\n\r\n"
_HEAD_END: Final = b"\r\n\r\n"


class CountingSink:
    """Listens on any free port of 127.0.0.1; an async context manager. Times are monotonic seconds.

    Written for the dispatcher's own requests: every one has a Content-Length.
    """

    def __init__(self) -> None:
        self.url = ""
        self.n_requests = 0
        self.first_mono = self.last_mono = 0.0
        self.arrivals: dict[str, float] = {}
        self._wanted: Container[str] | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1_024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    def begin(self, wanted: Container[str]) -> None:
        """Count from zero again, and these events alone: what was sent before may still be on its way."""
        self._wanted = wanted
        self.n_requests = 0
        self.first_mono = self.last_mono = 0.0
        self.arrivals = {}

    def note(self, event_id: str) -> None:
        """Count one request, unless it is none of those that are wanted."""
        if self._wanted is not None and event_id not in self._wanted:
            return
        now = time.monotonic()
        self.n_requests += 1
        self.first_mono = self.first_mono or now
        self.last_mono = now
        self.arrivals.setdefault(event_id, now)


class _Connection(asyncio.Protocol):
    """Frames requests, which may come in pieces or several at once."""

    def __init__(self, sink: CountingSink) -> None:
        self._sink = sink
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        n_answers = 0
        while (end := buffer.find(_HEAD_END)) >= 0:
            head = buffer[:end].lower()
            whole = end + len(_HEAD_END) + int(_value(head, b"content-length"))
            if len(buffer) < whole:
                break
            self._sink.note(_value(head, b"webhook-id").decode("latin-1"))
            buffer = buffer[whole:]
            n_answers += 1
        self._buffer = buffer
        if n_answers and self._transport is not None:
            self._transport.write(_ANSWER * n_answers)


def _value(head: bytes, name: bytes) -> bytes:
    """Return a header's value out of a lower-case head."""
    _, _, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip()
