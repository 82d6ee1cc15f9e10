"""The receiver kit inside the real frameworks, each behind a real server: raw bytes, refusals, repetitions."""

import asyncio
import contextlib
import functools
import io
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import django.conf
import pytest
import uvicorn
from aiohttp import web
from django.core.handlers.wsgi import WSGIHandler
from django.urls import path as django_path
from fastapi import FastAPI
from flask import Flask, request
from flask import Request as FlaskRequest
from starlette.applications import Starlette
from starlette.routing import Route
from werkzeug.serving import make_server

from dispatcher.policy.signing import Signer, show_secret
from dispatcher.receiver import MemoryInbox, Webhook
from dispatcher.receiver.adapters import aiohttp_view, django_view, flask_view, starlette_view

KEY = b"k" * 36
SECRETS = [show_secret(b"o" * 36), show_secret(KEY)]
# What a parser in between would write otherwise.
BODY = '{ "id":"evt_1",\r\n "name": "José 日本", "number": 1.0 }\n'.encode()
PATH = "/webhooks"


class Desk:
    """The customer's work: remembers what it got, and fails when told to."""

    def __init__(self, inbox: MemoryInbox | None = None, name: str = "") -> None:
        self.inbox, self.name = inbox or MemoryInbox(), name
        self.got: list[Webhook] = []
        self.failing = False

    def work(self, webhook: Webhook) -> None:
        if self.failing:
            message = "as asked"
            raise RuntimeError(message)
        self.got.append(webhook)

    async def work_async(self, webhook: Webhook) -> None:
        await asyncio.sleep(0)
        self.work(webhook)


@contextmanager
def wsgi(app: Any) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@asynccontextmanager
async def serving_aiohttp(desk: Desk) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post(PATH, aiohttp_view(desk.work_async, SECRETS, desk.inbox, name=desk.name))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving_asgi(desk: Desk, make: Callable[[Any], Any]) -> AsyncIterator[str]:
    app = make(starlette_view(desk.work_async, SECRETS, desk.inbox, name=desk.name))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    # `serve` takes over signals, which are the test run's.
    server.capture_signals = leaving_signals  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listening.close()


@contextmanager
def leaving_signals() -> Iterator[None]:
    yield


def starlette_app(view: Any) -> Starlette:
    return Starlette(routes=[Route(PATH, view, methods=["POST"])])


def fastapi_app(view: Any) -> FastAPI:
    app = FastAPI()
    app.add_route(PATH, view, methods=["POST"])
    return app


class OlderRequest(FlaskRequest):
    """A request as Flask 2.3 and 3.0 make it: its bound can be read alone."""

    max_content_length = property(lambda _: None)


@asynccontextmanager
async def serving_flask(desk: Desk, request: type[FlaskRequest] = FlaskRequest) -> AsyncIterator[str]:
    app = Flask("receiver")
    app.request_class = request
    app.add_url_rule(PATH, view_func=flask_view(desk.work, SECRETS, desk.inbox, name=desk.name), methods=["POST"])
    with wsgi(app) as url:
        yield url


@asynccontextmanager
async def serving_django(desk: Desk) -> AsyncIterator[str]:
    if not django.conf.settings.configured:
        # With the middleware that a receiver has to be exempt from.
        csrf = "django.middleware.csrf.CsrfViewMiddleware"
        django.conf.settings.configure(
            ALLOWED_HOSTS=["127.0.0.1"], MIDDLEWARE=[csrf], SECRET_KEY="throw-away", LOGGING_CONFIG=None
        )
        django.setup()

    view = django_view(desk.work, SECRETS, desk.inbox, name=desk.name)
    # A new name each time: Django remembers what it resolved.
    django.conf.settings.ROOT_URLCONF = type("Urls", (), {"urlpatterns": [django_path(PATH[1:], view)]})
    with wsgi(WSGIHandler()) as url:
        yield url


SERVERS: dict[str, Callable[[Desk], AbstractAsyncContextManager[str]]] = {
    "aiohttp": serving_aiohttp,
    "starlette": functools.partial(serving_asgi, make=starlette_app),
    "fastapi": functools.partial(serving_asgi, make=fastapi_app),
    "flask": serving_flask,
    "flask before 3.1": functools.partial(serving_flask, request=OlderRequest),
    "django": serving_django,
}
frameworks = pytest.mark.parametrize("framework", SERVERS)


def signed(body: bytes, event_id: str = "evt_1") -> list[tuple[str, str]]:
    stamp = str(int(time.time()))
    signature = Signer([KEY]).sign(event_id.encode(), stamp.encode(), body).decode()
    return [
        ("webhook-id", event_id),
        ("webhook-timestamp", stamp),
        ("webhook-signature", signature),
        ("content-type", "application/json"),
    ]


