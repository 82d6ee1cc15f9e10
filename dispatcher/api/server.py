"""The HTTP server around the route table: bounds, problem documents, a graceful end."""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import orjson
import structlog
from aiohttp import web

from dispatcher.api.call import Answer, ApiServices, Call, Route, RouteTable, Takeover
from dispatcher.api.identity import KeyRing
from dispatcher.api.json_body import read_json
from dispatcher.api.problems import PROBLEM_TYPE, Problem, ProblemCode
from dispatcher.api.routes import ROUTES
from dispatcher.api.shapes import check_body, check_query
from dispatcher.ledger.endpoints import EndpointLedger
from dispatcher.ledger.keys import Bearer, KeyLedger
from dispatcher.ledger.logs import LogLedger
from dispatcher.model.errors import Unavailable

_log = structlog.get_logger("api")

_SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Server": "dispatcher",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_RETRY_AFTER: Final[Mapping[str, str]] = {"Retry-After": "1"}
_UNREAD_BODY: Final = frozenset({ProblemCode.REQUEST_TIMEOUT, ProblemCode.BODY_TOO_LARGE})
_LINGER_SECONDS: Final = 1.0
"""How long the rest of a refused body is read away, so that the client sees the answer before the reset."""


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """Bounds of the server. `request_seconds` holds for a whole request, its body included."""

    body_bytes: int = 256 * 1024
    json_depth: int = 32
    request_seconds: float = 10.0
    body_seconds: float = 5.0
    keepalive_seconds: float = 20.0
    key_cache_seconds: float = 3.0
    stop_seconds: float = 5.0


class ApiServer:
    """The API on one address. Enter it to serve; on leaving, requests under way get `stop_seconds` to finish.

    `bind` is `host:port`, `[v6]:port`; port 0 means any free one. `services` stay the caller's.
    """

    def __init__(self, bind: str, services: ApiServices, options: ApiOptions | None = None) -> None:
        self._host, self._port = _split(bind)
        self._services = services
        self._options = options or ApiOptions()
        self._table = RouteTable(ROUTES)
        self._keys = KeyRing(KeyLedger(services.pool), keep_seconds=self._options.key_cache_seconds)
        self._endpoints = EndpointLedger(services.pool, default_limits=services.host_defaults)
        self._logs = LogLedger(services.pool)
        self._runner: web.ServerRunner | None = None
        self.url = ""
        """Where it serves, `http://host:port`; empty before it does."""

    async def __aenter__(self) -> Self:
        """Bind and serve. Raises OSError when the address is taken."""
        server = _Server(
            self._serve,
            keepalive_timeout=self._options.keepalive_seconds,
            lingering_time=_LINGER_SECONDS,
            auto_decompress=False,
            access_log=None,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=self._options.stop_seconds)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop taking connections, let requests finish, close."""
        if self._runner is not None:
            await self._services.listeners.send_away()
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = f"req_{secrets.token_hex(8)}"
        problem: Problem
        try:
            async with asyncio.timeout(self._options.request_seconds):
                answer = await self._answer(request)
            if isinstance(answer, Takeover):
                return await answer.take(request)
            return _respond(answer, request_id)
        except Problem as fault:
            problem = fault
        except Unavailable as fault:
            detail = "; ".join(filter(None, (fault.why, "try again shortly")))
            problem = Problem(ProblemCode.UNAVAILABLE, detail, headers=_RETRY_AFTER)
        except TimeoutError:
            problem = Problem(ProblemCode.TIMED_OUT, "try again shortly", headers=_RETRY_AFTER)
        except Exception as fault:  # noqa: BLE001 - the boundary: a bug in one request ends that request only
            _report(request_id, fault)
            problem = Problem(ProblemCode.INTERNAL_ERROR, "tell us the request id")
        return _refuse(problem, request_id)

    async def _answer(self, request: web.BaseRequest) -> Answer | Takeover:
        route, path = self._table.find(request.method, request.rel_url.raw_path)
        bearer = await self._keys.bearer(request.headers.get("Authorization"))
        _check_scope(bearer, route)
        if bearer.tenant is None:
            raise Problem(ProblemCode.NEEDS_ACCOUNT_KEY, "an operator's key sees no account")
        query = check_query(route.query, list(request.query.items()))
        body = raw_body = None
        if route.body is not None:
            raw_body = await self._body(request)
            body = check_body(route.body, raw_body)
        return await route.handler(
            Call(
                services=self._services,
                endpoints=self._endpoints,
                logs=self._logs,
                bearer=bearer,
                tenant=bearer.tenant,
                path=path,
                query=query,
                body=body,
                raw_body=raw_body,
                headers=request.headers,
            )
        )

    async def _body(self, request: web.BaseRequest) -> Any:
        await _meet_expectation(request)
        return await read_json(
            request,
            max_bytes=self._options.body_bytes,
            max_depth=self._options.json_depth,
            seconds=self._options.body_seconds,
        )


class _Protocol(web.RequestHandler):  # type: ignore[misc, type-arg, unused-ignore]
    """A connection whose parser's refusals are problem documents, too."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the client's bytes
    ) -> web.StreamResponse:
        """Answer what could not be parsed; the connection closes."""
        request_id = f"req_{secrets.token_hex(8)}"
        if request.writer.output_size > 0:
            closing = "the answer was already on its way"
            raise ConnectionError(closing)
        if status < 500:
            response = _refuse(Problem(ProblemCode.MALFORMED_REQUEST), request_id)
        else:
            _report(request_id, exc)
            response = _refuse(Problem(ProblemCode.INTERNAL_ERROR, "tell us the request id"), request_id)
        response.force_close()
        return response


