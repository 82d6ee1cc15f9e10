"""What the order of single callbacks decides on a connection, which no real network can be told."""

import asyncio

import pytest

from dispatcher.model.outcome import OutcomeKind
from dispatcher.sending.faults import AttemptFailed
from dispatcher.sending.wire import DEFAULT_BUDGETS, Connection

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Wire(asyncio.Transport):
    """A transport that only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_gone = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def is_closing(self) -> bool:
        return self.is_gone

    def close(self) -> None:
        self.is_gone = True

    def abort(self) -> None:
        self.is_gone = True


def connected() -> tuple[Connection, Wire]:
    connection, wire = Connection(DEFAULT_BUDGETS, None, key="key", peer="192.0.2.1"), Wire()
    connection.connection_made(wire)
    return connection, wire


def hear(connection: Connection, data: bytes) -> None:
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


async def test_an_answer_before_the_request_counts_and_the_connection_is_not_used_again() -> None:
    connection, wire = connected()
    hear(connection, OK[:9])

    waiting = connection.exchange(b"request")
    hear(connection, OK[9:])

    assert (await waiting).body == b"ok"
    assert wire.written == b"request"
    assert not connection.is_reusable
    assert wire.is_gone


async def test_an_answer_and_an_end_before_the_request_still_count() -> None:
    connection, _ = connected()
    hear(connection, OK)
    connection.connection_lost(None)

    assert (await connection.exchange(b"request")).status == 200


async def test_half_an_answer_and_an_end_before_the_request_are_a_reset() -> None:
    connection, _ = connected()
    hear(connection, OK[:9])
    connection.connection_lost(None)

    with pytest.raises(AttemptFailed) as caught:
        await connection.exchange(b"request")
    assert caught.value.kind is OutcomeKind.CONNECTION_RESET
    assert not caught.value.is_silent


async def test_an_end_before_the_request_is_a_silent_reset() -> None:
    connection, _ = connected()
    connection.connection_lost(None)

    with pytest.raises(AttemptFailed) as caught:
        await connection.exchange(b"request")
    assert caught.value.is_silent


async def test_too_many_bytes_before_the_request_end_the_connection() -> None:
    connection, wire = connected()

    for _ in range(3):
        hear(connection, b"x" * 8_000)

    assert wire.is_gone


async def test_a_connection_is_out_of_use_from_the_moment_its_end_is_heard() -> None:
    connection, _ = connected()
    waiting = connection.exchange(b"request")
    hear(connection, OK)
    await waiting
    assert connection.is_reusable

    connection.eof_received()

    assert not connection.is_open
    assert not connection.is_reusable


async def test_one_timer_serves_many_exchanges() -> None:
    connection, _ = connected()
    timers = set()
    for _ in range(5):
        waiting = connection.exchange(b"request")
        hear(connection, OK)
        await waiting
        connection.rest()
        timers.add(id(connection._timer))

    assert len(timers) == 1
    connection.connection_lost(None)
    assert connection._timer is None


@pytest.mark.looptime
@pytest.mark.asyncio(loop_scope="function")
async def test_the_head_budget_starts_anew_for_each_request_on_a_connection() -> None:
    connection, _ = connected()

    for _ in range(3):
        waiting = connection.exchange(b"request")
        await asyncio.sleep(DEFAULT_BUDGETS.head * 0.7)
        hear(connection, OK)

        assert (await waiting).status == 200


@pytest.mark.looptime
@pytest.mark.asyncio(loop_scope="function")
async def test_the_head_budget_starts_when_the_last_byte_of_a_slow_request_has_left() -> None:
    connection, _ = connected()
    waiting = connection.exchange(b"request")
    connection.pause_writing()
    await asyncio.sleep(DEFAULT_BUDGETS.head * 0.7)
    connection.resume_writing()
    await asyncio.sleep(DEFAULT_BUDGETS.head * 0.7)

    hear(connection, OK)

    assert (await waiting).status == 200


@pytest.mark.looptime
@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("is_dripping", [False, True], ids=["silent", "dripping"])
async def test_a_head_that_does_not_come_is_waited_for_as_long_as_its_budget_and_no_longer(is_dripping: bool) -> None:
    connection, _ = connected()
    loop = asyncio.get_running_loop()
    began, waiting = loop.time(), connection.exchange(b"request")
    if is_dripping:
        hear(connection, b"HTTP/1.1 200 OK\r\na: ")

    while not waiting.done():
        await asyncio.sleep(DEFAULT_BUDGETS.head / 10)
        if is_dripping:
            hear(connection, b"b")

    with pytest.raises(AttemptFailed) as caught:
        await waiting
    assert caught.value.kind is OutcomeKind.TIMEOUT_RESPONSE
    assert loop.time() - began == pytest.approx(DEFAULT_BUDGETS.head, rel=0.11)
