"""One attempt: the door of this room.

    idle connection, or look-up + dial  ->  sign  ->  exchange  ->  outcome

Signing comes last, so that the timestamp is that of the request and not of a wait. When an idle
connection turns out dead before the first byte of an answer, the request is sent once more on a fresh
one: the peer closed it while we wrote, which is nobody's fault.
"""

import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from dispatcher.kit import clock
from dispatcher.model.delivery import Delivery
from dispatcher.model.endpoint import Target
from dispatcher.model.ids import DeliveryIds
from dispatcher.model.outcome import NO_PHASES, Outcome, OutcomeKind, Phases
from dispatcher.policy.addresses import PUBLIC_ONLY, EgressPolicy
from dispatcher.sending.dial import Dialer, make_tls_context
from dispatcher.sending.faults import AttemptFailed
from dispatcher.sending.pool import Pool
from dispatcher.sending.request import Template
from dispatcher.sending.resolver import DEFAULT_LIMITS, GetAddressInfo, Resolver, ResolverLimits
from dispatcher.sending.response import ResponseReader
from dispatcher.sending.wire import DEFAULT_BUDGETS, Budgets, Connection

_MOST_TEMPLATES: Final = 20_000
_BY_STATUS: Final = {
    **dict.fromkeys(range(200, 300), OutcomeKind.DELIVERED),
    **dict.fromkeys(range(300, 400), OutcomeKind.HTTP_3XX),
    **dict.fromkeys(range(400, 500), OutcomeKind.HTTP_4XX),
    **dict.fromkeys(range(500, 600), OutcomeKind.HTTP_5XX),
    410: OutcomeKind.HTTP_410,
    429: OutcomeKind.HTTP_429,
}

_log = structlog.get_logger("sending")


@dataclass(frozen=True, slots=True)
class SendingOptions:
    """How this process sends. Everything here holds for all customers alike.

    `allow_http` opens plain http for endpoints of the test environment, never for live ones.
    `most_idle` bounds the idle connections of the process.
    """

    user_agent: str
    egress: EgressPolicy = PUBLIC_ONLY
    allow_http: bool = False
    allow_localhost: bool = False
    ca_file: Path | None = None
    budgets: Budgets = DEFAULT_BUDGETS
    resolver: ResolverLimits = DEFAULT_LIMITS
    most_idle: int = 1_000


