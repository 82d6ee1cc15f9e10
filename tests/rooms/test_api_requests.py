"""What the server does with requests that are odd, hostile, slow, or ill-timed."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from dispatcher.api import registration
from dispatcher.api.server import ApiOptions, ApiServer
from dispatcher.embedded.postgres import EmbeddedPostgres
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.keys import KeyLedger, parse_key
from dispatcher.ledger.migrate import migrate
from dispatcher.vault import Vault
from tests.rooms.test_api_harness import (
    PUBLIC_ADDRESS,
    Api,
    api,
    ledger_template,
    ledger_url,
    pool,
    serving,
    shared_api,
    vault,
)

ENDPOINTS = "/v1/webhook_endpoints"
GOOD = {"url": "https://example.com/", "events": ["*"]}


async def exchange(api: Api, sent: bytes) -> tuple[bytes, bytes]:
    """Send raw bytes, read until the server closes or has answered; return head and body."""
    where = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        writer.write(sent)
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            return head, await reader.readexactly(length)
    finally:
        writer.close()


def request_head(api: Api, *lines: str) -> bytes:
    host = urlsplit(api.url).netloc
    start = [f"POST {ENDPOINTS} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {api.key}"]
    return "\r\n".join([*start, "Content-Type: application/json", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/nope", "/v1/webhook_endpoints/", "/v1/delivery", "/v1//events", "/%2e%2e"]
)
async def test_an_unknown_path_is_a_problem(api: Api, path: str) -> None:
    reply = await api.get(path, key=None)

    assert (reply.status, reply.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", ENDPOINTS, "GET, HEAD, OPTIONS, POST"),
        ("PUT", f"{ENDPOINTS}/we_1", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("POST", "/v1/events", "GET, HEAD, OPTIONS"),
        ("TRACE", "/v1/events", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(api: Api, method: str, path: str, allow: str) -> None:
    reply = await api.call(method, path)

    assert (reply.status, reply.code, reply.headers["Allow"]) == (405, "method_not_allowed", allow)


async def test_an_encoding_that_was_not_needed_makes_no_other_path(api: Api) -> None:
    made = await api.create()
    odd = made.body["id"].replace("_", "%5F")
    # Byte for byte: the test's client would mend the path itself.
    lines = [f"Host: {urlsplit(api.url).netloc}", f"Authorization: Bearer {api.key}", "", ""]

    head, body = await exchange(api, "\r\n".join([f"GET /v1/webhook%5Fendpoints/{odd} HTTP/1.1", *lines]).encode())
    slash, _ = await exchange(api, "\r\n".join([f"GET {ENDPOINTS}/{odd}%2Fheld HTTP/1.1", *lines]).encode())

    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body)["id"] == made.body["id"]
    assert slash.startswith(b"HTTP/1.1 404 ")


async def test_head_is_get_without_a_body(api: Api) -> None:
    reply = await api.call("HEAD", ENDPOINTS)

    assert (reply.status, reply.raw) == (200, b"")


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer whd_test_abc", "Bearer é", "{key}", "Bearer {key}x"],
)
async def test_without_a_whole_key_nothing_opens(api: Api, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.replace("{key}", api.key)}

    reply = await api.get(ENDPOINTS, key=None, headers=headers)

    assert (reply.status, reply.code) == (401, "unauthorized")
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_key_with_another_keys_secret_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    other = await api.new_key(api.tenant)
    parts, theirs = parse_key(api.key), parse_key(other)
    assert parts is not None
    assert theirs is not None
    monkeypatch.setattr(
        "dispatcher.api.identity.parse_key", lambda _: parts._replace(secret_sha256=theirs.secret_sha256)
    )

    reply = await api.get(ENDPOINTS)

    assert (reply.status, reply.code) == (401, "unauthorized")


async def test_a_revoked_key_ends_with_the_cache(ledger_url: str, pool: Pool, vault: Vault) -> None:
    async with serving(ledger_url, pool, vault, options=ApiOptions(key_cache_seconds=0.0)) as api:
        assert (await api.get(ENDPOINTS)).status == 200
        parts = parse_key(api.key)
        assert parts is not None
        assert await KeyLedger(pool).revoke(parts.key_id)

        reply = await api.get(ENDPOINTS)

    assert (reply.status, reply.code) == (401, "unauthorized")


async def test_an_operators_key_sees_no_account(api: Api) -> None:
    reply = await api.get(ENDPOINTS, key=await api.new_key(None))

    assert (reply.status, reply.code) == (403, "needs_account_key")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b"\xef\xbb\xbf{}", 400, "invalid_json"),
        (b'{"url": NaN}', 400, "invalid_json"),
        (b'{"url": Infinity}', 400, "invalid_json"),
        (b'{"url": 1e999}', 400, "number_out_of_range"),
        (b'{"url": ' + b"1" * 5000 + b"}", 400, "number_out_of_range"),
        (b'{"url": "\\ud800"}', 400, "invalid_json"),
        (b'{"url": "\xed\xa0\x80"}', 400, "invalid_json"),
        (b'{"url": "a", "url": "b"}', 400, "duplicate_member"),
        (b'{"metadata": {"a": "1", "\\u0061": "2"}}', 400, "duplicate_member"),
        (b"[" * 33 + b"]" * 33, 400, "json_too_deep"),
        (b"[" * 100_000, 400, "json_too_deep"),
        (b'{"a":' * 40_000, 400, "json_too_deep"),
        (b"[" * 5_000 + b"]" * 5_000, 400, "json_too_deep"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, 400, "json_too_deep"),
        (b"null", 422, "validation_failed"),
        (b"[]", 422, "validation_failed"),
        (b'"text"', 422, "validation_failed"),
        (b"1" * 400, 400, "number_out_of_range"),
        (b"[-1E+400]", 400, "number_out_of_range"),
        (b'{"url": 123456789012345678901234567890}', 422, "validation_failed"),
        (b'{"url": "https://a.example.com/\\u0000", "events": ["*"]}', 422, "forbidden_character"),
        (b'{"url": "https://a.example.com/", "events": ["*"], "description": "\\u0000"}', 422, "forbidden_character"),
        (
            b'{"url": "https://a.example.com/", "events": ["*"], "metadata": {"\\u0000": "a"}}',
            422,
            "forbidden_character",
        ),
        (b"[" + b'"\\u0000",' * 1_500 + b"1]", 422, "forbidden_character"),
        (b"[" + b"[]," * 80_000 + b"1]", 400, "json_too_long"),
    ],
)
async def test_a_hostile_body_is_refused_not_stumbled_over(api: Api, body: bytes, status: int, code: str) -> None:
    reply = await api.call("POST", ENDPOINTS, data=body)

    assert (reply.status, reply.code) == (status, code)
    assert len(reply.raw) < 16_384


async def test_the_deepest_allowed_body_passes_the_depth_check(api: Api) -> None:
    reply = await api.call("POST", ENDPOINTS, data=b"[" * 32 + b"]" * 32)

    assert (reply.status, reply.code) == (422, "validation_failed")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
async def test_other_media_types_are_refused(api: Api, kind: str) -> None:
    reply = await api.call("POST", ENDPOINTS, data=b"{}", headers={"Content-Type": kind})

    assert (reply.status, reply.code) == (415, "unsupported_media_type")


async def test_a_compressed_body_is_refused(api: Api) -> None:
    headers = {"Content-Encoding": "gzip"}

    reply = await api.call("POST", ENDPOINTS, data=b"\x1f\x8b", headers=headers)

    assert (reply.status, reply.code) == (415, "unsupported_media_type")


async def test_a_body_of_300_kib_is_refused_by_its_announced_length(api: Api) -> None:
    head, body = await exchange(api, request_head(api, f"Content-Length: {300 * 1024}"))

    assert head.startswith(b"HTTP/1.1 413 ")
    assert json.loads(body)["code"] == "body_too_large"


async def test_a_body_of_300_kib_in_chunks_is_refused_while_it_comes(api: Api) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b" " * 1024

    reply = await api.call("POST", ENDPOINTS, data=chunks())

    assert (reply.status, reply.code) == (413, "body_too_large")


async def test_a_half_sent_body_is_given_up_on(ledger_url: str, pool: Pool, vault: Vault) -> None:
    async with serving(ledger_url, pool, vault, options=ApiOptions(body_seconds=0.2)) as api:
        head, body = await exchange(api, request_head(api, "Content-Length: 100") + b'{"url":')

    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in head
    assert json.loads(body)["code"] == "request_timeout"


async def test_a_request_that_takes_too_long_is_given_up_on(ledger_url: str, pool: Pool, vault: Vault) -> None:
    async with serving(ledger_url, pool, vault, options=ApiOptions(request_seconds=0.3)) as api:
        async with api.sql() as sql, sql.transaction():
            await sql.execute("LOCK TABLE endpoint")
            reply = await api.get(ENDPOINTS)
        while (after := await api.get(ENDPOINTS)).status == 503:
            pass

    assert (reply.status, reply.code) == (503, "timed_out")
    assert reply.headers["Retry-After"] == "1"
    assert after.status == 200


async def test_a_look_up_that_hangs_is_a_warning(
    ledger_url: str, pool: Pool, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "LOOK_UP_SECONDS", 0.1)
    never = asyncio.Event()

    async def hang(_: str, __: int) -> list[str]:
        await never.wait()
        return []

    async with serving(ledger_url, pool, vault, resolve=hang) as api:
        reply = await api.create()

    assert (reply.status, reply.body["warnings"]) == (201, ["url_unresolvable"])


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/events HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_a_problem_too(api: Api, sent: bytes) -> None:
    head, body = await exchange(api, sent)

    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"application/problem+json" in head
    assert json.loads(body)["code"] == "malformed_request"


async def test_a_client_that_waits_for_100_continue_is_told_to_go_on(api: Api) -> None:
    body = json.dumps(GOOD).encode()
    where = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(request_head(api, "Expect: 100-continue", f"Content-Length: {len(body)}"))
    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 201 ")
    writer.close()


async def test_an_unknown_expectation_is_refused(api: Api) -> None:
    head, body = await exchange(api, request_head(api, "Expect: miracles", "Content-Length: 2") + b"{}")

    assert head.startswith(b"HTTP/1.1 417 ")
    assert json.loads(body)["code"] == "expectation_failed"


async def test_a_bug_ends_one_request_and_tells_nothing(
    ledger_url: str, pool: Pool, vault: Vault, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(_: str, __: int) -> list[str]:
        raise RuntimeError("hush-hush-value")

    async with serving(ledger_url, pool, vault, resolve=broken) as api:
        reply = await api.create()
        after = await api.get(ENDPOINTS)

    logged = capsys.readouterr()
    assert (reply.status, reply.code) == (500, "internal_error")
    assert reply.body["request_id"] in logged.out + logged.err
    assert b"hush" not in reply.raw
    assert "hush" not in logged.out + logged.err
    assert after.status == 200


async def test_without_postgres_the_answer_is_503_and_then_it_serves_again(tmp_path: Path, vault: Vault) -> None:
    folder = tmp_path / "postgres"
    first = EmbeddedPostgres.start(folder, durable=True)
    try:
        await migrate(first.url)
        pool = await Pool.open(first.url)
        async with serving(first.url, pool, vault) as api:
            made = await api.create()
            first.stop()

            down = [await api.get(ENDPOINTS), await api.create(), await api.get("/v1/events")]
            again = EmbeddedPostgres.start(folder, durable=True, port=first.port)
            try:
                async with asyncio.timeout(10):
                    while (back := await api.get(f"{ENDPOINTS}/{made.body['id']}")).status == 503:
                        pass
            finally:
                await pool.aclose()
                again.stop()
    finally:
        first.stop()

    assert [(reply.status, reply.code) for reply in down] == [(503, "unavailable")] * 3
    assert {reply.headers["Retry-After"] for reply in down} == {"1"}
    assert back.status == 200


async def test_a_stopping_server_finishes_the_request_under_way(api: Api) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def resolve(_: str, __: int) -> list[str]:
        asked.set()
        await answer.wait()
        return [PUBLIC_ADDRESS]

    stopping = replace(api.services, resolve=resolve)
    async with asyncio.TaskGroup() as group:
        async with ApiServer("127.0.0.1:0", stopping) as server:
            slow = replace(api, url=server.url)
            call = group.create_task(slow.create())
            await asked.wait()
            asyncio.get_running_loop().call_soon(answer.set)
        reply = await call
    with pytest.raises(aiohttp.ClientConnectionError):
        await slow.get(ENDPOINTS)

    assert reply.status == 201
