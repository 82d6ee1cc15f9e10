"""How much one caller may ask, and what is refused before anything of it is read."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest

from dispatcher.api import crowd, listening
from dispatcher.api.call import ApiServices, Call
from dispatcher.api.problems import Problem, ProblemCode
from dispatcher.api.routes import ROUTES
from dispatcher.api.server import ApiOptions, ApiServer
from dispatcher.api.throttle import Allowance
from dispatcher.ledger import keys, minting
from dispatcher.ledger.connections import Pool
from dispatcher.model.access import Scope
from dispatcher.vault import Vault
from tests.house.files import ROOT
from tests.rooms.test_api_harness import Api, api, ledger_template, ledger_url, pool, serving, shared_api, vault

ENDPOINTS = "/v1/webhook_endpoints"
SLOW = Allowance(per_second=0.001, burst=3)


async def test_a_key_is_told_how_it_stands_and_refused_when_it_asks_too_often(
    ledger_url: str, pool: Pool, vault: Vault
) -> None:
    async with serving(ledger_url, pool, vault, options=ApiOptions(key_rate=SLOW)) as api:
        replies = [await api.get(ENDPOINTS) for _ in range(4)]
        other = await api.get(ENDPOINTS, key=await api.new_key(api.tenant))

    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert [reply.headers["RateLimit"].partition(";t=")[0] for reply in replies] == [
        f'"key";r={left}' for left in (2, 1, 0, 0)
    ]
    assert replies[3].code == "rate_limited"
    assert int(replies[3].headers["Retry-After"]) > 900
    assert other.status == 200


async def test_every_route_may_be_asked_too_often_and_its_document_says_so(
    ledger_url: str, pool: Pool, vault: Vault
) -> None:
    document = json.loads((ROOT / "schemas" / "openapi.json").read_bytes())
    undocumented = []
    async with serving(ledger_url, pool, vault, options=ApiOptions(key_rate=Allowance(0.001, 1))) as api:
        # Who has no key stands by its address.
        await api.get("/v1/openapi.json", key=None)
        for route in ROUTES:
            key = None
            if route.scope is not None:
                key = await api.new_key(None if route.scope is Scope.OPERATOR else api.tenant)
                await api.get(ENDPOINTS, key=key)
            path = re.sub("{[a-z]+}", "1", route.path)
            reply = await api.call(route.method, path, None if route.body is None else {}, key=key)
            assert (reply.status, reply.code) == (429, "rate_limited")
            told = document["paths"][route.path][route.method.lower()]["responses"].get("429", {"headers": {}})
            if not {name for name in told["headers"] if name in reply.headers} >= {"Retry-After"}:
                undocumented.append(route.operation_id)

    assert undocumented == []


async def test_a_problem_tells_how_the_key_stands_too(api: Api) -> None:
    reply = await api.get(f"{ENDPOINTS}/we_0000000000000000")

    assert reply.status == 404
    assert reply.headers["RateLimit"].startswith('"key";r=39')


async def test_too_many_requests_are_refused_before_their_bodies_are_read(
    ledger_url: str, pool: Pool, vault: Vault
) -> None:
    async with serving(ledger_url, pool, vault, options=ApiOptions(key_rate=Allowance(0.001, 1))) as api:
        assert (await api.get(ENDPOINTS)).status == 200
        where = urlsplit(api.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        head = f"POST {ENDPOINTS} HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {api.key}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n".encode())
        async with asyncio.timeout(4):
            assert (await reader.readline()).startswith(b"HTTP/1.1 429 ")
        writer.close()


def a_guess(key_id: str | None = None) -> str:
    """Return a well-formed key that nobody was given, of a real key's id if there is one."""
    return minting.checked(f"whd_test_{key_id or minting.new_id(12)}_{minting.new_secret()}")


async def test_keys_cannot_be_tried_out_at_the_databases_cost(ledger_url: str, pool: Pool, vault: Vault) -> None:
    async with serving(ledger_url, pool, vault, options=ApiOptions(stranger_rate=SLOW)) as api:
        assert (await api.get(ENDPOINTS)).status == 200
        guesses = [await api.get(ENDPOINTS, key=a_guess()) for _ in range(5)]
        known = await api.get(ENDPOINTS)

    assert [reply.status for reply in guesses] == [401, 401, 401, 429, 429]
    assert guesses[4].headers["Retry-After"] == "1"
    assert known.status == 200