class Sender:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session

    async def send(
        self, body: bytes = BODY, headers: list[tuple[str, str]] | None = None, method: str = "POST"
    ) -> tuple[int, str]:
        headers = signed(BODY) if headers is None else headers
        data = io.BytesIO(body)
        async with self._session.request(method, self._url + PATH, data=data, headers=headers) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def receiving(framework: str, desk: Desk) -> AsyncIterator[Sender]:
    async with (
        SERVERS[framework](desk) as url,
        aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=30),
            # Some servers hang up after a failure, which a connection kept for the next request may not know yet.
            connector=aiohttp.TCPConnector(force_close=True),
        ) as session,
    ):
        yield Sender(url, session)


@frameworks
async def test_the_very_bytes_that_were_signed_reach_the_work_once(framework: str) -> None:
    desk = Desk()
    async with receiving(framework, desk) as sender:
        answers = [await sender.send() for _ in range(3)]

    assert answers == [(204, "")] * 3
    assert [(one.id, one.body) for one in desk.got] == [("evt_1", BODY)]


@frameworks
async def test_views_that_share_an_inbox_each_get_the_event(framework: str) -> None:
    inbox = MemoryInbox()
    desks = [Desk(inbox, "billing"), Desk(inbox, "kyc")]
    for desk in desks:
        async with receiving(framework, desk) as sender:
            assert [await sender.send() for _ in range(2)] == [(204, "")] * 2

    assert [len(desk.got) for desk in desks] == [1, 1]


@frameworks
async def test_what_is_not_ours_is_answered_with_400_and_the_reason(framework: str) -> None:
    desk = Desk()
    async with receiving(framework, desk) as sender:
        altered = await sender.send(BODY + b" ")
        unsigned = await sender.send(headers=[])
        repeated = await sender.send(headers=[*signed(BODY), signed(BODY)[0]])

    assert [status for status, _ in (altered, unsigned, repeated)] == [400] * 3
    assert altered[1].startswith("signature_mismatch: ")
    assert unsigned[1].startswith("header_missing: ")
    # Gateways hand on two lines as two, or joined with a comma.
    assert repeated[1].startswith(("header_repeated: ", "header_malformed: "))
    assert desk.got == []


@frameworks
async def test_failed_work_is_answered_with_500_and_done_at_the_next_delivery(framework: str) -> None:
    desk = Desk()
    desk.failing = True
    async with receiving(framework, desk) as sender:
        failed, _ = await sender.send()
        desk.failing = False
        again, _ = await sender.send()

    assert (failed, again, len(desk.got)) == (500, 204, 1)


@frameworks
async def test_a_body_beyond_all_bounds_and_other_methods_are_refused(framework: str) -> None:
    desk = Desk()
    async with receiving(framework, desk) as sender:
        large = b" " * (1_048_576 + 1)
        # A server may hang up on what it will not read, and the client then sees that instead.
        with contextlib.suppress(aiohttp.ClientConnectionError):
            assert (await sender.send(large, signed(large)))[0] == 413
        assert (await sender.send(method="PUT"))[0] == 405

    assert desk.got == []


@pytest.mark.parametrize("size", [0, 1_048_576, 1_048_577])
def test_flask_reads_a_body_of_unknown_length_up_to_its_bound(size: int) -> None:
    desk = Desk()
    app = Flask("receiver")
    app.add_url_rule(PATH, view_func=flask_view(desk.work, SECRETS, desk.inbox, name=desk.name), methods=["POST"])
    body = b"x" * size

    # As a gateway hands on a body that came in chunks.
    answer = app.test_client().post(
        PATH,
        headers=signed(body),
        input_stream=io.BytesIO(body),
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )

    assert answer.status_code == (413 if size > 1_048_576 else 204)
    assert [len(one.body) for one in desk.got] == [size][: size <= 1_048_576]


def test_flask_gives_the_view_what_somebody_before_it_has_read() -> None:
    desk = Desk()
    app = Flask("receiver")
    app.before_request(lambda: request.get_data() and None)
    app.add_url_rule(PATH, view_func=flask_view(desk.work, SECRETS, desk.inbox, name=desk.name), methods=["POST"])

    assert app.test_client().post(PATH, headers=signed(BODY), data=BODY).status_code == 204
    assert [one.body for one in desk.got] == [BODY]


def test_views_of_one_flask_application_are_told_apart_by_their_names() -> None:
    desk, app = Desk(), Flask("receiver")

    for name in ("", "billing", "cases"):
        view = flask_view(desk.work, SECRETS, desk.inbox, name=name)
        app.add_url_rule(f"{PATH}/{name}", view_func=view, methods=["POST"])

    assert len([rule for rule in app.url_map.iter_rules() if rule.rule.startswith(PATH)]) == 3