class _Server(web.Server):  # type: ignore[misc, type-arg, unused-ignore]
    """Makes connections of our own kind."""

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return _Protocol(self, loop=self._loop, **self._kwargs)


def _check_scope(bearer: Bearer, route: Route) -> None:
    if bearer.tenant is not None and route.scope not in bearer.scopes:
        raise Problem(ProblemCode.MISSING_SCOPE, f"the key lacks the scope {route.scope}")


async def _meet_expectation(request: web.BaseRequest) -> None:
    expectation = request.headers.get("Expect")
    if expectation is None:
        return
    if expectation.lower() != "100-continue":
        raise Problem(ProblemCode.EXPECTATION_FAILED, "only 100-continue is known")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # Not part of the answer: a handler that fails now must still be able to say so.
    request.writer.output_size = 0


def _respond(answer: Answer, request_id: str) -> web.Response:
    headers = {**_SECURITY_HEADERS, **answer.headers, "X-Request-Id": request_id}
    if answer.body is None:
        return web.Response(status=answer.status, headers=headers)
    return web.Response(
        body=orjson.dumps(answer.body),
        status=answer.status,
        headers=headers,
        content_type="application/json",
    )


def _refuse(problem: Problem, request_id: str) -> web.Response:
    response = web.Response(
        body=orjson.dumps(problem.show(request_id)),
        status=problem.status,
        headers={**_SECURITY_HEADERS, **problem.headers, "X-Request-Id": request_id},
        content_type=PROBLEM_TYPE,
    )
    if problem.kind in _UNREAD_BODY:
        response.force_close()
    return response


def _report(request_id: str, fault: BaseException | None) -> None:
    """Log where a bug is, without its message: drivers quote values in theirs."""
    trace = fault.__traceback__ if fault is not None else None
    place = ""
    while trace is not None:
        place = f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"
        trace = trace.tb_next
    _log.error("api_request_failed", request_id=request_id, fault=type(fault).__name__, place=place)


def _split(bind: str) -> tuple[str, int]:
    host, _, port = bind.rpartition(":")
    return host.strip("[]"), int(port)