class Sender:
    """Makes attempts. `ids` shows delivery numbers as public ids. One loop only; close it at the end."""

    def __init__(
        self,
        options: SendingOptions,
        ids: DeliveryIds,
        *,
        getaddrinfo: GetAddressInfo = socket.getaddrinfo,
    ) -> None:
        self._options = options
        self._ids = ids
        self._tls = make_tls_context(options.ca_file)
        self.may_write: Callable[[float], bool] = lambda _: True
        """Asked with the monotonic time just before a request is written: looking up, dialling or standing still may
        have outlasted the lease, and then another replica has the delivery."""
        # By endpoint, each with the very target that it was made from.
        self._templates: dict[int, tuple[Target, Template]] = {}
        self._pool = Pool(options.most_idle)
        resolver = Resolver(
            options.egress,
            allow_localhost=options.allow_localhost,
            limits=options.resolver,
            getaddrinfo=getaddrinfo,
        )
        self._dialer = Dialer(options.egress, resolver, self._tls, options.budgets)

    def send(
        self,
        target: Target,
        delivery: Delivery,
        attempt_no: int,
        *,
        on_written: Callable[[bytes], None] | None = None,
    ) -> Coroutine[Any, Any, Outcome]:
        """Make one request and return what it met; every fault of the customer's side is an outcome.

        `on_written` is given the request's bytes, head and body, before they are sent; twice when an idle connection
        turned out dead.
        `attempt_no` is 1-based. Takes at most about 15 s with the usual budgets: 3 to connect, 5 for the
        peer to read, 5 for the head, 2 for the body. On cancel the connection is closed; the request
        may have been read by then.
        """
        return self._send(target, delivery, attempt_no, clock.mono(), on_written, may_reuse=True)

    def write(self, target: Target, delivery: Delivery, attempt_no: int) -> bytes:
        """Return the request that `send` would send now, head and body, and send nothing."""
        return self._fill(self._template_of(target), delivery, attempt_no, int(clock.now()))

    @property
    def user_agent(self) -> str:
        """Return what every request names as its sender."""
        return self._options.user_agent

    async def look_up(self, hostname: str, _: int) -> tuple[str, ...]:
        """Return the allowed addresses of a host as an attempt would use them, in text; for checks at registration.

        Raises:
            PermissionError: an address of it is forbidden.
            OSError: it does not resolve (yet).
        """
        try:
            return tuple(address.text for address in await self._dialer.addresses_of(hostname))
        except AttemptFailed as failure:
            if failure.kind is OutcomeKind.ADDRESS_FORBIDDEN:
                raise PermissionError from failure
            raise OSError from failure

    async def aclose(self) -> None:
        """Close the idle connections; attempts under way are their callers' to cancel."""
        await self._pool.aclose()

    async def _send(
        self,
        target: Target,
        delivery: Delivery,
        attempt_no: int,
        started: float,
        on_written: Callable[[bytes], None] | None,
        *,
        may_reuse: bool,
    ) -> Outcome:
        connection, phases, reused, signed_at = None, NO_PHASES, False, None
        try:
            if target.scheme != "https":
                self._require_plain_allowed(target)
            template = self._template_of(target)
            connection = self._pool.take(template.place.key) if may_reuse else None
            reused = connection is not None
            if connection is None:
                connection, phases = await self._dialer.dial(template.place)
            now = int(clock.now())
            request = self._fill(template, delivery, attempt_no, now)
            # Last of all: whoever is stopped between this look and the write cannot take the write back.
            if not self.may_write(clock.mono()):
                connection.close()
                duration = clock.mono() - started
                return Outcome(OutcomeKind.INTERRUPTED, duration, phases=phases, reason="lease in doubt")
            signed_at = now
            if on_written is not None:
                on_written(request)
            answer = await connection.exchange(request)
            self._pool.put(connection)
            return _outcome_of(answer, connection, phases, started, signed_at, reused=reused)
        except AttemptFailed as failure:
            if reused and failure.is_silent:
                # It was dead already; what is sent once more goes on a connection that cannot be.
                return await self._send(target, delivery, attempt_no, started, on_written, may_reuse=False)
            outcome = Outcome(failure.kind, clock.mono() - started, phases=phases, reason=failure.reason)
            peer = None if connection is None else connection.peer
            return outcome._replace(peer=peer, reused=reused, signed_at=signed_at)
        except BaseException as fault:
            if connection is not None:
                connection.abort()
            if not isinstance(fault, Exception):
                raise
            # The edge of the room: a bug of ours is an outcome.
            _log.exception("attempt_broken", endpoint_id=target.public_id)
            return Outcome(OutcomeKind.INTERNAL_ERROR, clock.mono() - started, reason=type(fault).__name__)

    def _fill(self, template: Template, delivery: Delivery, attempt_no: int, now: int) -> bytes:
        return template.fill(delivery, attempt_no, now, delivery_id=self._ids.show(delivery.delivery_id))

    def _template_of(self, target: Target) -> Template:
        made = self._templates.get(target.endpoint_id)
        if made is not None and made[0] is target:
            return made[1]
        template = Template(target, self._options.user_agent)
        self._templates.pop(target.endpoint_id, None)
        self._templates[target.endpoint_id] = (target, template)
        if len(self._templates) > _MOST_TEMPLATES:
            del self._templates[next(iter(self._templates))]
        return template

    def _require_plain_allowed(self, target: Target) -> None:
        if not self._options.allow_http or target.environment != "test":
            raise AttemptFailed(OutcomeKind.ADDRESS_FORBIDDEN, "plain http is not allowed here")


def _outcome_of(
    answer: ResponseReader, connection: Connection, phases: Phases, started: float, signed_at: int, *, reused: bool
) -> Outcome:
    return Outcome(
        _BY_STATUS[answer.status],
        clock.mono() - started,
        answer.status,
        Phases(phases.dns, phases.connect, phases.tls, connection.wait_seconds),
        answer.retry_after,
        "",
        connection.peer,
        reused,
        answer.body,
        not answer.is_complete,
        answer.headers,
        signed_at,
    )
