"""Attempts against raw servers that split, drip, lie, flood and vanish."""

import asyncio
import socket
from dataclasses import replace

import pytest
import standardwebhooks

from dispatcher.kit import clock
from dispatcher.kit.supervise import spawn
from dispatcher.model.delivery import Delivery
from dispatcher.model.endpoint import SigningKey
from dispatcher.model.ids import DeliveryIds, show_event_id
from dispatcher.model.outcome import Outcome, OutcomeKind
from dispatcher.policy.signing import show_secret
from dispatcher.sending.attempt import Sender
from dispatcher.sending.wire import Budgets
from tests.rooms.raw_sink import OK, RawSink, Script, Visit, answering, raw_sink
from tests.rooms.sending_room import QUICK, a_body, a_sender, plain_target
from tests.support.builders import a_delivery

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"


async def met(script: Script, *, delivery: Delivery | None = None) -> Outcome:
    """Make one attempt against a script, on a sender that keeps nothing."""
    async with raw_sink(script) as sink, a_sender() as sender:
        return await sender.send(plain_target(sink.port), delivery or a_body(), 1)


async def twice(sender: Sender, sink: RawSink) -> tuple[Outcome, Outcome]:
    target = plain_target(sink.port)
    return await sender.send(target, a_body(), 1), await sender.send(target, a_body(), 2)


def saying(*pieces: bytes) -> Script:
    """Return a script that answers one request and then waits for the client to leave."""

    async def script(visit: Visit) -> None:
        await visit.request()
        for piece in pieces:
            await visit.say(piece)
        await visit.until_client_leaves()

    return script


async def test_the_answer_comes_with_its_own_headers_as_they_were_sent() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    final = b"HTTP/1.1 500 No\r\nX-Odd: \xe9\xff\r\nx-odd: 2\r\nContent-Length: 2\r\n\r\nno"
    async with raw_sink(answering(early + final, OK)) as sink, a_sender() as sender:
        first, second = await twice(sender, sink)

    # The second exchange on the same connection leaves the first one's alone.
    assert first.headers == [(b"X-Odd", b"\xe9\xff"), (b"x-odd", b"2"), (b"Content-Length", b"2")]
    assert (first.body, first.body_cut) == (b"no", False)
    assert second.headers != first.headers


async def test_a_request_is_signed_and_says_what_it_is() -> None:
    delivery = a_delivery(body=b'{"id":"evt","name":"Jos\xc3\xa9"}', event_type="check.completed")
    async with raw_sink(answering(OK)) as sink, a_sender() as sender:
        target = plain_target(sink.port, headers=(("X-Own", "yes"),), path="/hook?a=1")
        outcome = await sender.send(target, delivery, 2)

    head, _, body = sink.requests[0].partition(b"\r\n\r\n")
    line, *rest = head.decode("ascii").split("\r\n")
    headers = dict(one.split(": ", 1) for one in rest)
    assert outcome.kind is OutcomeKind.DELIVERED
    assert line == "POST /hook?a=1 HTTP/1.1"
    assert body == delivery.body
    assert list(headers) == [
        "host", "content-type", "user-agent", "accept-encoding", "x-webhook-environment", "webhook-id",
        "webhook-timestamp", "webhook-signature", "x-webhook-event", "x-webhook-delivery",
        "x-webhook-attempt", "X-Own", "content-length",
    ]  # fmt: skip
    assert headers["host"] == f"127.0.0.1:{sink.port}"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == "Test-Webhooks/1 (+https://docs.test)"
    assert headers["webhook-id"] == show_event_id(delivery.event_id)
    assert abs(int(headers["webhook-timestamp"]) - clock.now()) < 10
    assert outcome.signed_at == int(headers["webhook-timestamp"])
    assert headers["x-webhook-event"] == "check.completed"
    assert headers["x-webhook-delivery"] == DeliveryIds(b"i" * 32).show(delivery.delivery_id)
    assert headers["x-webhook-attempt"] == "2/3"
    assert headers["x-webhook-environment"] == "test"
    assert headers["content-length"] == str(len(delivery.body))
    standardwebhooks.Webhook(show_secret(target.keys[0].key)).verify(body, headers)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, OutcomeKind.DELIVERED), (204, OutcomeKind.DELIVERED), (299, OutcomeKind.DELIVERED),
        (301, OutcomeKind.HTTP_3XX), (304, OutcomeKind.HTTP_3XX), (307, OutcomeKind.HTTP_3XX),
        (400, OutcomeKind.HTTP_4XX), (410, OutcomeKind.HTTP_410), (429, OutcomeKind.HTTP_429),
        (500, OutcomeKind.HTTP_5XX), (503, OutcomeKind.HTTP_5XX), (599, OutcomeKind.HTTP_5XX),
    ],
)  # fmt: skip
async def test_the_status_decides_the_outcome(status: int, kind: OutcomeKind) -> None:
    location = b"Location: https://example.com/\r\nRetry-After: 120\r\n"
    outcome = await met(saying(b"HTTP/1.1 %d X\r\n%bContent-Length: 0\r\n\r\n" % (status, location)))

    assert (outcome.kind, outcome.status, outcome.body) == (kind, status, b"")
    assert outcome.retry_after == (None if status < 300 else b"120")
    assert outcome.peer == "127.0.0.1"