async def test_a_stranger_locks_out_nobody_who_is_known(ledger_url: str, pool: Pool, vault: Vault) -> None:
    options = ApiOptions(stranger_rate=SLOW, key_cache_seconds=0.0)
    async with serving(ledger_url, pool, vault, options=options) as api:
        assert (await api.get(ENDPOINTS)).status == 200
        guesses = [await api.get(ENDPOINTS, key=a_guess()) for _ in range(5)]
        known = await api.get(ENDPOINTS)
        parts = keys.parse_key(api.key)
        assert parts is not None
        await keys.KeyLedger(pool).revoke(parts.key_id)
        revoked = [await api.get(ENDPOINTS) for _ in range(2)]

    assert guesses[4].status == 429
    assert known.status == 200
    # Known or not, it is looked up; and one that is none any more is a stranger's.
    assert [reply.status for reply in revoked] == [401, 429]


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_wrong_secret_for_a_real_key_is_a_failed_login_and_no_use(
    ledger_url: str, pool: Pool, vault: Vault, is_known: bool
) -> None:
    async with serving(ledger_url, pool, vault, options=ApiOptions(stranger_rate=SLOW)) as api:
        made = await keys.KeyLedger(pool).create(api.tenant)
        if is_known:
            assert (await api.get(ENDPOINTS, key=made.text)).status == 200
            async with api.sql() as sql:
                await sql.execute("UPDATE api_key SET last_used_at = NULL")
        guesses = [await api.get(ENDPOINTS, key=a_guess(made.key_id)) for _ in range(4)]
        async with api.sql() as sql:
            last_used_at = await sql.fetchval("SELECT last_used_at FROM api_key WHERE key_id = $1", made.key_id)

    assert [reply.status for reply in guesses] == [401, 401, 401, 429]
    assert last_used_at is None


