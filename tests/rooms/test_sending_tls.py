"""Attempts over TLS: who is trusted, who is not, and what a stalled or broken handshake costs."""

import asyncio
import datetime as dt
import socket
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import standardwebhooks
import trustme

from dispatcher.kit.supervise import spawn
from dispatcher.model.outcome import OutcomeKind
from dispatcher.policy.signing import show_secret
from dispatcher.sending.attempt import Sender
from dispatcher.sending.wire import Budgets
from tests.rooms.raw_sink import OK, RawSink, Script, Visit, answering, raw_sink
from tests.rooms.sending_room import QUICK, a_body, a_sender, open_sockets, tls_target

CALM = Budgets(connect=5.0, head=5.0, body=0.15)


class Trust:
    """An authority, and contexts of servers that it vouches for or not."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.file = folder / "authority.pem"
        self.file.write_bytes(self.authority.cert_pem.bytes())

    def server(self, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """Return a server's context, with a good certificate for localhost unless given another."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (certificate or self.authority.issue_cert("localhost", "127.0.0.1")).configure_cert(context)
        return context


@pytest.fixture(name="trust", scope="module")
def _trust() -> Iterator[Trust]:
    with tempfile.TemporaryDirectory() as folder:
        yield Trust(Path(folder))


@asynccontextmanager
async def meeting(
    trust: Trust, script: Script, context: ssl.SSLContext | None, budgets: Budgets = CALM
) -> AsyncIterator[tuple[Sender, RawSink]]:
    """Give a sender that trusts `trust`, and a sink with the given context."""
    async with (
        raw_sink(script, context) as sink,
        a_sender(ca_file=trust.file, allow_http=False, budgets=budgets) as sender,
    ):
        yield sender, sink


async def test_a_live_request_arrives_whole_and_signed_and_the_connection_is_reused(
    trust: Trust,
) -> None:
    async with meeting(trust, answering(OK), trust.server()) as (sender, sink):
        target = tls_target(sink.port)
        outcomes = [await sender.send(target, a_body(), number) for number in (1, 2)]

    assert [outcome.kind for outcome in outcomes] == [OutcomeKind.DELIVERED] * 2
    assert [outcome.reused for outcome in outcomes] == [False, True]
    assert outcomes[0].phases.tls is not None
    assert outcomes[0].phases.dns is not None
    for request in sink.requests:
        head, _, body = request.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode("ascii").split("\r\n")[1:])
        standardwebhooks.Webhook(show_secret(target.keys[0].key)).verify(body, headers)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [2, 16_384, 1_000_000])
async def test_bodies_of_every_size_pass_under_both_versions(trust: Trust, version: ssl.TLSVersion, size: int) -> None:
    context = trust.server()
    context.minimum_version = context.maximum_version = version
    delivery = a_body(max(size, 8))
    async with meeting(trust, answering(OK), context) as (sender, sink):
        outcome = await sender.send(tls_target(sink.port), delivery, 1)

    assert outcome.kind is OutcomeKind.DELIVERED
    assert sink.requests[0].endswith(b"\r\n\r\n" + delivery.body)


async def test_a_response_in_many_records_is_read_whole(trust: Trust) -> None:
    body = bytes(range(256)) * 64

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.drip(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        await visit.say(body)
        await visit.until_client_leaves()

    async with meeting(trust, script, trust.server()) as (sender, sink):
        outcome = await sender.send(tls_target(sink.port), a_body(), 1)

    assert (outcome.body, outcome.body_cut) == (body, False)


def expired(trust: Trust) -> trustme.LeafCert:
    return trust.authority.issue_cert("localhost", not_after=dt.datetime.now(dt.UTC) - dt.timedelta(days=1))


def for_another_name(trust: Trust) -> trustme.LeafCert:
    return trust.authority.issue_cert("other.example.com")


def of_a_stranger(_: Trust) -> trustme.LeafCert:
    return trustme.CA().issue_cert("localhost")


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (expired, "the certificate has expired"),
        (for_another_name, "the certificate is for another host name"),
        (of_a_stranger, "the certificate's issuer is unknown"),
    ],
)
async def test_a_server_that_is_not_who_it_should_be_gets_no_byte_of_the_request(
    trust: Trust, certificate: object, reason: str
) -> None:
    assert callable(certificate)
    context = trust.server(certificate(trust))
    async with meeting(trust, answering(OK), context) as (sender, sink):
        outcome = await sender.send(tls_target(sink.port), a_body(), 1)

    assert (outcome.kind, outcome.reason) == (OutcomeKind.TLS_ERROR, reason)
    assert sink.requests == []