async def test_a_failed_response_keeps_the_beginning_of_its_body() -> None:
    outcome = await met(saying(b"HTTP/1.1 500 X\r\nContent-Length: 5\r\n\r\nsorry"))

    assert (outcome.body, outcome.body_cut) == (b"sorry", False)


@pytest.mark.parametrize("response", [OK, b"HTTP/1.1 103 X\r\n\r\n" * 4 + OK, CHUNKED + b"2\r\nok\r\n0\r\n\r\n"])
async def test_a_dripped_response_is_read_like_any_other(response: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.drip(response)
        await visit.until_client_leaves()

    async with raw_sink(script) as sink, a_sender(budgets=Budgets()) as sender:
        outcome = await sender.send(plain_target(sink.port), a_body(), 1)

    assert (outcome.status, outcome.body, outcome.body_cut) == (200, b"ok", False)


async def test_phases_are_told_on_a_fresh_connection_and_only_the_wait_on_a_reused_one() -> None:
    async with raw_sink(answering(OK)) as sink, a_sender() as sender:
        first, second = await twice(sender, sink)

    assert not first.reused
    assert second.reused
    assert first.phases.dns is None
    assert first.phases.connect is not None
    assert first.phases.tls is None
    assert second.phases[:3] == (None, None, None)
    for outcome in (first, second):
        assert outcome.phases.wait is not None
        assert 0 <= outcome.phases.wait <= outcome.duration_seconds


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([b"HTTP/1.1 999 X\r\n\r\n"], "a status outside 100 to 599"),
        ([b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"], "the response switches protocols"),
        ([b"HTTP/2.0 200 OK\r\n\r\n"], "an HTTP version other than 1.0 and 1.1"),
        ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], "not a valid HTTP/1.1 response"),
        ([b"\0\0\x12\x04\0\0\0\0\0"], "not a valid HTTP/1.1 response"),
        ([b"SSH-2.0-OpenSSH_9.2p1\r\n"], "not a valid HTTP/1.1 response"),
        ([CHUNKED[:-2] + b"Content-Length: 2\r\n\r\nok"], "not a valid HTTP/1.1 response"),
        ([b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 65, b"\r\n"], "more than 64 header lines"),
    ],
)  # fmt: skip
async def test_what_is_no_response_is_a_protocol_error(pieces: list[bytes], reason: str) -> None:
    outcome = await met(saying(*pieces))

    assert (outcome.kind, outcome.status, outcome.reason) == (
        OutcomeKind.PROTOCOL_ERROR,
        None,
        reason,
    )


