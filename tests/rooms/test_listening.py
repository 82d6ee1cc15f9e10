"""Events over a WebSocket to a program on the own machine: nothing is lost, whatever is cut."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
import datetime as dt
import os
import pty
import re
import secrets
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

from dispatcher.api import listeners, listening
from dispatcher.api.server import ApiServer
from dispatcher.cli import forwarding
from dispatcher.cli.client import Profile
from dispatcher.cli.forwarding import Answer, Envelope, Forwarder, Known, Post, Relay
from dispatcher.cli.listening import Listener, Wish
from dispatcher.cli.refusals import CallFailed
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.feeds import FeedLedger
from dispatcher.ledger.keys import KeyLedger
from dispatcher.model.access import Scope
from dispatcher.model.errors import Unavailable
from dispatcher.model.ids import show_event_id
from dispatcher.policy.signing import show_secret
from tests.rooms.test_api_harness import Api, api, ledger_template, ledger_url, pool, shared_api, until_seen, vault
from tests.support.daemon import clean_environment, command
from tests.support.faults import FaultProxy

KEY = b"k" * 36
ALL = Wish(("*",), 0, 16)


@dataclass
class Program:
    """A program under development: counts what reaches it, and answers as told."""

    status: int = 204
    work_seconds: float = 0.0
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    def __post_init__(self) -> None:
        self.may_answer.set()

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.got.append((dict(request.headers), body))
        async with self.moved:
            self.moved.notify_all()
        await self.may_answer.wait()
        await asyncio.sleep(self.work_seconds)
        return web.Response(status=self.status)

    async def until(self, n: int) -> None:
        async with self.moved:
            await self.moved.wait_for(lambda: len(self.got) >= n)

    async def until_repeated(self) -> None:
        async with self.moved:
            await self.moved.wait_for(lambda: len(self.ids) > len(set(self.ids)))

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]


@dataclass
class Running:
    """One `listen` as the command runs it."""

    relay: Relay
    listener: Listener
    task: asyncio.Task[None]
    answers: list[tuple[Known, Answer, bool]]
    said: list[str]


@pytest.fixture
async def program() -> AsyncIterator[Program]:
    one = Program()
    app = web.Application()
    app.router.add_post("/hook", one.receive)
    async with TestServer(app) as server:
        one.url = str(server.make_url("/hook"))
        yield one


@asynccontextmanager
async def listening_to(
    api: Api, url: str, *, at: str | None = None, wish: Wish = ALL, key: str | None = None
) -> AsyncIterator[Running]:
    answers: list[tuple[Known, Answer, bool]] = []
    said: list[str] = []
    async with aiohttp.ClientSession() as session:
        forwarder = Forwarder(Post(session, url, Envelope(KEY, "test")), on_answer=lambda *told: answers.append(told))
        relay = Relay(forwarder)
        listener = Listener(session, Profile(at or api.url, key or api.key), wish, relay, say=said.append)
        task = asyncio.create_task(listener.run())
        running = Running(relay, listener, task, answers, said)
        try:
            yield running
        finally:
            task.cancel()
            await asyncio.wait({task})
            await relay.aclose()


async def until_listening(running: Running) -> None:
    while not running.listener.n_sessions:
        assert not running.task.done() or running.task.result()
        await asyncio.sleep(0.01)


async def publish(
    sql: asyncpg.Connection, tenant: Tenant, n: int, event_type: str = "verification.completed"
) -> list[str]:
    ids = [secrets.token_bytes(20) for _ in range(n)]
    bodies = [orjson.dumps({"id": show_event_id(one), "type": event_type, "data": {"name": "Zoë 🦊"}}) for one in ids]
    await sql.execute(
        "INSERT INTO event (event_day, event_id, account_id, environment, event_type, occurred_at, body)"
        " SELECT (now() AT TIME ZONE 'UTC')::date, e.id, $2, $3, $4, now(), e.body"
        " FROM unnest($1::bytea[], $5::bytea[]) AS e(id, body)",
        ids,
        *tenant,
        event_type,
        bodies,
    )
    return [show_event_id(one) for one in ids]


async def test_an_event_is_forwarded_signed_byte_for_byte(api: Api, program: Program) -> None:
    async with api.sql() as sql, listening_to(api, program.url) as running:
        await until_listening(running)
        (event_id,) = await publish(sql, api.tenant, 1)
        await program.until(1)

    headers, body = program.got[0]
    Webhook(show_secret(KEY)).verify(body, headers)
    assert orjson.loads(body)["data"] == {"name": "Zoë 🦊"}
    expected = {
        "webhook-id": event_id,
        "x-webhook-event": "verification.completed",
        "x-webhook-environment": "test",
        "x-webhook-attempt": "1/1",
        "content-type": "application/json",
    }
    lowered = {name.lower(): value for name, value in headers.items()}
    assert expected.items() <= lowered.items()
    assert re.fullmatch("dlv_[a-z2-7]{13}", lowered["x-webhook-delivery"])


@pytest.mark.slow
async def test_ten_cuts_in_a_thousand_events_lose_none(api: Api, program: Program) -> None:
    # So that every cut finds requests under way.
    program.work_seconds = 0.01
    published: list[str] = []
    async with FaultProxy.between("127.0.0.1", int(api.url.rsplit(":", 1)[1])) as proxy:
        at = f"http://127.0.0.1:{proxy.port}"
        async with api.sql() as sql, listening_to(api, program.url, at=at) as running:
            await until_listening(running)
            for cut in range(10):
                published += await publish(sql, api.tenant, 100)
                await program.until(100 * cut + 33)
                # In the middle of frames, either way, or all at once.
                if cut % 3 == 0:
                    proxy.reset()
                elif cut % 3 == 1:
                    proxy.downstream.reset_after(1_000)
                else:
                    proxy.upstream.cut_after(100)
            await program.until(1_000)
            assert running.listener.n_sessions >= 10

    assert set(program.ids) == set(published)
    assert [event for event, n in Counter(program.ids).items() if n > 1] == []


async def test_what_is_under_way_at_a_cut_is_told_in_the_next_session(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "ANSWER_SECONDS", 600.0)
    release = asyncio.Event()
    asked: list[str] = []

    async def slow(request: web.Request) -> web.Response:
        asked.append(request.headers["webhook-id"])
        await release.wait()
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", slow)
    async with (
        TestServer(app) as server,
        FaultProxy.between("127.0.0.1", int(api.url.rsplit(":", 1)[1])) as proxy,
        api.sql() as sql,
        listening_to(api, str(server.make_url("/hook")), at=f"http://127.0.0.1:{proxy.port}") as running,
    ):
        await until_listening(running)
        (event_id,) = await publish(sql, api.tenant, 1)
        while not asked:
            await asyncio.sleep(0.01)
        proxy.reset()
        while running.relay.n_repeated == 0:
            await asyncio.sleep(0.01)
        release.set()
        while running.relay.progress.find(event_id) is not None:
            await asyncio.sleep(0.01)
        more = await publish(sql, api.tenant, 1)
        while len(asked) < 2:
            await asyncio.sleep(0.01)

    assert asked == [event_id, *more]


async def test_the_window_bounds_what_is_under_way(api: Api, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "ANSWER_SECONDS", 600.0)
    release = asyncio.Event()
    under_way: list[int] = [0, 0]

    async def slow(request: web.Request) -> web.Response:
        under_way[0] += 1
        under_way[1] = max(under_way)
        await release.wait()
        under_way[0] -= 1
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", slow)
    async with TestServer(app) as server, api.sql() as sql:
        url = str(server.make_url("/hook"))
        async with (
            listening_to(api, url, wish=Wish(("*",), 0, 4)) as running,
            listening_to(api, program.url) as quick,
        ):
            await until_listening(running)
            await until_listening(quick)
            await publish(sql, api.tenant, 20)
            while under_way[0] < 4:
                await asyncio.sleep(0.01)
            await program.until(20)
            release.set()
            while len(running.answers) < 20:
                await asyncio.sleep(0.01)

    assert under_way[1] == 4


async def test_only_wanted_types_come_and_the_place_moves_on_all_the_same(api: Api, program: Program) -> None:
    async with api.sql() as sql, listening_to(api, program.url, wish=Wish(("check.*",), 0, 16)) as running:
        await until_listening(running)
        start = running.relay.progress.resume
        await publish(sql, api.tenant, 5, "verification.created")
        while running.relay.progress.resume == start:
            await asyncio.sleep(0.01)
        (wanted,) = await publish(sql, api.tenant, 1, "check.completed")
        await program.until(1)

    assert program.ids == [wanted]


async def test_a_listener_may_begin_some_events_ago(api: Api, program: Program) -> None:
    async with api.sql() as sql:
        await publish(sql, api.tenant, 3, "verification.created")
        wanted = await publish(sql, api.tenant, 3)
        await publish(sql, api.tenant, 2, "verification.created")
        await until_seen(sql)
        async with listening_to(api, program.url, wish=Wish(("verification.completed",), 2, 16)):
            await program.until(2)

    assert sorted(program.ids) == sorted(wanted[-2:])


async def test_a_listener_may_begin_at_a_moment(api: Api, program: Program) -> None:
    async with api.sql() as sql:
        old = await publish(sql, api.tenant, 2)
        await sql.execute(
            "UPDATE event SET ingested_at = now() - interval '2 hours' WHERE account_id = $1", api.tenant.account_id
        )
        wanted = await publish(sql, api.tenant, 3)
        await until_seen(sql)
        moment = (dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)).isoformat()
        async with listening_to(api, program.url, wish=Wish(("*",), 0, 16, moment)):
            await program.until(3)
        future = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).isoformat()
        async with listening_to(api, program.url, wish=Wish(("*",), 0, 16, future)) as running:
            await until_listening(running)
            wanted += await publish(sql, api.tenant, 1)
            await program.until(4)

    assert sorted(program.ids) == sorted(wanted)
    assert not set(old) & set(program.ids)


async def test_events_of_others_never_come(api: Api, program: Program) -> None:
    others = await api.other_tenant()
    async with api.sql() as sql, listening_to(api, program.url) as running:
        await until_listening(running)
        await publish(sql, others, 3)
        await publish(sql, Tenant(api.tenant.account_id, "live"), 3)
        mine = await publish(sql, api.tenant, 1)
        await program.until(1)

    assert program.ids == mine


async def test_a_program_that_is_away_is_told_with_its_reason_and_the_next_event_comes(
    api: Api, program: Program
) -> None:
    program.status = 500
    async with api.sql() as sql, listening_to(api, program.url) as running:
        await until_listening(running)
        await publish(sql, api.tenant, 1)
        await program.until(1)
        async with listening_to(api, "http://127.0.0.1:9/hook") as other:
            await until_listening(other)
            await publish(sql, api.tenant, 1)
            while not other.answers:
                await asyncio.sleep(0.01)
        while len(running.answers) < 2:
            await asyncio.sleep(0.01)

    assert [answer.status for _, answer, _ in running.answers] == [500, 500]
    (told,) = other.answers
    assert told[1].status is None
    assert told[1].reason


async def test_the_last_event_can_be_repeated_with_its_id_and_a_fresh_signature(api: Api, program: Program) -> None:
    async with api.sql() as sql, listening_to(api, program.url) as running:
        await until_listening(running)
        running.relay.repeat_last()
        (event_id,) = await publish(sql, api.tenant, 1)
        await program.until(1)
        while not running.answers:
            await asyncio.sleep(0.01)
        running.relay.repeat_last()
        await program.until(2)

    assert program.ids == [event_id, event_id]
    assert len({headers["x-webhook-delivery"] for headers, _ in program.got}) == 1
    for headers, body in program.got:
        Webhook(show_secret(KEY)).verify(body, headers)


async def test_an_event_that_the_program_has_not_answered_can_be_repeated(api: Api, program: Program) -> None:
    program.may_answer.clear()
    async with api.sql() as sql, listening_to(api, program.url) as running:
        await until_listening(running)
        (event_id,) = await publish(sql, api.tenant, 1)
        await program.until(1)
        running.relay.repeat_last()
        await program.until(2)

    assert program.ids == [event_id, event_id]


@pytest.mark.parametrize("scopes", [[Scope.EVENTS_READ], None], ids=["without the scope", "an operator's"])
async def test_a_key_that_may_not_listen_is_refused_in_words(api: Api, scopes: list[Scope] | None) -> None:
    key = await api.new_key(api.tenant if scopes else None, scopes)

    async with listening_to(api, "http://127.0.0.1:9/", key=key) as running:
        await asyncio.wait({running.task})

    fault = running.task.exception()
    assert isinstance(fault, CallFailed)
    assert "scope listen" in str(fault)


async def test_a_type_that_does_not_exist_is_refused_with_the_nearest(api: Api) -> None:
    async with listening_to(api, "http://127.0.0.1:9/", wish=Wish(("verification.complete",), 0, 16)) as running:
        await asyncio.wait({running.task})

    assert "verification.completed" in str(running.task.exception())


async def test_a_revoked_key_ends_the_session(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_KEY_SECONDS", 0.05)
    made = await KeyLedger(api.pool).create(api.tenant)

    async with listening_to(api, "http://127.0.0.1:9/", key=made.text) as running:
        await until_listening(running)
        await KeyLedger(api.pool).revoke(made.key_id)
        await asyncio.wait({running.task})

    assert "unauthorized" in str(running.task.exception())


async def test_a_process_that_ends_sends_its_listeners_elsewhere(api: Api, program: Program) -> None:
    async with api.sql() as sql, listening_to(api, program.url) as running:
        await until_listening(running)
        await api.services.listeners.send_away()
        while running.listener.n_sessions < 2:
            await asyncio.sleep(0.01)
        await publish(sql, api.tenant, 1)
        await program.until(1)


async def test_who_is_sent_away_cannot_come_back_while_others_are_told(api: Api) -> None:
    async with AsyncExitStack() as clients:
        async with ApiServer("127.0.0.1:0", api.services) as server:
            running = await clients.enter_async_context(listening_to(api, "http://127.0.0.1:9/", at=server.url))
            await until_listening(running)

            async def leave_late() -> None:
                # Listening, cut, and what came of the next try.
                while len(running.said) < 3:
                    await asyncio.sleep(0.01)

            clients.enter_context(api.services.listeners.joined(api.tenant, leave_late))

        assert running.listener.n_sessions == 1


@pytest.mark.parametrize("fault", [RuntimeError("a bug"), Unavailable("away")], ids=["a bug", "no database"])
async def test_a_fault_of_ours_ends_that_session_only_and_the_client_goes_on(
    api: Api, program: Program, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    after = FeedLedger.after
    n_calls = 0

    async def failing(self: FeedLedger, *words: Any, **options: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 3:
            raise fault
        return await after(self, *words, **options)

    monkeypatch.setattr(FeedLedger, "after", failing)
    async with api.sql() as sql, listening_to(api, program.url) as running:
        while running.listener.n_sessions < 2:
            await asyncio.sleep(0.01)
        await publish(sql, api.tenant, 1)
        await program.until(1)


async def test_listeners_of_one_account_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "MOST_OF_TENANT", 1)

    async with listening_to(api, "http://127.0.0.1:9/") as first:
        await until_listening(first)
        reply = await api.get("/v1/listen")

    assert (reply.status, reply.code) == (503, "unavailable")


async def test_a_plain_request_is_told_what_this_is(api: Api) -> None:
    reply = await api.get("/v1/listen")

    assert (reply.status, reply.code) == (400, "malformed_request")
    assert listening.PROTOCOL in reply.body["detail"]


HELLO = {"type": "hello", "events": ["*"]}


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"\x00"], 4400),
        (["not json"], 4400),
        (['{"type":"hello"}'], 4400),
        ([{**HELLO, "window": 100_000}], 4400),
        ([{**HELLO, "extra": 1}], 4400),
        ([{**HELLO, "since": "yesterday"}], 4400),
        ([{**HELLO, "since": "0001-01-01T00:00:00+14:00"}], 4400),
        ([{**HELLO, "since": "2026-11-03T09:00:00"}], 4400),
        ([{**HELLO, "after": "nobody's"}], 4422),
        ([HELLO, {"type": "result", "seq": 1, "status": 200, "duration_ms": 1}], 4400),
        ([HELLO, {"type": "result", "seq": 1, "status": 7, "duration_ms": 1}], 4400),
        ([HELLO, b"\x00"], 4400),
        (["[" * 30_000], 4400),
        (["x" * 70_000], 1009),
    ],
)
async def test_a_client_that_speaks_another_language_is_cut(api: Api, frames: list[Any], code: int) -> None:
    headers = {"Authorization": f"Bearer {api.key}"}
    async with api.client.ws_connect(f"{api.url}/v1/listen", headers=headers) as socket:
        for frame in frames:
            if isinstance(frame, bytes):
                await socket.send_bytes(frame)
            else:
                await socket.send_str(frame if isinstance(frame, str) else orjson.dumps(frame).decode())
        async with asyncio.timeout(10):
            while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass

    assert socket.close_code == code


async def started(api: Api, *words: str, **streams: Any) -> asyncio.subprocess.Process:
    """Run the command itself."""
    return await asyncio.create_subprocess_exec(
        *command("listen", *words),
        env={**clean_environment({"API_URL": api.url, "API_KEY": api.key}), "PYTHONUNBUFFERED": "1"},
        **{"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.PIPE, **streams},
        stderr=asyncio.subprocess.PIPE,
    )


async def until_said(process: asyncio.subprocess.Process, words: str) -> list[str]:
    """Read standard error until a line begins so; return what was said."""
    assert process.stderr is not None
    said: list[str] = []
    while not said or not said[-1].startswith(words):
        line = await process.stderr.readline()
        assert line, said
        said.append(line.decode())
    return said


@pytest.mark.parametrize("form", ["table", "json", "jsonl"])
async def test_the_command_prints_a_line_for_each_event_and_ends_in_peace(
    api: Api, program: Program, form: str
) -> None:
    process = await started(api, "--forward-to", program.url, "--print-json", "-o", form)
    said = await until_said(process, "listening")
    async with api.sql() as sql:
        (event_id,) = await publish(sql, api.tenant, 1)
        await program.until(1)
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    printed = await process.stdout.readline() if form == "table" else orjson.loads(line)["body"].encode()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()

    headers, body = program.got[0]
    Webhook(said[0].split()[-1]).verify(body, headers)
    assert process.returncode == 0
    assert printed.strip() == body
    assert err.decode().startswith("1 events forwarded, 0 not answered")
    if form == "table":
        assert f"verification.completed          {event_id} -> 204  " in line
    else:
        assert {"event_id": event_id, "status": 204, "again": False}.items() <= orjson.loads(line).items()


async def test_the_command_says_why_it_cannot_listen(api: Api) -> None:
    process = await started(api, "--forward-to", "http://127.0.0.1:9/", "-e", "verification.complete")
    _, err = await process.communicate()

    assert process.returncode == 1
    assert "verification.completed" in err.decode()
    assert "Traceback" not in err.decode()


@asynccontextmanager
async def on_a_terminal(api: Api, url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Run `listen` on a terminal of its own; give its process and the terminal's other end, which the caller closes."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *command("listen", "--forward-to", url, "--replay-last", "1"),
        env={**clean_environment({"API_URL": api.url, "API_KEY": api.key}), "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until_forwarded(api: Api, program: Program) -> None:
    async with api.sql() as sql:
        while not program.got:
            await publish(sql, api.tenant, 1)
            await asyncio.sleep(0.1)


async def test_keys_repeat_the_last_event_and_quit(api: Api, program: Program) -> None:
    async with on_a_terminal(api, program.url) as (process, ours):
        await until_forwarded(api, program)
        os.write(ours, b"r")
        await program.until_repeated()
        os.write(ours, b"xq")
        code = await process.wait()
        os.close(ours)

    assert code == 0


async def test_it_ends_with_its_terminal(api: Api, program: Program) -> None:
    async with on_a_terminal(api, program.url) as (process, ours):
        await until_forwarded(api, program)
        os.close(ours)
        await process.wait()
