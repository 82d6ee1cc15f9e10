"""A server that says exactly the bytes it is told, when it is told, and remembers what it got."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Visit:
    """One connection to the sink. `number` counts from 0 in the order of arrival."""

    def __init__(
        self,
        sink: "RawSink",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        number: int,
    ) -> None:
        self._sink = sink
        self._reader = reader
        self._writer = writer
        self.number = number

    async def request(self) -> bytes:
        """Return the next whole request; raises IncompleteReadError when the client has left."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        request = head + await self._reader.readexactly(length)
        self._sink.requests.append(request)
        return request

    async def say(self, data: bytes) -> None:
        """Send bytes; raises ConnectionError when the client has left."""
        self._writer.write(data)
        await self._writer.drain()

    async def drip(self, data: bytes) -> None:
        """Send bytes one by one, each in a packet of its own, one millisecond apart."""
        for at in range(len(data)):
            await self.say(data[at : at + 1])
            await asyncio.sleep(0.001)

    async def flood(self, data: bytes) -> None:
        """Send the same bytes until the client leaves."""
        while True:
            await self.say(data)
            self._sink.flooded_bytes += len(data)

    async def until_client_leaves(self) -> None:
        """Wait, reading and dropping, for the end of the connection."""
        with suppress(ConnectionError):
            while await self._reader.read(65_536):
                pass

    def reset(self) -> None:
        """End with a reset."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script = Callable[[Visit], Awaitable[None]]


class RawSink:
    """Runs one script per connection on a loopback port. The connection closes when its script ends."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.port = 0
        self.requests: list[bytes] = []
        self.n_connections = 0
        self.n_open = 0
        self.received_bytes = 0
        self.flooded_bytes = 0
        self.emptied = asyncio.Event()
        self.visiting: set[asyncio.Task[None]] = set()

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Play the script on a new connection."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self.visiting.add(task)
        visit = Visit(self, reader, writer, self.n_connections)
        self.n_connections += 1
        self.n_open += 1
        self.emptied.clear()
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._script(visit)
        finally:
            self.visiting.discard(task)
            self.n_open -= 1
            if not self.n_open:
                self.emptied.set()
            writer.close()


@asynccontextmanager
async def raw_sink(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawSink]:
    """Serve `script` on 127.0.0.1; open connections end with the context."""
    sink = RawSink(script)
    server = await asyncio.start_server(sink.visit, "127.0.0.1", 0, ssl=tls)
    sink.port = server.sockets[0].getsockname()[1]
    try:
        yield sink
    finally:
        server.close()
        for task in set(sink.visiting):
            task.cancel()
        if sink.visiting:
            await asyncio.wait(sink.visiting)


def answering(*answers: bytes) -> Script:
    """Return a script that reads a request and says an answer, in turn, the last one again and again."""

    async def script(visit: Visit) -> None:
        at = 0
        while True:
            await visit.request()
            await visit.say(answers[min(at, len(answers) - 1)])
            at += 1

    return script