@pytest.mark.parametrize(
    ("start", "flood", "kind"),
    [
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", OutcomeKind.PROTOCOL_ERROR),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", OutcomeKind.PROTOCOL_ERROR),
        (b"HTTP/1.1 200 OK\r\na: ", b"b" * 1000, OutcomeKind.PROTOCOL_ERROR),
        (b"", b"\r\n" * 500, OutcomeKind.PROTOCOL_ERROR),
        (b"", b"no status line ", OutcomeKind.PROTOCOL_ERROR),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
            b"b" * 1000,
            OutcomeKind.DELIVERED,
        ),
        (b"HTTP/1.1 500 X\r\n\r\n", b"b" * 1000, OutcomeKind.HTTP_5XX),
        (CHUNKED, b"1\r\nx\r\n", OutcomeKind.DELIVERED),
        (CHUNKED + b"1;", b"extension" * 100, OutcomeKind.DELIVERED),
        (CHUNKED + b"0\r\n", b"trailer: x\r\n", OutcomeKind.DELIVERED),
    ],
)
async def test_a_flood_is_left_at_once(start: bytes, flood: bytes, kind: OutcomeKind) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.say(start)
        await visit.flood(flood * (8192 // len(flood)))

    # Budgets so long that only the bounds can end this.
    patient = Budgets(connect=20, head=20, body=20)
    async with raw_sink(script) as sink, a_sender(budgets=patient) as sender, asyncio.timeout(10):
        outcome = await sender.send(plain_target(sink.port), a_body(), 1)
        await sink.emptied.wait()

    assert outcome.kind is kind
    assert len(outcome.body) <= 16_384
    assert outcome.body_cut == (outcome.status is not None)
    # What the kernels' buffers swallow is sent in any case.
    assert sink.flooded_bytes < 8_000_000


async def test_a_body_longer_than_promised_is_no_second_answer() -> None:
    glued = OK + b"HTTP/1.1 500 Forged\r\nContent-Length: 0\r\n\r\n"
    async with raw_sink(answering(glued, OK)) as sink, a_sender() as sender:
        first, second = await twice(sender, sink)

    assert (first.status, second.status) == (200, 200)
    assert sink.n_connections == 2
    assert not second.reused


async def test_bytes_that_nobody_asked_for_end_an_idle_connection() -> None:
    spoken = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.say(OK)
        if visit.number == 0:
            await spoken.wait()
            await visit.say(b"HTTP/1.1 500 Forged\r\nContent-Length: 0\r\n\r\n")
        await visit.until_client_leaves()

    async with raw_sink(script) as sink, a_sender() as sender:
        target = plain_target(sink.port)
        await sender.send(target, a_body(), 1)
        spoken.set()
        async with asyncio.timeout(5):
            await sink.emptied.wait()
        second = await sender.send(target, a_body(), 2)

    assert (second.status, second.reused) == (200, False)


@pytest.mark.parametrize(
    "answer",
    [
        CLOSING,
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        OK + b"junk",
        b"HTTP/1.1 204 None\r\nContent-Length: 3\r\n\r\nabc",
        CHUNKED + b"2\r\nok\r\nbroken",
    ],
)
async def test_a_connection_in_doubt_is_not_used_again(answer: bytes) -> None:
    async with raw_sink(answering(answer)) as sink, a_sender() as sender:
        first, second = await twice(sender, sink)

    assert (first.kind, second.kind) == (OutcomeKind.DELIVERED, OutcomeKind.DELIVERED)
    assert not second.reused
    assert sink.n_connections == 2


@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", CHUNKED + b"0\r\n\r\n"])
async def test_a_whole_response_leaves_the_connection_for_the_next_request(answer: bytes) -> None:
    async with raw_sink(answering(answer)) as sink, a_sender() as sender:
        await twice(sender, sink)

    assert sink.n_connections == 1
    assert len(sink.requests) == 2


async def test_a_body_without_length_ends_with_the_connection() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.say(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    outcome = await met(script)

    assert (outcome.status, outcome.body, outcome.body_cut) == (200, b"all of it", False)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", CHUNKED + b"5\r\nok"])
async def test_a_complete_success_head_whose_body_breaks_off_is_delivered(answer: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.say(answer)

    outcome = await met(script)

    assert (outcome.kind, outcome.body, outcome.body_cut) == (OutcomeKind.DELIVERED, b"ok", True)


async def test_a_complete_success_head_whose_body_stalls_is_delivered_after_the_body_budget() -> None:
    script = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok")
    budgets = Budgets(head=5.0, body=0.1)
    async with raw_sink(script) as sink, a_sender(budgets=budgets) as sender:
        outcome = await sender.send(plain_target(sink.port), a_body(), 1)
        await sink.emptied.wait()

    assert (outcome.kind, outcome.body, outcome.body_cut) == (OutcomeKind.DELIVERED, b"ok", True)
    assert outcome.duration_seconds >= 0.09


async def test_a_server_that_never_answers_is_left_after_the_head_budget() -> None:
    async with raw_sink(saying()) as sink, a_sender() as sender:
        outcome = await sender.send(plain_target(sink.port), a_body(), 1)
        await sink.emptied.wait()

    assert (outcome.kind, outcome.reason) == (
        OutcomeKind.TIMEOUT_RESPONSE,
        "no response head in time",
    )
    assert outcome.duration_seconds >= QUICK.head - 0.01


async def test_a_dripped_head_does_not_stretch_the_head_budget() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.drip(b"HTTP/1.1 200 OK\r\na: " + b"b" * 16_000)

    outcome = await met(script)

    assert outcome.kind is OutcomeKind.TIMEOUT_RESPONSE


async def test_a_server_that_does_not_read_is_left_in_time() -> None:
    async def script(visit: Visit) -> None:
        await asyncio.Event().wait()

    delivery = a_body(20_000_000)
    async with a_sender() as sender:
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            outcome = await sender.send(plain_target(deaf.getsockname()[1]), delivery, 1)

    assert outcome.kind is OutcomeKind.TIMEOUT_RESPONSE
    assert outcome.reason == "the request was not read in time"


async def test_the_wait_for_an_answer_begins_when_the_last_byte_of_a_slow_request_has_left() -> None:
    async def script(visit: Visit) -> None:
        await asyncio.wait({spawn(asyncio.Event().wait(), name="late")}, timeout=0.3)
        await visit.request()
        await visit.say(OK)
        await visit.until_client_leaves()

    async with raw_sink(script) as sink, a_sender(budgets=Budgets(head=20)) as sender:
        outcome = await sender.send(plain_target(sink.port), a_body(12_000_000), 1)

    assert outcome.kind is OutcomeKind.DELIVERED
    assert outcome.phases.wait is not None
    assert outcome.phases.wait < outcome.duration_seconds - 0.25


async def test_an_answer_before_the_request_was_read_counts_and_ends_the_connection() -> None:
    async def script(visit: Visit) -> None:
        await visit.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.Event().wait()

    async with raw_sink(script) as sink, a_sender() as sender:
        outcome = await sender.send(plain_target(sink.port), a_body(20_000_000), 1)
        second = await sender.send(plain_target(sink.port), a_body(20_000_000), 2)

    assert (outcome.kind, outcome.status) == (OutcomeKind.HTTP_4XX, 413)
    assert not second.reused


async def test_a_server_that_refuses_before_the_request_is_understood() -> None:
    async def script(visit: Visit) -> None:
        await visit.say(b"HTTP/1.1 503 Full\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n")
        await visit.until_client_leaves()

    for _ in range(20):
        outcome = await met(script)

        assert (outcome.status, outcome.retry_after) == (503, b"9")


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Le"])
@pytest.mark.parametrize("is_reset", [True, False])
async def test_an_early_end_on_a_fresh_connection_is_a_failure(said: bytes, *, is_reset: bool) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.say(said)
        if is_reset:
            visit.reset()

    async with raw_sink(script) as sink, a_sender() as sender:
        outcome = await sender.send(plain_target(sink.port), a_body(), 1)

    assert outcome.kind is OutcomeKind.CONNECTION_RESET
    assert outcome.status is None
    assert sink.n_connections == 1


@pytest.mark.parametrize("is_reset", [True, False])
async def test_a_reused_connection_that_dies_silently_costs_one_more_try_on_a_fresh_one(*, is_reset: bool) -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.say(OK)
        await visit.request()
        if visit.number == 0:
            if is_reset:
                visit.reset()
            return
        await visit.say(OK)

    async with raw_sink(script) as sink, a_sender() as sender:
        _, second = await twice(sender, sink)

    assert (second.kind, second.reused) == (OutcomeKind.DELIVERED, False)
    assert sink.n_connections == 2
    assert len(sink.requests) == 3


async def test_a_server_that_always_dies_is_tried_once_more_and_not_again() -> None:
    async def script(visit: Visit) -> None:
        if visit.number == 0:
            await visit.request()
            await visit.say(OK)
        await visit.request()

    async with raw_sink(script) as sink, a_sender() as sender:
        _, second = await twice(sender, sink)

    assert second.kind is OutcomeKind.CONNECTION_RESET
    assert sink.n_connections == 2
    assert len(sink.requests) == 3


async def test_a_reused_connection_that_dies_in_the_middle_of_its_answer_is_not_tried_again() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.say(OK)
        await visit.request()
        await visit.say(b"HTTP/1.1 ")

    async with raw_sink(script) as sink, a_sender() as sender:
        _, second = await twice(sender, sink)

    assert (second.kind, second.reused) == (OutcomeKind.CONNECTION_RESET, True)
    assert sink.n_connections == 1


async def test_a_closed_port_is_a_refusal() -> None:
    # Taken, so that it is nobody else's meanwhile.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with a_sender() as sender:
            outcome = await sender.send(plain_target(closed.getsockname()[1]), a_body(), 1)

    assert outcome.kind is OutcomeKind.CONNECTION_REFUSED
    assert outcome.phases.connect is None


async def test_a_host_that_accepts_nobody_costs_the_connect_budget() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # Connections beyond the backlog are dropped, as a firewall drops them.
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        async with a_sender() as sender:
            outcome = await sender.send(plain_target(full.getsockname()[1]), a_body(), 1)
        for one in waiting:
            one.close()

    assert outcome.kind is OutcomeKind.TIMEOUT_CONNECT
    assert outcome.reason == "the TCP connect took too long"
    assert outcome.duration_seconds >= QUICK.connect - 0.01


async def test_a_cancel_closes_the_connection_and_is_passed_on() -> None:
    arrived = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.request()
        arrived.set()
        await visit.until_client_leaves()

    patient = Budgets(head=20)
    async with raw_sink(script) as sink, a_sender(budgets=patient) as sender:
        attempt = spawn(sender.send(plain_target(sink.port), a_body(), 1), name="attempt")
        await arrived.wait()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        async with asyncio.timeout(5):
            await sink.emptied.wait()


async def test_our_own_mistake_is_an_outcome_that_names_its_class_and_leaves_no_connection() -> None:
    async with raw_sink(answering(OK)) as sink, a_sender() as sender:
        target = plain_target(sink.port)
        broken = await sender.send(target, a_delivery(event_type="a\r\nb"), 1)
        sound = await sender.send(target, a_body(), 1)

    assert (broken.kind, broken.reason) == (OutcomeKind.INTERNAL_ERROR, "ValueError")
    assert (sound.kind, sound.reused) == (OutcomeKind.DELIVERED, False)


async def test_a_changed_endpoint_is_sent_to_with_its_new_settings() -> None:
    async with raw_sink(answering(OK)) as sink, a_sender() as sender:
        await sender.send(plain_target(sink.port), a_body(), 1)
        changed = plain_target(sink.port, keys=(SigningKey(8, b"n" * 36),), path="/new")
        await sender.send(changed, a_body(), 1)

    head, _, body = sink.requests[1].partition(b"\r\n\r\n")
    line, *rest = head.decode("ascii").split("\r\n")
    assert line == "POST /new HTTP/1.1"
    headers = dict(one.split(": ", 1) for one in rest)
    standardwebhooks.Webhook(show_secret(b"n" * 36)).verify(body, headers)


async def test_an_idle_connection_closes_itself_after_its_time() -> None:
    brief = Budgets(idle=0.05)
    async with raw_sink(answering(OK)) as sink, a_sender(budgets=brief) as sender:
        await sender.send(plain_target(sink.port), a_body(), 1)
        assert sink.n_open == 1

        async with asyncio.timeout(5):
            await sink.emptied.wait()


async def test_an_idle_connection_that_the_server_closed_is_not_handed_out() -> None:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.say(OK)

    async with raw_sink(script) as sink, a_sender() as sender:
        target = plain_target(sink.port)
        await sender.send(target, a_body(), 1)
        await sink.emptied.wait()
        while len(sender._pool):
            await asyncio.sleep(0)
        second = await sender.send(target, a_body(), 2)

    assert not second.reused
    assert len(sink.requests) == 2


async def test_idle_connections_are_bounded_over_all_hosts_and_the_newest_are_kept() -> None:
    async with raw_sink(answering(OK)) as sink, a_sender(most_idle=2) as sender:
        targets = [plain_target(sink.port, hostname=f"h{n}.localhost", endpoint_id=n) for n in (1, 2, 3)]
        for target in targets:
            await sender.send(target, a_body(), 1)

        again = [await sender.send(target, a_body(), 2) for target in reversed(targets)]

    assert [outcome.reused for outcome in again] == [True, True, False]


async def test_nothing_is_written_once_the_lease_is_in_doubt() -> None:
    written: list[bytes] = []

    async def script(visit: Visit) -> None:
        await visit.until_client_leaves()

    async with raw_sink(script) as sink, a_sender() as sender:
        sender.may_write = lambda _: False
        outcome = await sender.send(plain_target(sink.port), a_body(), 1, on_written=written.append)
        async with asyncio.timeout(5):
            await sink.emptied.wait()

    assert (outcome.kind, outcome.reason) == (OutcomeKind.INTERRUPTED, "lease in doubt")
    assert written == []


async def test_many_hostile_servers_at_once_leave_nothing_behind() -> None:
    async def script(visit: Visit) -> None:
        kind = visit.number % 6
        if kind == 0:
            await visit.flood(b"HTTP/1.1 103 X\r\n\r\n" * 400)
        await visit.request()
        if kind == 1:
            await visit.drip(OK * 50)
        elif kind == 2:
            visit.reset()
        elif kind == 3:
            await visit.say(CHUNKED)
            await visit.flood(b"1\r\nx\r\n" * 1000)
        elif kind == 4:
            await visit.until_client_leaves()

    # Long enough for a reset to be noticed among sixty at once on a slow machine.
    patient = replace(QUICK, connect=5.0, head=1.0, body=1.0)
    async with raw_sink(script) as sink, a_sender(budgets=patient) as sender:
        target = plain_target(sink.port)
        attempts = [spawn(sender.send(target, a_body(), 1), name=f"attempt-{number}") for number in range(60)]
        await asyncio.wait(attempts)
        await sender.aclose()
        async with asyncio.timeout(5):
            await sink.emptied.wait()

    kinds = {one.result().kind for one in attempts}
    assert OutcomeKind.INTERNAL_ERROR not in kinds
    assert kinds >= {
        OutcomeKind.PROTOCOL_ERROR,
        OutcomeKind.CONNECTION_RESET,
        OutcomeKind.TIMEOUT_RESPONSE,
    }
