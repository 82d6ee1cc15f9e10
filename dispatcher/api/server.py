"""The HTTP server around the route table: bounds, problem documents, a graceful end."""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, cast

import orjson
import structlog
from aiohttp import web

from dispatcher.api.call import Answer, ApiServices, Call, Route, RouteTable, Takeover, plain_path
from dispatcher.api.crowd import Crowd
from dispatcher.api.desks import Desks
from dispatcher.api.idempotency import KEY_HEADER, read_ask, repeat
from dispatcher.api.identity import KeyRing
from dispatcher.api.json_body import read_json
from dispatcher.api.problems import PROBLEM_TYPE, Problem, ProblemCode
from dispatcher.api.routes import ROUTES
from dispatcher.api.shapes import check_body, check_query
from dispatcher.api.stalls import StallWatch
from dispatcher.api.throttle import Allowance, Buckets, rate_headers
from dispatcher.api.trial_bounds import TrialBounds
from dispatcher.kit import clock
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.deeds import OPERATORS
from dispatcher.ledger.keys import Bearer, KeyLedger
from dispatcher.model.access import Scope
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
_UNREAD_BODY: Final = frozenset({ProblemCode.REQUEST_TIMEOUT, ProblemCode.BODY_TOO_LARGE})
_LINGER_SECONDS: Final = 1.0
"""How long the rest of a refused body is read away, so that the client sees the answer before the reset."""

NOBODY: Final = Bearer("", None, None, frozenset(), None)
NOBODYS: Final = Tenant(-1, "nobody")
"""For whom a call without a key is made: nothing in the database is theirs."""

KEY_RATE: Final = Allowance(per_second=20.0, burst=40)
STRANGER_RATE: Final = Allowance(per_second=10.0, burst=50)
TRIALS_A_MINUTE: Final = 10
MOST_TRIALS_A_MINUTE: Final = 60


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """Bounds of the server.

    `request_seconds` holds for a whole request, its body included; of its answer some has to be taken in any
    `stall_seconds`.

    `key_rate` is for the requests of one key, `stranger_rate` for the failed logins of one address (and the invitations
    it presents that are no good), `trials_a_minute` for the tests of one endpoint, and for those of one account and
    environment to one host, `most_trials_a_minute` for those of all to one host, and of one account and environment to
    all hosts; all hold in this process.
    """

    body_bytes: int = 256 * 1024
    json_depth: int = 32
    request_seconds: float = 10.0
    body_seconds: float = 5.0
    keepalive_seconds: float = 20.0
    stall_seconds: float = 10.0
    key_cache_seconds: float = 3.0
    stop_seconds: float = 5.0
    most_connections: int = 1_000
    key_rate: Allowance = KEY_RATE
    stranger_rate: Allowance = STRANGER_RATE
    trials_a_minute: int = TRIALS_A_MINUTE
    most_trials_a_minute: int = MOST_TRIALS_A_MINUTE


