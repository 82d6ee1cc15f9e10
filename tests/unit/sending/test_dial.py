"""The two inner guards of the dialler, each alone: the outer one hides them in any whole attempt."""

import asyncio
import errno
import os
import socket
from typing import Any

import pytest

from dispatcher.model.outcome import OutcomeKind
from dispatcher.policy.addresses import EgressPolicy
from dispatcher.sending.dial import Dialer, Place, _failure_of, make_tls_context
from dispatcher.sending.faults import AttemptFailed
from dispatcher.sending.resolver import Resolver
from dispatcher.sending.wire import Budgets

LOOPBACK = EgressPolicy.parse(["127.0.0.1/32"], [])


def a_dialer() -> Dialer:
    return Dialer(LOOPBACK, Resolver(LOOPBACK), make_tls_context(), Budgets(connect=5))


def info(address: str) -> tuple[Any, ...]:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 80))


def test_no_socket_is_made_for_a_refused_address() -> None:
    with pytest.raises(PermissionError):
        a_dialer()._make_socket(info("127.0.0.2"))


def test_a_socket_sends_at_once_and_takes_little() -> None:
    with a_dialer()._make_socket(info("127.0.0.1")) as made:
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 32_768
        assert not made.getblocking()


async def test_a_connection_that_ends_at_a_refused_address_is_closed_before_the_first_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Strayed(socket.socket):
        """A socket that a faulty kernel or library led elsewhere."""

        def getpeername(self) -> tuple[str, int]:
            return ("127.0.0.2", 80)

    def make(_: Dialer, info: tuple[Any, ...]) -> socket.socket:
        made = Strayed(info[0], info[1])
        made.setblocking(False)
        return made

    monkeypatch.setattr(Dialer, "_make_socket", make)
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(visit, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(AttemptFailed) as caught:
            await a_dialer().dial(Place("key", True, "127.0.0.1", port))

        assert caught.value.kind is OutcomeKind.ADDRESS_FORBIDDEN
        assert await received == b""


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ECONNREFUSED, OutcomeKind.CONNECTION_REFUSED),
        (errno.EHOSTUNREACH, OutcomeKind.CONNECTION_REFUSED),
        (errno.ENETUNREACH, OutcomeKind.CONNECTION_REFUSED),
        (errno.ECONNRESET, OutcomeKind.CONNECTION_RESET),
        (errno.ENOTCONN, OutcomeKind.CONNECTION_RESET),
        (errno.ETIMEDOUT, OutcomeKind.TIMEOUT_CONNECT),
        (errno.EACCES, OutcomeKind.ADDRESS_FORBIDDEN),
        (errno.EMFILE, OutcomeKind.INTERNAL_ERROR),
        (errno.EADDRNOTAVAIL, OutcomeKind.INTERNAL_ERROR),
    ],
)
def test_a_system_error_has_its_outcome(number: int, kind: OutcomeKind) -> None:
    assert _failure_of(OSError(number, os.strerror(number))).kind is kind
