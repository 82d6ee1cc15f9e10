"""The command line's client: finds the dispatcher, and fails in words."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dispatcher.cli import client
from dispatcher.cli.client import CallFailed, Environment, Profile

Answer = Callable[[web.Request], web.Response]


@asynccontextmanager
async def an_api(answer: Answer) -> AsyncIterator[Profile]:
    """Give the address of a server that answers everything by one function."""

    async def answering(request: web.Request) -> web.Response:
        await request.read()
        return answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answering)
    server = TestServer(app)
    async with server:
        yield Profile(str(server.make_url("")).rstrip("/"), "whd_test_key")


async def failure_of(answer: Answer) -> str:
    async with an_api(answer) as who:
        with pytest.raises(CallFailed) as caught:
            await client._call(who, "GET", "/v1/endpoints", None)
    return str(caught.value)


async def test_a_call_carries_the_key_and_its_body_and_returns_the_answer() -> None:
    seen: list[Any] = []

    def answer(request: web.Request) -> web.Response:
        seen.append(
            (request.method, request.path, request.headers["authorization"], request.headers.get("content-type"))
        )
        return web.json_response({"id": "we_1"}, status=201)

    async with an_api(answer) as who:
        assert await client._call(who, "POST", "/v1/endpoints", {"url": "x"}) == {"id": "we_1"}

    assert seen == [("POST", "/v1/endpoints", "Bearer whd_test_key", "application/json")]


async def test_an_empty_answer_is_none() -> None:
    async with an_api(lambda _: web.Response(status=204)) as who:
        assert await client._call(who, "DELETE", "/v1/endpoints/we_1", None) is None


async def test_a_problem_is_told_with_title_detail_and_faulty_fields() -> None:
    problem = {
        "title": "The request is not valid",
        "code": "invalid_request",
        "detail": "Two fields are wrong.",
        "errors": [{"pointer": "/url", "message": "must be https"}, {"pointer": "/name", "message": "is too long"}],
    }

    told = await failure_of(lambda _: web.json_response(problem, status=422))

    assert told == (
        "The request is not valid (422, invalid_request)\n"
        "  Two fields are wrong.\n"
        "  /url: must be https\n"
        "  /name: is too long"
    )


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"{}", b'"text"', b"\xff", b"null"])
async def test_any_other_refusal_tells_its_status(body: bytes) -> None:
    assert await failure_of(lambda _: web.Response(status=502, body=body)) == "the API answered 502"


async def test_an_answer_that_is_not_json_asks_whether_this_is_the_api() -> None:
    told = await failure_of(lambda _: web.Response(body=b"<html>hello</html>"))

    assert "is this the address of the API?" in told


async def test_an_address_where_nobody_listens_asks_whether_it_runs() -> None:
    async with an_api(lambda _: web.Response()) as gone:
        pass

    with pytest.raises(CallFailed, match=r"does not answer \(Client.*\); is the dispatcher running\?"):
        await client._call(gone, "GET", "/", None)


@pytest.mark.parametrize("url", ["not a url", "http://", "ftp://x", "http://[", "http://localhost:99999"])
async def test_an_address_that_is_none_is_told_in_words_too(url: str) -> None:
    with pytest.raises(CallFailed):
        await client._call(Profile(url, "k"), "GET", "/v1", None)


async def test_lists_are_read_page_by_page_up_to_the_limit() -> None:
    asked: list[dict[str, str]] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        start = int(request.query.get("after", 0))
        stop = min(start + int(request.query["limit"]), 250)
        following = str(stop) if stop < 250 else None
        return web.json_response({"data": [{"n": n} for n in range(start, stop)], "next": following})

    async with an_api(answer) as who:
        some = await client._collect(who, "/v1/events", {"type": "a b", "status": None}, 150)
        every = await client._collect(who, "/v1/events", {}, 1_000)

    assert [row["n"] for row in some] == list(range(150))
    assert [row["n"] for row in every] == list(range(250))
    assert asked[:2] == [{"type": "a b", "limit": "100"}, {"type": "a b", "limit": "100", "after": "100"}]


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISPATCHER_DATA_DIR", str(tmp_path))
    return tmp_path


def test_options_win_and_the_ready_file_fills_in(data_dir: Path) -> None:
    keys = {"live": "whd_live_x", "test": "whd_test_x"}
    (data_dir / "ready.json").write_text(json.dumps({"api_url": "http://127.0.0.1:1/", "api_keys": keys}))

    assert client.profile(None, None, Environment.LIVE) == Profile("http://127.0.0.1:1", "whd_live_x")
    assert client.profile(None, None, Environment.TEST).api_key == "whd_test_x"
    assert client.profile("http://other/", "mine", Environment.LIVE) == Profile("http://other", "mine")


@pytest.mark.parametrize("content", [None, "", "{", "{}", '{"api_url": "http://x"}'])
def test_without_a_dispatcher_the_way_to_one_is_told(data_dir: Path, content: str | None) -> None:
    if content is not None:
        (data_dir / "ready.json").write_text(content)

    with pytest.raises(CallFailed, match="dispatcher run --embedded"):
        client.profile(None, None, Environment.TEST)
