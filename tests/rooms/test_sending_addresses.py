"""The guard in the dialler: a forbidden address gets no packet, by whatever name it comes."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from dispatcher.model.endpoint import Target
from dispatcher.model.outcome import OutcomeKind
from dispatcher.policy.addresses import PUBLIC_ONLY, EgressPolicy
from tests.rooms.raw_sink import OK, RawSink, answering, raw_sink
from tests.rooms.sending_room import a_body, a_sender, plain_target


def resolving(*addresses: str) -> Callable[..., list[tuple[Any, ...]]]:
    """Return a system look-up that gives these addresses for every name."""

    def getaddrinfo(name: str, port: None, *, type: int) -> list[tuple[Any, ...]]:
        assert name.endswith(".")
        assert (port, type) == (None, socket.SOCK_STREAM)
        return [(socket.AF_INET6 if ":" in one else socket.AF_INET, type, 6, "", (one, 0)) for one in addresses]

    return getaddrinfo


def named(port: int) -> Target:
    return plain_target(port, hostname="hooks.example.com")


async def untouched(sink: RawSink) -> bool:
    """Tell whether nobody but us ever connected: our own connection is the first to be counted."""
    before = sink.n_connections
    with socket.create_connection(("127.0.0.1", sink.port)) as probe:
        probe.setblocking(False)
    return before == 0


@pytest.mark.parametrize("hostname", ["127.0.0.1", "::1", "169.254.169.254", "10.0.0.1"])
async def test_a_literal_address_that_policy_refuses_is_not_dialled(hostname: str) -> None:
    async with raw_sink(answering(OK)) as sink, a_sender(egress=PUBLIC_ONLY) as sender:
        outcome = await sender.send(plain_target(sink.port, hostname=hostname), a_body(), 1)

        assert outcome.kind is OutcomeKind.ADDRESS_FORBIDDEN
        assert hostname not in outcome.reason
        assert outcome.peer is None
        assert await untouched(sink)


async def test_a_name_that_leads_to_a_refused_address_is_not_dialled() -> None:
    async with (
        raw_sink(answering(OK)) as sink,
        a_sender(egress=PUBLIC_ONLY, getaddrinfo=resolving("127.0.0.1")) as sender,
    ):
        outcome = await sender.send(named(sink.port), a_body(), 1)

        assert outcome.kind is OutcomeKind.ADDRESS_FORBIDDEN
        assert await untouched(sink)


async def test_an_answer_that_mixes_allowed_and_refused_addresses_is_refused_whole() -> None:
    only_one = EgressPolicy.parse(["127.0.0.1/32"], [])
    async with (
        raw_sink(answering(OK)) as sink,
        a_sender(egress=only_one, getaddrinfo=resolving("127.0.0.1", "127.0.0.2")) as sender,
    ):
        outcome = await sender.send(named(sink.port), a_body(), 1)

        assert outcome.kind is OutcomeKind.ADDRESS_FORBIDDEN
        assert await untouched(sink)


async def test_metadata_is_not_dialled_even_where_everything_is_allowed() -> None:
    everything = EgressPolicy.parse(["0.0.0.0/0", "::/0"], [])
    async with a_sender(egress=everything, getaddrinfo=resolving("169.254.169.254")) as sender:
        outcome = await sender.send(named(80), a_body(), 1)

    assert outcome.kind is OutcomeKind.ADDRESS_FORBIDDEN


async def test_a_second_address_is_tried_when_the_first_does_not_answer() -> None:
    async with (
        raw_sink(answering(OK)) as sink,
        a_sender(getaddrinfo=resolving("127.0.0.9", "127.0.0.1")) as sender,
    ):
        outcome = await sender.send(named(sink.port), a_body(), 1)

    assert (outcome.kind, outcome.peer) == (OutcomeKind.DELIVERED, "127.0.0.1")
    assert outcome.phases.dns is not None


async def test_a_host_none_of_whose_addresses_listens_is_a_refusal() -> None:
    # Taken, so that it is nobody else's meanwhile.
    with socket.socket() as closed:
        closed.bind(("", 0))
        async with a_sender(getaddrinfo=resolving("127.0.0.9", "127.0.0.1")) as sender:
            outcome = await sender.send(named(closed.getsockname()[1]), a_body(), 1)

    assert outcome.kind is OutcomeKind.CONNECTION_REFUSED


async def test_a_name_that_does_not_exist_is_a_dns_error() -> None:
    def getaddrinfo(*_: object, **__: object) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "x")

    async with a_sender(getaddrinfo=getaddrinfo) as sender:
        outcome = await sender.send(named(443), a_body(), 1)

    assert (outcome.kind, outcome.reason) == (OutcomeKind.DNS_ERROR, "the name does not exist")


@pytest.mark.parametrize(
    ("environment", "allow_http", "kind"),
    [
        ("test", True, OutcomeKind.DELIVERED),
        ("test", False, OutcomeKind.ADDRESS_FORBIDDEN),
        ("live", True, OutcomeKind.ADDRESS_FORBIDDEN),
        ("live", False, OutcomeKind.ADDRESS_FORBIDDEN),
    ],
)
async def test_plain_http_goes_to_test_endpoints_only_and_only_when_allowed(
    environment: str, kind: OutcomeKind, *, allow_http: bool
) -> None:
    async with raw_sink(answering(OK)) as sink, a_sender(allow_http=allow_http) as sender:
        outcome = await sender.send(plain_target(sink.port, environment=environment), a_body(), 1)

        assert outcome.kind is kind
        assert (outcome.kind is OutcomeKind.DELIVERED) or await untouched(sink)


async def test_a_look_up_for_registration_tells_addresses_or_why_there_are_none() -> None:
    async with a_sender(getaddrinfo=resolving("127.0.0.1")) as sender:
        assert await sender.look_up("hooks.example.com", 443) == ("127.0.0.1",)
        with pytest.raises(PermissionError):
            await sender.look_up("10.0.0.1", 443)
    async with a_sender(getaddrinfo=resolving()) as sender:
        with pytest.raises(OSError, match=r"^$"):
            await sender.look_up("hooks.example.com", 443)