@pytest.mark.parametrize("path", ["/v1/events?order=asc&", "/v1/attempts?"])
async def test_a_request_that_waits_is_one_of_so_many(api: Api, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.api.waiting.MOST_OF_KEY", 0)

    waiting, looking = await api.get(f"{path}wait=8"), await api.get(f"{path}wait=0")

    assert (waiting.status, waiting.code, waiting.headers["Retry-After"]) == (429, "rate_limited", "1")
    assert looking.status == 200


@pytest.mark.parametrize("path", ["/v1/events?order=asc&", "/v1/attempts?"])
async def test_a_client_that_hangs_up_waits_no_more(api: Api, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # By itself it would never be over.
    monkeypatch.setattr("dispatcher.api.waiting.clock", SimpleNamespace(mono=lambda: 0.0))
    waiting = api.services.waiters._waiting
    async with ApiServer("127.0.0.1:0", api.services, ApiOptions(request_seconds=600.0)) as server:
        where = urlsplit(server.url)
        _, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(f"GET {path}wait=8 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {api.key}\r\n\r\n".encode())
        async with asyncio.timeout(20):
            while not waiting:
                await asyncio.sleep(0)
            writer.close()
            while waiting:
                await asyncio.sleep(0)


async def test_a_connection_too_many_is_told_so_and_closed(ledger_url: str, pool: Pool, vault: Vault) -> None:
    async with serving(ledger_url, pool, vault, options=ApiOptions(most_connections=3)) as api:
        where = urlsplit(api.url)
        held = [await asyncio.open_connection(where.hostname, where.port) for _ in range(3)]
        # Answered once, so that the server surely counts them.
        for reader, writer in held:
            writer.write(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")

        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        async with asyncio.timeout(4):
            answer = await reader.read()
        for _, open_writer in held:
            open_writer.close()
            await open_writer.wait_closed()
        async with asyncio.timeout(10):
            while (after := await api.get(ENDPOINTS)).status == 503:
                pass
        writer.close()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"Retry-After: 1" in head
    assert json.loads(body)["code"] == "unavailable"
    assert after.status == 200


async def test_a_connection_too_many_gets_its_answer_though_it_asks_at_length(
    ledger_url: str, pool: Pool, vault: Vault
) -> None:
    async with serving(ledger_url, pool, vault, options=ApiOptions(most_connections=0)) as api:
        answers = [await asyncio.to_thread(_ask_at_length, api.url) for _ in range(20)]

    assert [answer.partition(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 503 Service Unavailable"] * 20


async def test_so_many_are_refused_with_an_answer_at_a_time(
    ledger_url: str, pool: Pool, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "_MOST_REFUSED", 1)
    monkeypatch.setattr(crowd, "_LINGER_SECONDS", 60.0)
    async with serving(ledger_url, pool, vault, options=ApiOptions(most_connections=0)) as api:
        where = urlsplit(api.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        first = await reader.read()
        second = await _answer_or_nothing(api.url)
        # Who hangs up makes room.
        writer.close()
        async with asyncio.timeout(10):
            while not (third := await _answer_or_nothing(api.url)):
                pass

    assert first.startswith(b"HTTP/1.1 503 ")
    assert second == b""
    assert third.startswith(b"HTTP/1.1 503 ")


async def test_an_end_does_not_wait_for_those_who_are_refused(
    ledger_url: str, pool: Pool, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd, "_LINGER_SECONDS", 60.0)
    async with serving(ledger_url, pool, vault, options=ApiOptions(most_connections=0)) as api:
        where = urlsplit(api.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        await reader.readline()
    # Nobody is at the other end any more.
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionError):
            await _write_on(writer)
    writer.close()


async def _write_on(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0)


def _ask_at_length(url: str) -> bytes:
    """Send a request with a body before anything is read, as most clients do, and return the whole answer."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as asking:
        asking.sendall(f"POST {ENDPOINTS} HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n".encode())
        asking.sendall(b"x" * 100_000)
        pieces = []
        while piece := asking.recv(65_536):
            pieces.append(piece)
        return b"".join(pieces)


async def _answer_or_nothing(url: str) -> bytes:
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("path", "n"), [("/v1/openapi.json", 30), ("/nowhere", 60)], ids=["large answers", "small answers"]
)
async def test_who_does_not_read_holds_no_connection(api: Api, path: str, n: int) -> None:
    options = ApiOptions(most_connections=1, stall_seconds=0.5)
    async with ApiServer("127.0.0.1:0", api.services, options) as server:
        with deaf_connection(server) as deaf:
            other = replace(api, url=server.url)
            # Answered once, so that the server surely counts it: it is the one that may be there.
            deaf.sendall(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
            await asyncio.to_thread(deaf.recv, 1)
            before = await other.get(ENDPOINTS)
            deaf.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * n)
            async with asyncio.timeout(12):
                while (after := await other.get(ENDPOINTS)).status == 503:
                    pass

    assert (before.status, after.status) == (503, 200)


async def test_a_session_is_left_to_its_own_watch_while_it_lasts(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    watches = []

    async def take(call: Call, request: Any) -> NoReturn:
        watches.append((request.protocol.stalls, request.protocol.stalls.has_session))
        raise Problem(ProblemCode.MALFORMED_REQUEST)

    monkeypatch.setattr(listening, "_take", take)

    await api.get("/v1/listen")

    ((watch, during),) = watches
    assert (during, watch.has_session) == (True, False)


async def test_connections_are_served_and_refused_on_uvloop_too(api: Api) -> None:
    pytest.importorskip("uvloop")

    heads = await asyncio.to_thread(_heads_on_uvloop, api.services)

    assert heads == [b"HTTP/1.1 404 Not Found\r\n", b"HTTP/1.1 503 Service Unavailable\r\n"]


def _heads_on_uvloop(services: ApiServices) -> list[bytes]:
    """Return the first lines that two connections get, where one may be there."""
    import uvloop

    async def ask(url: str) -> tuple[asyncio.StreamWriter, bytes]:
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
        try:
            async with asyncio.timeout(5):
                return writer, await reader.readline()
        except TimeoutError:
            # Or the server waited for it.
            writer.transport.abort()
            raise

    async def ask_twice() -> list[bytes]:
        async with ApiServer("127.0.0.1:0", services, ApiOptions(most_connections=1)) as server:
            asked = [await ask(server.url) for _ in range(2)]
            for writer, _ in asked:
                writer.close()
            return [line for _, line in asked]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(ask_twice())


@contextmanager
def deaf_connection(server: ApiServer) -> Iterator[socket.socket]:
    """Give a connection on which hardly anything has room, at either end, and that nobody reads."""
    assert server._runner is not None
    (site,) = server._runner.sites
    (listening,) = site._server.sockets  # type: ignore[union-attr]
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    where = urlsplit(server.url)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        deaf.connect((where.hostname, where.port))
        yield deaf


@pytest.mark.parametrize(
    ("path", "allow"),
    [(ENDPOINTS, "GET, HEAD, OPTIONS, POST"), (f"{ENDPOINTS}/we_1", "DELETE, GET, HEAD, OPTIONS, PATCH")],
)
async def test_options_tells_the_methods_and_opens_nothing_to_other_origins(api: Api, path: str, allow: str) -> None:
    headers = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}

    async with api.client.options(api.url + path, headers=headers) as reply:
        body = await reply.read()

    assert (reply.status, reply.headers["Allow"], body) == (204, allow, b"")
    assert not [name for name in reply.headers if re.match("access-control", name, re.IGNORECASE)]


async def test_options_of_an_unknown_path_is_a_problem(api: Api) -> None:
    reply = await api.call("OPTIONS", "/v1/nowhere", key=None)

    assert (reply.status, reply.code) == (404, "not_found")


async def test_head_says_what_get_would_say(api: Api) -> None:
    made = await api.create()
    path = f"{ENDPOINTS}/{made.body['id']}"

    got, head = await api.get(path), await api.call("HEAD", path)

    assert (head.status, head.raw) == (200, b"")
    assert head.headers["Content-Length"] == str(len(got.raw))
    assert head.headers["ETag"] == got.headers["ETag"]
