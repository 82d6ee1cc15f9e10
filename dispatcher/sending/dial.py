"""A name to a connection: look-up, TCP and TLS inside one budget, and no address that was not vetted.

The address is judged three times: in the answer to the look-up, at the making of every socket (also for
literal addresses, which no look-up sees), and on the connected socket.
"""

import asyncio
import errno
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohappyeyeballs

from dispatcher.kit import clock, failpoints
from dispatcher.model.outcome import NO_PHASES, OutcomeKind, Phases
from dispatcher.policy.addresses import EgressPolicy, refusal_of
from dispatcher.sending.faults import AttemptFailed
from dispatcher.sending.resolver import Address, Resolver, forbidden
from dispatcher.sending.tls import TlsLayer
from dispatcher.sending.wire import Budgets, Connection

_RECEIVE_BUFFER_BYTES: Final = 16_384
"""A peer that floods us waits in its own memory."""

_USER_TIMEOUT_MS: Final = 10_000
"""The kernel gives up on unacknowledged bytes after this; idle connections to a dead peer end too."""

_NEXT_ADDRESS_SECONDS: Final = 0.25
_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_RESETS: Final = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ENOTCONN})


class Place(NamedTuple):
    """Where to dial. Two places with one `key` may share connections."""

    key: str
    is_encrypted: bool
    hostname: str
    port: int


def make_tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Return the context of all deliveries: TLS 1.2 or newer, verified, HTTP/1.1 and nothing else.

    `ca_file` replaces the system's authorities with a private bundle. Reads files.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class Dialer:
    """Makes connections that policy allows. One loop only."""

    def __init__(self, policy: EgressPolicy, resolver: Resolver, tls: ssl.SSLContext, budgets: Budgets) -> None:
        self._policy = policy
        self._resolver = resolver
        self._tls = tls
        self._budgets = budgets

    async def dial(self, place: Place) -> tuple[Connection, Phases]:
        """Return a connection ready for a request, and how long each step took. Awaits the network.

        A cancel leaves no socket behind.

        Raises:
            AttemptFailed: every way in which this can fail by the customer's doing.
        """
        marks = [clock.mono()]
        try:
            async with asyncio.timeout(self._budgets.connect):
                return await self._dial(place, marks)
        except TimeoutError as fault:
            step = ("name look-up", "TCP connect", "TLS handshake")[len(marks) - 1]
            reason = f"the {step} took too long"
            raise AttemptFailed(OutcomeKind.TIMEOUT_CONNECT, reason) from fault
        except OSError as fault:
            raise _failure_of(fault) from fault

    async def addresses_of(self, hostname: str) -> tuple[Address, ...]:
        """Return where a host may be dialled: itself when it is an address, else what its name says.

        Raises:
            AttemptFailed: `dns_error` or `address_forbidden`.
        """
        addresses = _literal(hostname) or await self._resolver.resolve(hostname)
        for address in addresses:
            self._require_allowed(address.text)
        return addresses

    async def _dial(self, place: Place, marks: list[float]) -> tuple[Connection, Phases]:
        addresses = await self.addresses_of(place.hostname)
        failpoints.reach(failpoints.Point.ATTEMPT_LOOKED_UP)
        marks.append(clock.mono())
        connected = await self._connect(addresses, place.port)
        marks.append(clock.mono())
        connection = await self._open(connected, place)
        asked, named, met = marks
        phases = NO_PHASES._replace(
            dns=None if _literal(place.hostname) else named - asked,
            connect=met - named,
            tls=clock.mono() - met if place.is_encrypted else None,
        )
        return connection, phases

    async def _connect(self, addresses: tuple[Address, ...], port: int) -> socket.socket:
        infos: list[Any] = [
            (
                family,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                _socket_address(family, text, port),
            )
            for family, text in addresses
        ]
        connected = await aiohappyeyeballs.start_connection(
            infos,
            happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS,
            socket_factory=self._make_socket,
        )
        try:
            self._require_allowed(connected.getpeername()[0])
        except BaseException:
            connected.close()
            raise
        return connected

    def _make_socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if refusal_of(address[0], self._policy) is not None:
            # The race over several addresses understands no error but the system's.
            raise PermissionError(errno.EACCES, "address forbidden")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)  # noqa: FBT003 - the socket's own signature
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        return made

    async def _open(self, connected: socket.socket, place: Place) -> Connection:
        peer = connected.getpeername()[0]
        tls = TlsLayer(self._tls, place.hostname) if place.is_encrypted else None
        connection = Connection(self._budgets, tls, key=place.key, peer=peer)
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: connection, sock=connected)
            if tls is not None:
                await connection.shake()
            failpoints.reach(failpoints.Point.ATTEMPT_CONNECTED)
        except BaseException:
            connection.abort()
            connected.close()
            raise
        return connection

    def _require_allowed(self, address: str) -> None:
        if refusal_of(address, self._policy) is not None:
            raise forbidden()


def _literal(hostname: str) -> tuple[Address, ...]:
    try:
        version = ipaddress.ip_address(hostname).version
    except ValueError:
        return ()
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return (Address(family, hostname),)


def _socket_address(family: int, text: str, port: int) -> tuple[Any, ...]:
    return (text, port) if family == socket.AF_INET else (text, port, 0, 0)


def _failure_of(fault: OSError) -> AttemptFailed:
    if fault.errno == errno.EACCES:
        return forbidden()
    if fault.errno in _OURS:
        return AttemptFailed(OutcomeKind.INTERNAL_ERROR, errno.errorcode[fault.errno or 0])
    if fault.errno in _RESETS:
        return AttemptFailed(OutcomeKind.CONNECTION_RESET, "the connection was reset while it opened")
    if fault.errno == errno.ETIMEDOUT:
        return AttemptFailed(OutcomeKind.TIMEOUT_CONNECT, "the TCP connect took too long")
    if fault.errno == errno.ECONNREFUSED:
        return AttemptFailed(OutcomeKind.CONNECTION_REFUSED, "the connection was refused")
    return AttemptFailed(OutcomeKind.CONNECTION_REFUSED, "no address of the host could be reached")