class ApiServer:
    """The API on one address. Enter it to serve; on leaving, requests under way get `stop_seconds` to finish.

    `bind` is `host:port`, `[v6]:port`; port 0 means any free one. `services` stay the caller's.
    """

    def __init__(self, bind: str, services: ApiServices, options: ApiOptions | None = None) -> None:
        self._host, self._port = _split(bind)
        self._services = services
        self._options = options or ApiOptions()
        self._table = RouteTable(ROUTES)
        self._stranger_rates = Buckets(self._options.stranger_rate)
        self._keys = KeyRing(
            KeyLedger(services.pool),
            keep_seconds=self._options.key_cache_seconds,
            strangers=self._stranger_rates,
        )
        self._rates = Buckets(self._options.key_rate)
        self._trial_bounds = TrialBounds(self._options.trials_a_minute, self._options.most_trials_a_minute)
        self._desks = Desks(services)
        self._crowd = Crowd(_SECURITY_HEADERS)
        self._runner: web.ServerRunner | None = None
        self.url = ""
        """Where it serves, `http://host:port`; empty before it does."""

    async def __aenter__(self) -> Self:
        """Bind and serve. Raises OSError when the address is taken."""
        server = _Server(
            self._serve,
            most_connections=self._options.most_connections,
            stall_seconds=self._options.stall_seconds,
            crowd=self._crowd,
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
            # Before anybody is sent away: who listens comes back at once, and to us where it can.
            for site in tuple(self._runner.sites):
                await site.stop()
            await self._services.listeners.send_away()
            await self._runner.cleanup()
            self._crowd.send_away()
            self._runner = None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = f"req_{secrets.token_hex(8)}"
        # What every answer carries; the way of the request adds to it.
        headers = {**_SECURITY_HEADERS, "X-Request-Id": request_id}
        problem: Problem
        try:
            async with asyncio.timeout(self._options.request_seconds):
                answer = await self._answer(request, headers)
            if isinstance(answer, Takeover):
                return await _hand_over(request, answer)
            return _respond(answer, headers)
        except Problem as fault:
            problem = fault
        except Unavailable as fault:
            detail = "; ".join(filter(None, (fault.why, "try again shortly")))
            problem = Problem(ProblemCode.UNAVAILABLE, detail)
        except TimeoutError:
            problem = Problem(ProblemCode.TIMED_OUT, "try again shortly")
        except Exception as fault:  # noqa: BLE001 - the boundary: a bug in one request ends that request only
            _report(request_id, fault)
            problem = Problem(ProblemCode.INTERNAL_ERROR, "tell us the request id")
        return _refuse(problem, headers)

    async def _answer(self, request: web.BaseRequest, headers: dict[str, str]) -> Answer | Takeover:
        where = plain_path(request.rel_url.raw_path)
        if request.method == "OPTIONS":
            return Answer(None, 204, {"Allow": self._table.allowed(where)})
        route, path = self._table.find(request.method, where)
        bearer, tenant = await self._enter(route, request, headers)
        query = check_query(route.query, list(request.query.items()))
        body = document = None
        if route.body is not None:
            document = {} if route.may_lack_body and not request.body_exists else await self._body(request)
            body = check_body(route.body, document)
        ask = read_ask(route, where, request.headers.get(KEY_HEADER), document, bearer.scopes)
        desk = self._desks.of(tenant)
        if ask is not None and (kept := await desk.deeds.kept_answer(tenant, ask.key)) is not None:
            return repeat(kept, ask)
        return await route.handler(
            Call(
                services=desk.services,
                endpoints=desk.endpoints,
                logs=desk.logs,
                bearer=bearer,
                tenant=tenant,
                path=path,
                query=query,
                body=body,
                headers=request.headers,
                request_id=headers["X-Request-Id"],
                address=request.remote,
                trial_bounds=self._trial_bounds,
                stranger_rates=self._stranger_rates,
                ask=ask,
                has_left=partial(_has_left, request),
            )
        )

    async def _enter(self, route: Route, request: web.BaseRequest, headers: dict[str, str]) -> tuple[Bearer, Tenant]:
        """Return who calls, and for whom, when the caller may come in."""
        address = request.remote or ""
        if route.scope is None:
            self._admit(address, headers)
            return NOBODY, NOBODYS
        bearer = await self._keys.bearer(request.headers.get("Authorization"), address)
        self._admit(bearer.key_id, headers)
        _check_scope(bearer, route, route.scope)
        return bearer, bearer.tenant or OPERATORS

    def _admit(self, name: str, headers: dict[str, str]) -> None:
        """Count the request against its key's rate; refused before anything of its body is read."""
        standing = self._rates.take(name, clock.mono())
        told = rate_headers(standing, self._options.key_rate)
        if not standing.is_allowed:
            raise Problem(ProblemCode.RATE_LIMITED, "slow down; Retry-After says when to come again", headers=told)
        headers.update(told)

    async def _body(self, request: web.BaseRequest) -> Any:
        await _meet_expectation(request)
        return await read_json(
            request,
            max_bytes=self._options.body_bytes,
            max_depth=self._options.json_depth,
            seconds=self._options.body_seconds,
        )


class _Protocol(web.RequestHandler):  # type: ignore[misc, type-arg, unused-ignore]
    """A connection whose parser's refusals are problem documents, too, and whose client has to take its answers."""

    def __init__(self, manager: Any, *, stall_seconds: float, **options: Any) -> None:
        super().__init__(manager, **options)
        self._stall_seconds = stall_seconds
        self.stalls: StallWatch

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve."""
        # Not asserted: uvloop's is of no class of asyncio's.
        self.stalls = StallWatch(cast("asyncio.Transport", transport), self._stall_seconds)
        super().connection_made(transport)

    def pause_writing(self) -> None:
        """Hold answers back: the client has not taken the last one."""
        super().pause_writing()
        self.stalls.begin()

    def resume_writing(self) -> None:
        """Go on: it has."""
        self.stalls.end()
        super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self.stalls.end()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the client's bytes
    ) -> web.StreamResponse:
        """Answer what could not be parsed; the connection closes."""
        request_id = f"req_{secrets.token_hex(8)}"
        headers = {**_SECURITY_HEADERS, "X-Request-Id": request_id}
        if request.writer.output_size > 0:
            closing = "the answer was already on its way"
            raise ConnectionError(closing)
        if status < 500:
            response = _refuse(Problem(ProblemCode.MALFORMED_REQUEST), headers)
        else:
            _report(request_id, exc)
            response = _refuse(Problem(ProblemCode.INTERNAL_ERROR, "tell us the request id"), headers)
        response.force_close()
        return response


class _Server(web.Server):  # type: ignore[misc, type-arg, unused-ignore]
    """Makes connections of our own kind, `most_connections` of them at a time; the rest are refused by `crowd`."""

    def __init__(
        self, serve: Any, *, most_connections: int, stall_seconds: float, crowd: Crowd, **options: Any
    ) -> None:
        super().__init__(serve, **options)
        self._most_connections = most_connections
        self._stall_seconds = stall_seconds
        self._crowd = crowd

    def __call__(self) -> Any:
        """Return the protocol of a new connection."""
        if len(self._connections) >= self._most_connections:
            return self._crowd.refusal()
        return _Protocol(self, stall_seconds=self._stall_seconds, loop=self._loop, **self._kwargs)


def _check_scope(bearer: Bearer, route: Route, scope: Scope) -> None:
    if scope is Scope.OPERATOR:
        if bearer.tenant is not None:
            raise Problem(ProblemCode.NEEDS_OPERATOR_KEY, "an account's key does not open this")
    elif bearer.tenant is None:
        if route.opens_to_operators:
            return
        raise Problem(ProblemCode.NEEDS_ACCOUNT_KEY, "an operator's key sees no account")
    elif scope not in bearer.scopes:
        raise Problem(ProblemCode.MISSING_SCOPE, f"the key lacks the scope {scope}")


def _has_left(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


async def _hand_over(request: web.BaseRequest, answer: Takeover) -> web.StreamResponse:
    assert isinstance(request.protocol, _Protocol)
    stalls = request.protocol.stalls
    stalls.has_session = True
    try:
        return await answer.take(request)
    finally:
        stalls.has_session = False


async def _meet_expectation(request: web.BaseRequest) -> None:
    expectation = request.headers.get("Expect")
    if expectation is None:
        return
    if expectation.lower() != "100-continue":
        raise Problem(ProblemCode.EXPECTATION_FAILED, "only 100-continue is known")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # Not part of the answer: a handler that fails now must still be able to say so.
    request.writer.output_size = 0


def _respond(answer: Answer, headers: Mapping[str, str]) -> web.Response:
    headers = {**headers, **answer.headers}
    if answer.body is None:
        return web.Response(status=answer.status, headers=headers)
    return web.Response(
        body=orjson.dumps(answer.body),
        status=answer.status,
        headers=headers,
        content_type="application/json",
    )


def _refuse(problem: Problem, headers: Mapping[str, str]) -> web.Response:
    response = web.Response(
        body=orjson.dumps(problem.show(headers["X-Request-Id"])),
        status=problem.status,
        headers={**headers, **problem.headers},
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
