"""The nouns of the API: a route, a call on its way through one, its answer, and what handlers work with."""

import datetime as dt
import re
import string
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias

from aiohttp import web
from pydantic import BaseModel

from dispatcher.api.cursors import Cursors, Seals
from dispatcher.api.listeners import Listeners
from dispatcher.api.models import Incoming, NoQuery
from dispatcher.api.problems import NO_HEADERS, Problem, ProblemCode
from dispatcher.api.throttle import Buckets
from dispatcher.api.trial_bounds import TrialBounds
from dispatcher.api.waiting import Asker, Waiters
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.deeds import Action, Ask, Deed
from dispatcher.ledger.endpoints import EndpointLedger
from dispatcher.ledger.keys import Bearer
from dispatcher.ledger.logs import LogLedger
from dispatcher.model.access import Scope
from dispatcher.model.delivery import Delivery
from dispatcher.model.endpoint import HostLimits
from dispatcher.model.ids import DeliveryIds
from dispatcher.model.trial import Admit, Trial
from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.schema_files import Publications
from dispatcher.policy.urls import UrlRules

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""Look up a host name for a port: its addresses in text. None of them, or OSError: it does not resolve (yet);
PermissionError: egress policy refuses it."""


class Trials(Protocol):
    """Makes test requests: the door to sending, which this room does not know."""

    async def write(self, delivery: Delivery) -> Trial | None:
        """Return the request that a test would be; None when the endpoint does not exist."""
        ...

    async def send(self, delivery: Delivery, admit: Admit) -> Trial | None:
        """Send a test and return what it met, within eight seconds; None as `write`. What `admit` raises, passes."""
        ...


class Publish(Protocol):
    """Gives one record to Kafka: the door to intake, which this room does not know."""

    async def __call__(
        self, topic: str, value: bytes | None, *, key: bytes | None, headers: Sequence[tuple[str, bytes | None]]
    ) -> tuple[int, int]:
        """Return its partition and offset. Raises Unavailable: it may still arrive."""
        ...


@dataclass(frozen=True, slots=True)
class ApiServices:
    """What the API works with; the caller owns all of it. `pool` outlives the server.

    `vault` seals what is stored, `places` the cursors that clients keep: those outlive every key of the vault.

    `trials` is None in a process that does not deliver, `publish` in one that knows no Kafka. `source_ips` are told to
    customers, for their firewalls, with the time of the next change if one is planned. `user_agent` is how requests to
    endpoints name their sender.

    `n_attempts` are those of each environment's schedule. `url_rules` are the test environment's; in live http is
    refused whatever they say. `host_defaults` are given to a host seen for the first time. `on_endpoint_changed` is
    told an endpoint's number after each commit.
    """

    pool: Pool
    vault: Seals
    places: Seals
    publications: Publications
    delivery_ids: DeliveryIds
    n_attempts: Mapping[str, int]
    catalogue: Catalogue
    url_rules: UrlRules
    host_defaults: HostLimits
    resolve: Resolve
    on_endpoint_changed: Callable[[int], None]
    trials: Trials | None
    user_agent: str
    publish: Publish | None = None
    source_ips: tuple[str, ...] = ()
    source_ips_change_at: dt.datetime | None = None
    listeners: Listeners = field(default_factory=Listeners)
    waiters: Waiters = field(default_factory=Waiters)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler says. `body` is anything orjson writes, None for no content."""

    body: object
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)


@dataclass(frozen=True, slots=True)
class Call:
    """One authorized request. `query` and `body` are valid; `path` holds the route's placeholders by name.

    `tenant` is the caller's account and environment, or OPERATORS. `ask` is the idempotency key it came with, on
    routes that keep answers. `stranger_rates` bound how often one address may fail to say who it is. `has_left` tells
    whether the client hung up meanwhile: who waits for it asks now and then; nothing that was begun is cut by it.
    """

    services: ApiServices
    endpoints: EndpointLedger
    logs: LogLedger
    bearer: Bearer
    tenant: Tenant
    path: Mapping[str, str]
    query: Any
    body: Any
    headers: Mapping[str, str]
    request_id: str
    address: str | None
    trial_bounds: TrialBounds
    stranger_rates: Buckets
    ask: Ask | None
    has_left: Callable[[], bool]

    @property
    def asker(self) -> Asker:
        """Return who it is for an answer that waits."""
        return Asker(self.bearer.key_id, self.tenant, self.has_left)

    @property
    def may_read_payloads(self) -> bool:
        """Tell whether the caller may see bodies, ours and theirs."""
        return Scope.PAYLOADS_READ in self.bearer.scopes

    def deed(self, action: Action) -> Deed:
        """Return what is about to be done, for the ledger to write down and to do once."""
        return Deed(self.tenant, self.bearer.key_id, self.address, self.request_id, action, self.ask)

    def cursors(self, name: str) -> Cursors:
        """Return the cursors of the caller's list of that name."""
        return Cursors(self.services.places, self.tenant, name)


