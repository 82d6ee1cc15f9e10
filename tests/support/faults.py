"""A TCP proxy that spoils links to Postgres and Kafka, in the vocabulary of Toxiproxy.

    async with FaultProxy.between("127.0.0.1", server_port) as proxy:
        ...connect to 127.0.0.1:proxy.port...
        proxy.downstream.latency_seconds = 0.2        # server -> client
        proxy.upstream.cut_after(1000)                # close after 1000 more bytes client -> server
        proxy.downstream.drop()                       # swallow replies: did the commit happen?
        await proxy.down(); await proxy.up()          # refuse and cut; serve again on the same port
        proxy.heal()

Upstream is what the client says, downstream what the server answers. A Kafka client leaves for the
address that its broker advertises: have that replaced by the proxy's (`kafka=True`). Where clients of one
proxy need faults of their own, `ways_of` tells them apart by the port they come from.
"""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from dispatcher.embedded.children import free_port
from dispatcher.kit import clock

_READ_BYTES = 65536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Direction:
    """What happens to all bytes in one direction. Set at any time; `heal` undoes."""

    def __init__(self) -> None:
        self.latency_seconds = 0.0
        self.jitter_seconds = 0.0
        self.slow_close_seconds = 0.0
        self.bytes_per_second: float | None = None
        self.n_bytes = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._came = asyncio.Event()
        self._is_dropping = False
        self._left: int | None = None
        self._is_reset = False

    def stall(self) -> None:
        """Hold all bytes back, connections open, until `heal`."""
        self._flowing.clear()

    def drop(self) -> None:
        """Read and swallow all bytes, connections open: the other side never hears of them."""
        self._is_dropping = True

    def cut_after(self, n_bytes: int) -> None:
        """Let `n_bytes` more pass, then close the connection they went over (FIN)."""
        self._left, self._is_reset = n_bytes, False

    def reset_after(self, n_bytes: int) -> None:
        """Let `n_bytes` more pass, then abort the connection they went over (RST)."""
        self._left, self._is_reset = n_bytes, True

    def heal(self) -> None:
        """Let everything pass again; what was swallowed stays so."""
        self.latency_seconds = self.jitter_seconds = self.slow_close_seconds = 0.0
        self.bytes_per_second = None
        self._left, self._is_dropping = None, False
        self._flowing.set()

    async def until(self, n_bytes: int) -> None:
        """Wait until `n_bytes` have come in all, passed on or swallowed; see `n_bytes`."""
        while self.n_bytes < n_bytes:
            self._came.clear()
            await self._came.wait()

    async def flowing(self) -> None:
        """Wait while stalled."""
        await self._flowing.wait()

    def admit(self, data: bytes) -> tuple[bytes, "Ending | None"]:
        """Return what passes of `data`, and how the connection then ends, None if it does not."""
        self.n_bytes += len(data)
        self._came.set()
        if self._is_dropping:
            return b"", None
        if self._left is None or len(data) < self._left:
            self._left = None if self._left is None else self._left - len(data)
            return data, None
        passed, self._left = data[: self._left], None
        return passed, _abort if self._is_reset else _close

    async def travel(self, came_at: float) -> None:
        """Wait until a piece that came at `came_at` has been under way for long enough; pieces never overtake."""
        delay = self.latency_seconds + random.uniform(0.0, self.jitter_seconds)
        await asyncio.sleep(max(0.0, came_at + delay - clock.mono()))

    async def pace(self, n_bytes: int) -> None:
        """Wait as long as `n_bytes` take at the set rate."""
        if self.bytes_per_second:
            await asyncio.sleep(n_bytes / self.bytes_per_second)


Ending = Callable[[asyncio.StreamWriter], None]
Ways = tuple[Direction, Direction]
"""Upstream and downstream of one connection."""


def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()


