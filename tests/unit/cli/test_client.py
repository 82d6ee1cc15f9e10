"""The command line's client: finds the dispatcher, and fails in words."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.cli import client, own_files, profile_file
from dispatcher.cli.client import Api, Environment, Profile, path_to
from dispatcher.cli.own_files import StrangersFile
from dispatcher.cli.profile_file import KeptProfile, ProfileFault, Profiles
from dispatcher.cli.refusals import CallFailed
from tests.house.files import PACKAGE
from tests.support.terminal import Terminal

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
        yield Profile(str(server.make_url("")).rstrip("/"), "whd_test_key", "a test")


async def call(who: Profile, method: str, path: str, body: object = None) -> Any:
    """Make one call from a thread: the client blocks."""

    def calling() -> Any:
        with Api(who) as api:
            return api.call(method, path, body)

    return await asyncio.to_thread(calling)


async def failure_of(answer: Answer) -> str:
    async with an_api(answer) as who:
        with pytest.raises(CallFailed) as caught:
            await call(who, "GET", "/v1/endpoints")
    return str(caught.value)


async def test_a_call_carries_the_key_and_its_body_and_returns_the_answer() -> None:
    seen: list[Any] = []

    def answer(request: web.Request) -> web.Response:
        seen.append(
            (request.method, request.path, request.headers["authorization"], request.headers.get("content-type"))
        )
        return web.json_response({"id": "we_1"}, status=201)

    async with an_api(answer) as who:
        assert await call(who, "POST", "/v1/endpoints", {"url": "x"}) == {"id": "we_1"}

    assert seen == [("POST", "/v1/endpoints", "Bearer whd_test_key", "application/json")]


async def test_an_empty_answer_is_none() -> None:
    async with an_api(lambda _: web.Response(status=204)) as who:
        assert await call(who, "DELETE", "/v1/endpoints/we_1") is None


async def test_faulty_fields_are_told_one_by_one_with_their_pointers() -> None:
    problem = {
        "title": "The request has faults",
        "code": "validation_failed",
        "detail": "the URL must begin with https://; at most 255 characters",
        "errors": [{"pointer": "/url", "message": "must be https"}, {"parameter": "limit", "message": "is too large"}],
    }

    told = await failure_of(lambda _: web.json_response(problem, status=422))

    assert told == "The request has faults (422, validation_failed)\n  /url: must be https\n  limit: is too large"


@pytest.mark.parametrize(
    ("status", "code", "detail", "parts"),
    [
        (401, "unauthorized", "", ("a test", "keys create", "login")),
        (403, "missing_scope", "the key lacks the scope deliveries:read", ("deliveries:read", "--scope")),
        (403, "needs_account_key", "an operator's key sees no account", ("operator's", "--account")),
        (404, "not_found", "", ("one account and environment",)),
        (500, "internal_error", "tell us the request id", ("req_1", "dispatcher's side", "doctor")),
        (503, "unavailable", "try again shortly", ("try again", "req_1")),
    ],
)
async def test_a_refusal_says_what_to_do(status: int, code: str, detail: str, parts: tuple[str, ...]) -> None:
    problem = {"title": "No", "code": code, "detail": detail, "request_id": "req_1"}

    told = await failure_of(lambda _: web.json_response(problem, status=status))

    assert told.startswith(f"No ({status}, {code})\n")
    for part in parts:
        assert part in told


async def test_too_many_calls_are_told_with_the_wait() -> None:
    told = await failure_of(lambda _: web.Response(status=429, headers={"Retry-After": "7"}))

    assert "try again in 7 seconds" in told


@pytest.mark.parametrize(
    "ask", [lambda api: api.get("/v1/x"), lambda api: api.patiently("POST", "/v1/x")], ids=["read", "patient"]
)
async def test_a_patient_call_waits_where_the_api_counts_calls(ask: Callable[[Api], Any]) -> None:
    answers = [web.Response(status=429, headers={"Retry-After": "0"}) for _ in range(3)]
    answers.append(web.json_response({"n": 1}))

    async with an_api(lambda _: answers.pop(0)) as who:

        def reading() -> Any:
            with Api(who) as api:
                return ask(api)

        assert await asyncio.to_thread(reading) == {"n": 1}

    assert answers == []


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"{}", b'"text"', b"\xff", b"null"])
async def test_any_other_refusal_tells_its_status(body: bytes) -> None:
    told = await failure_of(lambda _: web.Response(status=502, body=body))

    assert told.startswith("the API answered 502\n")


async def test_an_answer_that_is_not_json_asks_whether_this_is_the_api() -> None:
    told = await failure_of(lambda _: web.Response(body=b"<html>hello</html>"))

    assert "is this the address of the API?" in told


@pytest.mark.parametrize("body", [b"[]", b"5", b'"x"', b"{}", b'{"data": 5, "next": null}', b'{"data": [5]}'])
async def test_a_list_that_is_none_asks_whether_this_is_the_api(body: bytes) -> None:
    async with an_api(lambda _: web.Response(body=body)) as who:
        with Api(who) as api, pytest.raises(CallFailed, match="is this the address of the API"):
            await asyncio.to_thread(lambda: list(api.rows("/v1/endpoints", 5)))


async def test_a_refusal_moves_no_cursor_and_makes_no_lines() -> None:
    problem = {"title": "\x1b]0;x\x07", "code": "\x1b[2J", "detail": "one\nError: two\u202e"}

    said = await failure_of(lambda _: web.json_response(problem, status=400))

    assert said == "\\x1b]0;x\\x07 (400, \\x1b[2J)\n  one\\nError: two\\u202e"


async def test_an_address_where_nobody_listens_asks_whether_it_runs() -> None:
    with pytest.raises(CallFailed, match=r"does not answer \(Connection refused\); is the dispatcher running\?"):
        await call(Profile("http://127.0.0.1:1", "whd_test_key"), "GET", "/")


@pytest.mark.parametrize("url", ["not a url", "http://", "ftp://x", "http://[", "http://localhost:99999"])
async def test_an_address_that_is_none_is_told_in_words_too(url: str) -> None:
    with pytest.raises(CallFailed, match="is no address"):
        await call(Profile(url, "k"), "GET", "/v1")


async def test_a_connection_that_was_closed_meanwhile_is_made_again_for_reading() -> None:
    n_requests = 0

    def answer(_: web.Request) -> web.Response:
        nonlocal n_requests
        n_requests += 1
        response = web.json_response({"n": n_requests})
        # Closed without a word, as a server does whose patience is over.
        response.force_close()
        response.headers["Connection"] = "keep-alive"
        return response

    async with an_api(answer) as who:
        with Api(who) as api:
            answers = [await asyncio.to_thread(api.get, "/v1") for _ in range(3)]

    assert [one["n"] for one in answers] == [1, 2, 3]


async def test_lists_are_read_page_by_page_up_to_the_limit() -> None:
    asked: list[dict[str, str]] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        start = int(request.query.get("after", 0))
        stop = min(start + int(request.query["limit"]), 250)
        following = str(stop) if stop < 250 else None
        return web.json_response({"data": [{"n": n} for n in range(start, stop)], "next": following})

    async with an_api(answer) as who:

        def read(limit: int | None, **query: Any) -> list[int]:
            with Api(who) as api:
                return [row["n"] for row in api.rows("/v1/events", limit, **query)]

        some = await asyncio.to_thread(read, 150, type="a b", status=None)
        every = await asyncio.to_thread(read, None)

    assert some == list(range(150))
    assert every == list(range(250))
    assert asked[:2] == [{"type": "a b", "limit": "100"}, {"type": "a b", "limit": "50", "after": "100"}]


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISPATCHER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def a_ready_file(folder: Path) -> None:
    keys = {"live": "whd_live_x", "test": "whd_test_x"}
    (folder / "ready.json").write_text(json.dumps({"api_url": "http://127.0.0.1:1/", "api_keys": keys}))
    (folder / "ready.json").chmod(0o600)


def test_the_ready_file_of_this_folder_is_found_by_itself(data_dir: Path) -> None:
    a_ready_file(data_dir)

    found = client.profile(None, None)

    assert (found.api_url, found.api_key) == ("http://127.0.0.1:1", "whd_test_x")
    assert client.profile(None, None, None, Environment.LIVE).api_key == "whd_live_x"


def test_options_win(data_dir: Path) -> None:
    a_ready_file(data_dir)

    both = client.profile("http://other/", "mine")

    assert (both.api_url, both.api_key) == ("http://other", "mine")


def test_a_key_is_never_sent_to_an_address_that_it_was_not_kept_with(data_dir: Path) -> None:
    a_ready_file(data_dir)

    with pytest.raises(CallFailed, match="no key is known for http://elsewhere"):
        client.profile("http://elsewhere", None)


@pytest.mark.parametrize("name", [None, "staging"])
def test_a_key_goes_to_no_address_that_a_folder_or_a_profile_names(data_dir: Path, name: str | None) -> None:
    a_ready_file(data_dir)
    profile_file.write(Profiles().kept("staging", KeptProfile("http://127.0.0.1:1", "whd_live_staging")))

    with pytest.raises(CallFailed, match=r"not kept with http://127\.0\.0\.1:1, which .* names.*DISPATCHER_API_URL"):
        client.profile(None, "whd_live_production", name)


async def test_the_environments_key_reaches_neither_a_strangers_folder_nor_a_profile_that_is_typed(
    data_dir: Path,
) -> None:
    seen: list[str] = []

    def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["authorization"])
        return web.json_response({"data": [], "next": None})

    async with an_api(answer) as who:
        ready = {"api_url": who.api_url, "api_keys": {"test": "whd_test_bait"}}
        (data_dir / "ready.json").write_text(json.dumps(ready))
        (data_dir / "ready.json").chmod(0o600)
        profile_file.write(Profiles().kept("staging", KeptProfile(who.api_url, "whd_test_staging")))
        folder = {"DISPATCHER_DATA_DIR": str(data_dir), "XDG_CONFIG_HOME": str(data_dir / "config")}
        terminal = Terminal({**folder, "DISPATCHER_API_KEY": "whd_live_production"})

        refused = await terminal.run("endpoints", "list", code=1)
        await terminal.run("endpoints", "list", "--profile", "staging")
        terminal.environment["DISPATCHER_API_URL"] = "http://127.0.0.1:1"
        await terminal.run("endpoints", "list", "--profile", "staging")

    assert "DISPATCHER_API_URL" in refused.err
    assert seen == ["Bearer whd_test_staging"] * 2


def test_a_key_finds_the_address_that_it_was_kept_with(data_dir: Path) -> None:
    a_ready_file(data_dir)

    assert client.profile(None, "whd_test_x").api_url == "http://127.0.0.1:1"


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_ready_file_that_others_can_write_is_not_trusted(data_dir: Path, mode: int) -> None:
    a_ready_file(data_dir)
    (data_dir / "ready.json").chmod(mode)

    with pytest.raises(StrangersFile, match="chmod go-w"):
        client.profile(None, None)


def test_a_ready_file_of_another_user_is_not_trusted(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_ready_file(data_dir)
    somebody = (data_dir / "ready.json").stat().st_uid + 1
    monkeypatch.setattr(own_files, "trusted_users", lambda: {somebody})

    with pytest.raises(StrangersFile, match="belongs to another user"):
        client.profile(None, None)


def test_the_profile_in_use_serves_where_nothing_runs_here_and_a_named_one_always(data_dir: Path) -> None:
    kept = Profiles().kept("production", KeptProfile("https://a/", "whd_live_a"))
    profile_file.write(kept.kept("mine", KeptProfile("https://b", "whd_test_b")))

    assert client.profile(None, None).api_key == "whd_test_b"
    assert client.profile(None, None, "production").api_url == "https://a"
    a_ready_file(data_dir)
    assert client.profile(None, None).api_key == "whd_test_x"
    assert client.profile(None, None, "production").api_key == "whd_live_a"


def test_a_key_of_another_environment_than_asked_for_is_refused(data_dir: Path) -> None:
    profile_file.write(Profiles().kept("production", KeptProfile("https://a", "whd_live_a")))

    with pytest.raises(CallFailed, match=r"--env test is asked for.*the profile production is for live"):
        client.profile(None, None, None, Environment.TEST)


@pytest.mark.parametrize(
    "content",
    [
        *(None, "", "{", "{}", "[]", '"x"', "null", '{"api_url": "http://x"}', '{"api_url": "x", "api_keys": null}'),
        *('{"api_url": 5, "api_keys": {"test": "x"}}', '{"api_url": "x", "api_keys": ["test"]}'),
    ],
)
def test_without_a_dispatcher_the_way_to_one_is_told(data_dir: Path, content: str | None) -> None:
    if content is not None:
        (data_dir / "ready.json").write_text(content)
        (data_dir / "ready.json").chmod(0o600)

    with pytest.raises(CallFailed, match=r"dispatcher run --embedded.*dispatcher login"):
        client.profile(None, None)


def test_profiles_are_written_for_their_owner_alone_and_read_back(data_dir: Path) -> None:
    kept = Profiles().kept("a-b_1", KeptProfile('https://x/"\\\n', "whd_live_ü"))

    profile_file.write(kept)

    assert profile_file.read() == kept
    assert profile_file.path().stat().st_mode & 0o777 == 0o600
    assert profile_file.path().parent.stat().st_mode & 0o777 == 0o700
    assert "whd_live_ü" not in repr(kept)


def test_a_file_that_others_can_read_is_refused(data_dir: Path) -> None:
    profile_file.write(Profiles().kept("a", KeptProfile("https://x", "k")))
    profile_file.path().chmod(0o640)

    with pytest.raises(ProfileFault, match="chmod 600"):
        profile_file.read()


@pytest.mark.parametrize("text", ["current =", "[profiles.a]\n", "profiles = 1", "[profiles]\na = 1", "\xff"])
def test_a_file_that_is_none_is_told_in_words(data_dir: Path, text: str) -> None:
    profile_file.write(Profiles())
    profile_file.path().write_text(text, encoding="latin-1")

    with pytest.raises(ProfileFault, match="is not a file of profiles"):
        profile_file.read()


def test_a_profile_that_is_not_there_is_told_with_those_that_are(data_dir: Path) -> None:
    profiles = Profiles().kept("a", KeptProfile("https://x", "k"))

    for look in (profiles.find, profiles.used, profiles.removed):
        with pytest.raises(ProfileFault, match=r"there is no profile b .*: a;"):
            look("b")
    assert profiles.removed("a") == Profiles()


IDS = st.text(min_size=1, max_size=40) | st.binary(min_size=1, max_size=20).map(os.fsdecode)


@given(IDS.filter(lambda text: text not in {".", ".."}))
def test_an_id_that_was_typed_is_one_segment_of_a_path_whatever_it_holds(text: str) -> None:
    path = path_to("deliveries", text, "attempts", 1)

    assert path.isascii()
    assert path.isprintable()
    before, typed, after = path.removeprefix("/v1/").split("/", 2)
    assert (before, after) == ("deliveries", "attempts/1")
    assert unquote(typed, errors="surrogateescape") == text
    assert not set(typed) & set("?#;& ")


@pytest.mark.parametrize("text", ["", ".", ".."])
def test_what_no_path_can_hold_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no id"):
        path_to("webhook_endpoints", text, "deliveries")


def test_no_command_puts_a_path_together_by_itself() -> None:
    by_hand = re.compile(r"""f["']/v1/[^"']*{""")

    assert [file.name for file in (PACKAGE / "cli").glob("*.py") if by_hand.search(file.read_text("utf-8"))] == []