@dataclass(frozen=True, slots=True)
class Takeover:
    """An answer that keeps the connection for itself. `take` speaks over it until it ends, however long that takes.

    It may raise Problem before it has sent anything, and nothing afterwards.
    """

    take: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


Handler: TypeAlias = Callable[[Call], Awaitable[Answer | Takeover]]

_PLACEHOLDER: Final = re.compile(r"{([a-z_]+)}")
_ENCODED: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset(f"{string.ascii_letters}{string.digits}-._~")


def plain_path(raw: str) -> str:
    """Return a path as sent, with what needs no percent-encoding decoded, once (RFC 3986, 6.2.2.2).

    `%5F` and `_` are the same; an encoded slash stays a part of a name.
    """

    def plain(found: re.Match[str]) -> str:
        character = chr(int(found[1], 16))
        return character if character in _UNRESERVED else found[0]

    return _ENCODED.sub(plain, raw)


class NoBody(Incoming):
    """Nothing more is to be said: an empty object, which may be left out."""


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table: everything about an operation that a document or a test needs to know.

    `path` may hold placeholders, `{id}`. `answer` is the model of a success with `status`, None for no content;
    `other_answers` are those of successes with another status, by status. `problems` are the refusals of its own, on
    top of those that every route has. `scope` OPERATOR: for operators alone; None: for everybody, without a key.
    `keeps_answers`: takes an idempotency key; its handler keeps the answer through its deed. `shows_payloads`: its
    answer has bodies for keys with `payloads:read`, and none for others. `has_versions`: takes If-Match. `headers` are
    those of its own that every success with `status` bears. `opens_to_operators`: an operator's key opens it, too, for
    all accounts at once.
    """

    method: str
    path: str
    operation_id: str
    handler: Handler
    scope: Scope | None
    summary: str
    answer: type[BaseModel] | None
    status: int = 200
    query: type[BaseModel] = NoQuery
    body: type[BaseModel] | None = None
    problems: tuple[ProblemCode, ...] = ()
    other_answers: Mapping[int, type[BaseModel]] = field(default_factory=dict)
    keeps_answers: bool = False
    shows_payloads: bool = False
    has_versions: bool = False
    headers: tuple[Literal["ETag", "Location"], ...] = ()
    opens_to_operators: bool = False

    @property
    def may_lack_body(self) -> bool:
        """Tell whether a request without a body means one with an empty object: nothing has to be said."""
        if self.body is None or self.method != "POST":
            return False
        return not any(field.is_required() for field in self.body.model_fields.values())

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Return the names of the path's placeholders, in order."""
        return tuple(_PLACEHOLDER.findall(self.path))

    def pattern(self) -> re.Pattern[str]:
        """Return the expression that matches this route's paths, with a group per placeholder."""
        return re.compile(_PLACEHOLDER.sub(r"(?P<\1>[^/]+)", self.path))


class RouteTable:
    """Finds the route of a request; the order of the table does not matter."""

    def __init__(self, routes: Sequence[Route]) -> None:
        # Paths without placeholders are looked up, the others tried one by one.
        self._by_path: dict[str, dict[str, Route]] = {}
        self._by_pattern: dict[re.Pattern[str], dict[str, Route]] = {}
        for route in routes:
            if route.placeholders:
                self._by_pattern.setdefault(route.pattern(), {})[route.method] = route
            else:
                self._by_path.setdefault(route.path, {})[route.method] = route

    def find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        """Return the route and its placeholders' values; HEAD is answered as GET.

        Raises:
            Problem: 404, or 405 with the methods that are allowed.
        """
        methods, values = self._at(path)
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            raise Problem(ProblemCode.METHOD_NOT_ALLOWED, headers={"Allow": _listed(methods)})
        return route, values

    def allowed(self, path: str) -> str:
        """Return the methods of a path as `Allow` lists them. Raises Problem 404 when there is no such path."""
        return _listed(self._at(path)[0])

    def _at(self, path: str) -> tuple[Mapping[str, Route], Mapping[str, str]]:
        if methods := self._by_path.get(path):
            return methods, {}
        for pattern, methods in self._by_pattern.items():
            if found := pattern.fullmatch(path):
                return methods, found.groupdict()
        raise Problem(ProblemCode.NOT_FOUND, "there is no such path")


def _listed(methods: Mapping[str, Route]) -> str:
    return ", ".join(sorted({*methods, "OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))