def _abort(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


class FaultProxy:
    """A proxy in front of one server, made by `between`. `n_connections` counts them all.

    `ways_of` is given the port that a connection comes from and returns the directions that it obeys; by default all
    obey the proxy's own two. `listen` is the address to listen on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        listen: str = "127.0.0.1",
        kafka: bool = False,
        ways_of: Callable[[int], Ways] | None = None,
    ) -> None:
        self.port = 0
        self.n_connections = 0
        self.upstream = Direction()
        self.downstream = Direction()
        self.listen = listen
        self._is_kafka = kafka
        self._ways_of = ways_of or (lambda _: (self.upstream, self.downstream))
        self._server_host = host
        self._server_port = port
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @classmethod
    @asynccontextmanager
    async def between(cls, host: str, port: int, **more: Any) -> AsyncIterator["FaultProxy"]:
        """Serve on a free port for the length of the block, then cut all connections; `more` as for the class."""
        proxy = cls(host, port, **more)
        await proxy.up()
        try:
            yield proxy
        finally:
            await proxy.down()

    @property
    def is_up(self) -> bool:
        """Tell whether connections are taken."""
        return self._server is not None

    async def up(self) -> None:
        """Take connections, on the same port as before; nothing happens when that is so already."""
        if self._server is None:
            # Nobody is given it while the proxy is down, as one of the range of outgoing connections could be.
            self.port = self.port or free_port()
            self._server = await asyncio.start_server(self._join, self.listen, self.port)

    async def down(self) -> None:
        """Refuse connections and reset the open ones; returns when they are gone."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()
        for pipe in self._pipes:
            pipe.cancel()
        if self._pipes:
            await asyncio.wait(self._pipes)

    def reset(self) -> None:
        """Reset every open connection, on both sides; new ones are taken."""
        for writer in list(self._writers):
            _abort(writer)

    def heal(self) -> None:
        """Let everything pass again in both directions."""
        self.upstream.heal()
        self.downstream.heal()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_up:
            # It was taken while the proxy went down.
            _abort(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        self._writers.add(writer)
        self.n_connections += 1
        try:
            await self._pipe_both(reader, writer)
        except (OSError, asyncio.CancelledError):
            # The server is away, or the proxy went down: the client sees its connection end.
            pass
        finally:
            self._pipes.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _pipe_both(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._server_host, self._server_port)
        self._writers.add(back)
        upstream, downstream = self._ways_of(writer.get_extra_info("peername")[1])
        ends = (writer, back)
        try:
            async with asyncio.TaskGroup() as pipes:
                pipes.create_task(_pipe(reader, back, upstream, ends, _as_it_is))
                pipes.create_task(_pipe(there, writer, downstream, ends, self._translate))
        finally:
            self._writers.discard(back)
            back.close()

    def _translate(self, data: bytes) -> bytes:
        """Put our address in the place of a broker's. An answer that comes in two pieces keeps the broker's own."""
        if not self._is_kafka:
            return data
        host = self._server_host.encode()
        return data.replace(host + struct.pack(">i", self._server_port), host + struct.pack(">i", self.port))


def _as_it_is(data: bytes) -> bytes:
    return data


async def _pipe(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    direction: Direction,
    ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    translate: Callable[[bytes], bytes],
) -> None:
    """Carry bytes until one side ends; each piece leaves as long after it came as `direction` says."""
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
    async with asyncio.TaskGroup() as tasks:
        collecting = tasks.create_task(_collect(reader, pieces, translate))
        await _deliver(pieces, writer, direction, ends)
        collecting.cancel()


async def _collect(
    reader: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]], translate: Callable[[bytes], bytes]
) -> None:
    with suppress(OSError):
        while data := await reader.read(_READ_BYTES):
            await pieces.put((clock.mono(), translate(data)))
    await pieces.put((clock.mono(), b""))


async def _deliver(
    pieces: asyncio.Queue[tuple[float, bytes]],
    writer: asyncio.StreamWriter,
    direction: Direction,
    ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
) -> None:
    with suppress(OSError):
        while (piece := await pieces.get())[1]:
            came_at, data = piece
            await direction.travel(came_at)
            await direction.flowing()
            await direction.pace(len(data))
            passed, ending = direction.admit(data)
            writer.write(passed)
            if ending:
                for end in ends:
                    ending(end)
                return
            await writer.drain()
    # One side has ended: the half that still talks gets its answer, as TCP would have it.
    await asyncio.sleep(direction.slow_close_seconds)
    with suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()
