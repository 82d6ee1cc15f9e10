import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest

from dispatcher.kit import clock
from tests.support.faults import Direction, FaultProxy, Ways
from tests.support.servers import DatabaseServer, fresh_database


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with FaultProxy.between("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await self.reader.readexactly(len(data))

    async def is_silent(self) -> bool:
        try:
            async with asyncio.timeout(0.05):
                await self.reader.readexactly(1)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def client_of(proxy: FaultProxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def test_bytes_pass_unchanged_when_nothing_is_set(proxy: FaultProxy) -> None:
    async with client_of(proxy) as client:
        assert await client.ask(b"x" * 300_000) == b"x" * 300_000
    assert proxy.upstream.n_bytes == proxy.downstream.n_bytes == 300_000


async def test_latency_delays_each_piece_and_heals(proxy: FaultProxy) -> None:
    proxy.downstream.latency_seconds = 0.05
    async with client_of(proxy) as client:
        started = clock.mono()
        await client.ask(b"slow")
        assert clock.mono() - started >= 0.05

        proxy.heal()
        assert proxy.downstream.latency_seconds == 0.0


async def test_a_cut_lets_exactly_so_many_bytes_pass(proxy: FaultProxy) -> None:
    proxy.downstream.cut_after(5)
    async with client_of(proxy) as client:
        client.writer.write(b"0123456789")
        assert await client.reader.read(100) + await client.reader.read() == b"01234"

    async with client_of(proxy) as client:
        assert await client.ask(b"whole again") == b"whole again"


async def test_a_reset_is_a_reset(proxy: FaultProxy) -> None:
    proxy.upstream.reset_after(3)
    async with client_of(proxy) as client:
        client.writer.write(b"0123456789")
        with pytest.raises(ConnectionResetError):
            await client.reader.readexactly(4)


async def test_a_stalled_link_delivers_late_and_a_dropped_reply_never(proxy: FaultProxy) -> None:
    async with client_of(proxy) as client:
        proxy.upstream.stall()
        client.writer.write(b"a")
        assert await client.is_silent()
        proxy.heal()
        assert await client.reader.readexactly(1) == b"a"

        proxy.downstream.drop()
        client.writer.write(b"b")
        await proxy.downstream.until(2)
        proxy.heal()
        assert await client.ask(b"c") == b"c"


async def test_jitter_delays_differently_and_overtakes_nothing(proxy: FaultProxy) -> None:
    proxy.downstream.jitter_seconds = 0.02
    async with client_of(proxy) as client:
        for number in range(20):
            client.writer.write(b"%02d" % number)
            await client.writer.drain()
        assert await client.reader.readexactly(40) == b"".join(b"%02d" % number for number in range(20))


async def test_a_slow_close_ends_late_and_loses_nothing(proxy: FaultProxy) -> None:
    proxy.downstream.slow_close_seconds = 0.05
    async with client_of(proxy) as client:
        client.writer.write(b"last words")
        started = clock.mono()
        client.writer.write_eof()
        assert await client.reader.readexactly(10) == b"last words"
        assert await client.reader.read() == b""
        assert clock.mono() - started >= 0.05


async def test_a_brokers_address_becomes_the_proxys(proxy: FaultProxy) -> None:
    advertised = b"127.0.0.1" + struct.pack(">i", proxy._server_port)
    proxy._is_kafka = True
    async with client_of(proxy) as client:
        assert await client.ask(advertised) == b"127.0.0.1" + struct.pack(">i", proxy.port)
        assert await client.ask(b"127.0.0.1:80") == b"127.0.0.1:80"


async def test_clients_told_apart_have_faults_of_their_own() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    lame, well = (Direction(), Direction()), (Direction(), Direction())
    ports: list[int] = []

    def ways_of(port: int) -> Ways:
        ports.append(port)
        return lame if len(ports) == 1 else well

    async with FaultProxy.between("127.0.0.1", server.sockets[0].getsockname()[1], ways_of=ways_of) as proxy:
        async with client_of(proxy) as first:
            assert await first.ask(b"fine") == b"fine"
            lame[0].stall()
            async with client_of(proxy) as second:
                first.writer.write(b"late")
                assert await first.is_silent()
                assert await second.ask(b"fine") == b"fine"
        assert ports[0] == first.writer.get_extra_info("sockname")[1]
    server.close()


async def test_down_refuses_and_cuts_and_up_serves_on_the_same_port(proxy: FaultProxy) -> None:
    port = proxy.port
    async with client_of(proxy) as client:
        await client.ask(b"there")
        await proxy.down()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await client.reader.readexactly(1)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)

    await proxy.up()

    assert proxy.port == port
    async with client_of(proxy) as client:
        assert await client.ask(b"back") == b"back"


async def test_who_is_taken_while_it_goes_down_is_cut_off_too(proxy: FaultProxy) -> None:
    await proxy.down()
    async with await asyncio.start_server(proxy._join, "127.0.0.1", 0) as late:
        reader, writer = await asyncio.open_connection(*late.sockets[0].getsockname())
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()


async def test_a_commit_whose_reply_is_lost_has_happened(postgres_server: DatabaseServer) -> None:
    server = urlsplit(postgres_server.url)
    assert server.hostname is not None
    assert server.port is not None
    async with (
        fresh_database(postgres_server) as url,
        FaultProxy.between(server.hostname, server.port) as proxy,
    ):
        direct = await asyncpg.connect(url)
        through = await asyncpg.connect(url.replace(f":{server.port}/", f":{proxy.port}/"))
        await direct.execute("create table fact (number int)")

        proxy.downstream.drop()
        answered = proxy.downstream.n_bytes
        asked = asyncio.ensure_future(through.execute("insert into fact values (1)"))
        await proxy.downstream.until(answered + 1)
        proxy.reset()
        with pytest.raises((asyncpg.ConnectionDoesNotExistError, ConnectionResetError)):
            await asked

        assert await direct.fetchval("select count(*) from fact") == 1
        through.terminate()
        await direct.close()
