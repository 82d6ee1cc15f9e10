"""A sink that costs as little as Python allows, for benchmarks that share its processor.

Answers every POST with an empty 200 and keeps the connection. Counts requests, and those whose head
lacks a POST line or a Content-Length (`bad`). With `times`, remembers when each `webhook-id` came.

    GET /_control  {"requests": 20000, "connections": 512, "bad": 0, "bytes": 20480000}
    GET /_times    a line `monotonic-seconds webhook-id` for each request since the last asking
"""

import asyncio
import json
from typing import cast

from dispatcher.kit import clock

_HEAD_LIMIT_BYTES = 1 << 16
_LENGTH = b"\r\ncontent-length:"
_IDENTITY = b"\r\nwebhook-id:"


class Tally:
    """What all connections of one fast sink have seen; `answer` is what each request gets."""

    def __init__(self, *, status: int = 200, is_timing: bool = False) -> None:
        self.requests = 0
        self.connections = 0
        self.bad = 0
        self.bytes = 0
        self.times: list[tuple[float, bytes]] | None = [] if is_timing else None
        length = b"" if status == 204 else b"Content-Length: 0\r\n"
        self.answer = b"HTTP/1.1 %d Fine\r\n%b\r\n" % (status, length)

    def control(self, head: bytes) -> bytes:
        """Return the answer to a GET."""
        if head.startswith(b"GET /_times"):
            taken, self.times = self.times or [], [] if self.times is not None else None
            body = b"".join(b"%.6f %b\n" % one for one in taken)
        else:
            names = ("requests", "connections", "bad", "bytes")
            body = json.dumps({name: getattr(self, name) for name in names}).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class FastSink(asyncio.Protocol):
    """One connection; requests may come in any pieces, and several in one piece."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._held = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count a connection."""
        # A cast, since uvloop's transports are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._tally.connections += 1

    def data_received(self, data: bytes) -> None:
        """Answer every request that ends in `data`; a head that is none ends the connection."""
        assert self._transport is not None
        data = self._held + data
        at = 0
        answers = []
        while at < len(data):
            end = data.find(b"\r\n\r\n", at)
            if end < 0:
                break
            length = self._length(head := data[at:end])
            if length < 0:
                self._transport.abort()
                return
            if len(data) - end - 4 < length:
                break
            at = end + 4 + length
            answers.append(self._take(head, length))
        self._held = data[at:]
        if len(self._held) > _HEAD_LIMIT_BYTES and b"\r\n\r\n" not in self._held:
            self._tally.bad += 1
            self._transport.abort()
        elif answers:
            self._transport.write(b"".join(answers))

    def _length(self, head: bytes) -> int:
        if head.startswith(b"GET /_"):
            return 0
        at = head.lower().find(_LENGTH)
        text = head[at + len(_LENGTH) :].split(b"\r\n", 1)[0].strip() if at >= 0 else b""
        if not head.startswith(b"POST ") or not text.isdigit():
            self._tally.bad += 1
            return -1
        return int(text)

    def _take(self, head: bytes, length: int) -> bytes:
        tally = self._tally
        if head.startswith(b"GET /_"):
            return tally.control(head)
        tally.requests += 1
        tally.bytes += length
        if tally.times is not None:
            identity = head[head.lower().find(_IDENTITY) + len(_IDENTITY) :].split(b"\r\n", 1)[0]
            tally.times.append((clock.mono(), identity.strip()))
        return tally.answer