@contextmanager
def self_signed_context() -> Iterator[ssl.SSLContext]:
    """Give the context of a server whose certificate vouches for itself."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = authority.private_key_pem.bytes() + authority.cert_pem.bytes()
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
        yield context


async def test_a_self_signed_certificate_is_a_tls_error(trust: Trust) -> None:
    with self_signed_context() as context:
        async with meeting(trust, answering(OK), context) as (sender, sink):
            outcome = await sender.send(tls_target(sink.port), a_body(), 1)

    assert outcome.kind is OutcomeKind.TLS_ERROR
    assert "self-signed" in outcome.reason


async def test_an_address_in_the_url_must_be_in_the_certificate(trust: Trust) -> None:
    named = trust.server(trust.authority.issue_cert("localhost"))
    async with meeting(trust, answering(OK), named) as (sender, sink):
        refused = await sender.send(tls_target(sink.port, hostname="127.0.0.1"), a_body(), 1)
    async with meeting(trust, answering(OK), trust.server()) as (sender, sink):
        accepted = await sender.send(tls_target(sink.port, hostname="127.0.0.1"), a_body(), 1)

    assert (refused.kind, refused.reason) == (
        OutcomeKind.TLS_ERROR,
        "the certificate is for another address",
    )
    assert accepted.kind is OutcomeKind.DELIVERED


@contextmanager
def strict_server(context: ssl.SSLContext) -> Iterator[tuple[int, list[bytes]]]:
    """Serve one connection from a thread: unlike asyncio's, its server tells why it refuses."""
    got: list[bytes] = []

    def serve() -> None:
        raw, _ = server.accept()
        raw.settimeout(5)
        with context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as secure:
            try:
                secure.do_handshake()
                got.append(secure.recv(65_536))
            except ssl.SSLError:
                # Closing with unread bytes would reset the connection before its alert is read.
                with suppress(OSError):
                    while socket.socket.recv(secure, 65_536):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], got
        finally:
            thread.join()


async def test_an_old_version_of_tls_is_refused(trust: Trust) -> None:
    context = trust.server()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with a_sender(ca_file=trust.file, budgets=CALM) as sender:
        with strict_server(context) as (port, got):
            outcome = await sender.send(tls_target(port), a_body(), 1)

    assert outcome.kind is OutcomeKind.TLS_ERROR
    assert outcome.reason == "TLS failed: tlsv1 alert protocol version"
    assert got == []


async def test_a_server_that_wants_a_certificate_of_ours_is_a_tls_error(trust: Trust) -> None:
    context = trust.server()
    context.verify_mode = ssl.CERT_REQUIRED
    trust.authority.configure_trust(context)
    async with a_sender(ca_file=trust.file, budgets=CALM) as sender:
        with strict_server(context) as (port, got):
            outcome = await sender.send(tls_target(port), a_body(), 1)

    assert outcome.kind is OutcomeKind.TLS_ERROR
    assert outcome.reason == "TLS failed: tlsv13 alert certificate required"
    assert got == []


async def test_a_server_that_speaks_no_tls_is_a_tls_error(trust: Trust) -> None:
    async def script(visit: Visit) -> None:
        await visit.say(b"HTTP/1.1 400 This is http\r\nContent-Length: 0\r\n\r\n")
        await visit.until_client_leaves()

    async with meeting(trust, script, None) as (sender, sink):
        outcome = await sender.send(tls_target(sink.port), a_body(), 1)

    assert (outcome.kind, outcome.reason) == (
        OutcomeKind.TLS_ERROR,
        "TLS failed: wrong version number",
    )


async def test_an_end_in_the_handshake_is_a_reset(trust: Trust) -> None:
    async def script(visit: Visit) -> None:
        visit.reset()

    async with meeting(trust, script, None) as (sender, sink):
        outcome = await sender.send(tls_target(sink.port), a_body(), 1)

    assert outcome.kind is OutcomeKind.CONNECTION_RESET


async def test_a_handshake_that_hangs_costs_the_connect_budget_and_leaves_no_socket(
    trust: Trust,
) -> None:
    async def script(visit: Visit) -> None:
        await visit.until_client_leaves()

    async with meeting(trust, script, None, QUICK) as (sender, sink):
        before = open_sockets()
        outcome = await sender.send(tls_target(sink.port), a_body(), 1)
        async with asyncio.timeout(5):
            await sink.emptied.wait()
            while open_sockets() > before:
                await asyncio.sleep(0)

    assert (outcome.kind, outcome.reason) == (
        OutcomeKind.TIMEOUT_CONNECT,
        "the TLS handshake took too long",
    )
    assert outcome.duration_seconds >= QUICK.connect - 0.01


async def test_a_cancel_in_the_handshake_leaves_no_socket(trust: Trust) -> None:
    greeted = asyncio.Event()

    async def script(visit: Visit) -> None:
        greeted.set()
        await visit.until_client_leaves()

    async with meeting(trust, script, None) as (sender, sink):
        attempt = spawn(sender.send(tls_target(sink.port), a_body(), 1), name="attempt")
        await greeted.wait()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        async with asyncio.timeout(5):
            await sink.emptied.wait()


async def test_a_server_that_refuses_before_the_request_is_understood(trust: Trust) -> None:
    async def script(visit: Visit) -> None:
        await visit.say(b"HTTP/1.1 503 Full\r\nConnection: close\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n")
        await visit.until_client_leaves()

    async with meeting(trust, script, trust.server()) as (sender, sink):
        for number in range(20):
            outcome = await sender.send(tls_target(sink.port), a_body(), number + 1)

            assert (outcome.status, outcome.retry_after) == (503, b"9")
            assert sink.n_connections == number + 1


async def test_broken_records_after_a_complete_head_do_not_change_the_answer(trust: Trust) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok")

    async with meeting(trust, script, trust.server()) as (sender, sink):
        outcome = await sender.send(tls_target(sink.port), a_body(), 1)

    assert (outcome.kind, outcome.body, outcome.body_cut) == (OutcomeKind.DELIVERED, b"ok", True)


async def test_a_broken_record_right_behind_the_answer_does_not_take_it_away(trust: Trust) -> None:
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = trust.server().wrap_bio(received, sent, server_side=True)

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def until(step: Callable[[], object]) -> None:
            while True:
                try:
                    step()
                except ssl.SSLWantReadError:
                    writer.write(sent.read())
                    received.write(await reader.read(65_536))
                else:
                    return

        await until(server.do_handshake)
        await until(lambda: server.read(65_536))
        server.write(OK)
        writer.write(sent.read() + b"\x17\x03\x03\x00\x20" + b"x" * 32)
        await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(visit, "127.0.0.1", 0) as listening,
        a_sender(ca_file=trust.file, allow_http=False, budgets=CALM) as sender,
    ):
        port = listening.sockets[0].getsockname()[1]
        outcome = await sender.send(tls_target(port), a_body(), 1)

    assert (outcome.kind, outcome.body) == (OutcomeKind.DELIVERED, b"ok")


async def test_a_reused_tls_connection_that_the_server_closed_costs_one_more_try(
    trust: Trust,
) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.say(OK)
        await visit.request()
        if visit.number:
            await visit.say(OK)

    async with meeting(trust, script, trust.server()) as (sender, sink):
        target = tls_target(sink.port)
        await sender.send(target, a_body(), 1)
        second = await sender.send(target, a_body(), 2)

    assert (second.kind, second.reused) == (OutcomeKind.DELIVERED, False)


async def test_a_flood_over_tls_is_left_at_once(trust: Trust) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.flood(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 400)

    patient = Budgets(connect=20, head=20, body=20)
    async with (
        meeting(trust, script, trust.server(), patient) as (sender, sink),
        asyncio.timeout(10),
    ):
        outcome = await sender.send(tls_target(sink.port), a_body(), 1)
        await sink.emptied.wait()

    assert outcome.kind is OutcomeKind.PROTOCOL_ERROR
