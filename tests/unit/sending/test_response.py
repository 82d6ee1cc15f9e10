"""The response reader against an independent parser, and against its own bounds."""

from typing import NamedTuple

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.sending.response import BODY_BYTES, HEAD_BYTES, ResponseReader


class Reading(NamedTuple):
    """What a parser makes of a response that is followed by the end of the connection."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    is_whole: bool


def read(*pieces: bytes) -> ResponseReader:
    reader = ResponseReader()
    for piece in pieces:
        if reader.feed(piece):
            return reader
    return reader


def ours(*pieces: bytes) -> Reading:
    reader = read(*pieces)
    reader.end()
    assert not reader.fault
    headers = [(name.lower(), value) for name, value in reader.headers]
    return Reading(reader.status, headers, reader.body, reader.is_complete)


def theirs(response: bytes) -> Reading:
    oracle = h11.Connection(h11.CLIENT)
    oracle.send(h11.Request(method="POST", target="/", headers=[("host", "a"), ("content-length", "0")]))
    oracle.send(h11.EndOfMessage())
    oracle.receive_data(response)
    oracle.receive_data(b"")
    status, body = 0, b""
    headers: list[tuple[bytes, bytes]] = []
    while True:
        try:
            event = oracle.next_event()
        except h11.RemoteProtocolError:
            return Reading(status, headers, body, is_whole=False)
        if isinstance(event, h11.Response):
            status, headers = event.status_code, list(event.headers)
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return Reading(status, headers, body, is_whole=True)


names = st.from_regex(rb"x-[a-z0-9]{1,8}", fullmatch=True)
values = st.from_regex(rb"([!-~]([ -~]{0,20}[!-~])?)?", fullmatch=True)
bodies = st.binary(max_size=60)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Return the bytes of a well-formed response, informational heads before it, perhaps cut short."""
    informational = draw(st.lists(st.sampled_from([b"100 Continue", b"103 Early Hints"]), max_size=4))
    status = draw(st.sampled_from([200, 201, 202, 204, 301, 304, 400, 404, 410, 429, 500, 503, 599]))
    headers = draw(st.lists(st.tuples(names, values), max_size=5))
    body = draw(bodies)
    framing = draw(st.sampled_from(["length", "chunked", "end"]))
    if status in {204, 304}:
        body, framing = b"", "end"
    parts = [b"HTTP/1.1 %b\r\nx-hint: 1\r\n\r\n" % head for head in informational]
    parts.append(b"HTTP/1.1 %d Some Reason\r\n" % status)
    parts += [b"%b: %b\r\n" % header for header in headers]
    if framing == "length":
        parts.append(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    elif framing == "chunked":
        parts.append(b"Transfer-Encoding: chunked\r\n\r\n")
        at = 0
        while at < len(body):
            size = draw(st.integers(1, len(body) - at))
            extension = draw(st.sampled_from([b"", b";x=y"]))
            parts.append(b"%x%b\r\n%b\r\n" % (size, extension, body[at : at + size]))
            at += size
        parts.append(draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nx-trailer: 1\r\n\r\n"])))
    else:
        parts.append(b"\r\n" + body)
    whole = b"".join(parts)
    head_end = whole.index(b"\r\n\r\n", whole.index(b"Some Reason")) + 4
    return whole[: draw(st.sampled_from([len(whole), max(head_end, len(whole) - 3)]))]


@given(responses())
def test_every_split_of_a_response_reads_as_the_independent_parser_reads_it(
    response: bytes,
) -> None:
    expected = theirs(response)

    assert ours(response) == expected
    assert ours(*(response[at : at + 1] for at in range(len(response)))) == expected
    for at in range(1, len(response)):
        assert ours(response[:at], response[at:]) == expected


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def every_way(response: bytes) -> list[ResponseReader]:
    """Read a response whole, byte by byte, and in pieces of a typical and an odd size."""
    sizes = (len(response), 1, 1460, 16_384, 4_097)
    return [read(*(response[at : at + size] for at in range(0, len(response), size))) for size in sizes]


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        (HINT * 5 + OK, "more than 4 informational responses"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 65 + b"\r\n", "more than 64 header lines"),
        ((HINT[:-2] + b"a: b\r\n" * 20 + b"\r\n") * 4 + OK, "more than 64 header lines"),
        (b"HTTP/1.1 200 OK\r\na: " + b"b" * 20_000, "response head larger than 16384 bytes"),
        (b"\r\n" * 20_000, "response head larger than 16384 bytes"),
        (b"HTTP/1.1 999 X\r\n\r\n", "a status outside 100 to 599"),
        (b"HTTP/1.1 600 X\r\n\r\n", "a status outside 100 to 599"),
        (b"HTTP/1.1 099 X\r\n\r\n", "a status outside 100 to 599"),
        (b"HTTP/2.0 200 X\r\n\r\n", "an HTTP version other than 1.0 and 1.1"),
        (b"HTTP/0.9 200 X\r\n\r\n", "an HTTP version other than 1.0 and 1.1"),
        (
            b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            "the response switches protocols",
        ),
        (b"HTTP/1.1 101 X\r\n\r\n" + OK, "the response switches protocols"),
        (b"\0\0\x12\x04\0\0\0\0\0", "not a valid HTTP/1.1 response"),
        (b"<html>hello</html>", "not a valid HTTP/1.1 response"),
        (CHUNKED[:-2] + b"Content-Length: 3\r\n\r\nabc", "not a valid HTTP/1.1 response"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            "not a valid HTTP/1.1 response",
        ),
    ],
)
def test_what_is_no_bounded_response_is_a_fault_however_it_is_split(response: bytes, fault: str) -> None:
    for reader in every_way(response):
        assert (reader.status, reader.fault) == (0, fault)
        assert not reader.can_continue


@pytest.mark.parametrize(
    "response",
    [
        HINT * 4 + OK,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 63 + b"Content-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\na: " + b"b" * (HEAD_BYTES - 43) + b"\r\n\r\nok",
    ],
)
def test_a_response_on_the_bound_passes_however_it_is_split(response: bytes) -> None:
    for reader in every_way(response):
        assert (reader.status, reader.body, reader.fault) == (200, b"ok", "")
        assert reader.can_continue


@pytest.mark.parametrize(("size", "is_cut"), [(BODY_BYTES, False), (BODY_BYTES + 1, True)])
def test_a_body_is_cut_after_its_bound_and_the_connection_with_it(size: int, *, is_cut: bool) -> None:
    for reader in every_way(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size):
        assert reader.status == 200
        assert reader.body == b"x" * BODY_BYTES
        assert (reader.is_cut, reader.can_continue) == (is_cut, not is_cut)


@pytest.mark.parametrize(
    "flood",
    [
        b"1\r\nx\r\n" * 20_000,
        b"1;" + b"e" * 100_000,
        b"1\r\nx\r\n0\r\n" + b"t: t\r\n" * 20_000,
    ],
)
def test_chunk_framing_is_counted_too(flood: bytes) -> None:
    readers = every_way(CHUNKED + flood)

    assert len({reader.body for reader in readers}) == 1
    for reader in readers:
        assert reader.status == 200
        assert reader.is_cut
        assert len(reader.body) < BODY_BYTES


@pytest.mark.parametrize(
    "rest", [b"garbage", b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 100 X\r\n\r\n"]
)
def test_bytes_after_the_response_keep_its_answer_and_end_the_connection(rest: bytes) -> None:
    reader = read(OK + rest)

    assert (reader.status, reader.body, reader.is_complete) == (200, b"ok", True)
    assert not reader.can_continue


def test_garbage_in_the_body_after_a_complete_head_keeps_the_status() -> None:
    reader = read(CHUNKED + b"2\r\nok\r\nnot a chunk")

    assert (reader.status, reader.body, reader.is_cut) == (200, b"ok", True)


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_a_connection_said_to_close_or_of_http_1_0_is_not_used_again(response: bytes) -> None:
    reader = read(response)

    assert (reader.status, reader.is_complete, reader.can_continue) == (200, True, False)


def test_a_reader_starts_afresh_for_the_next_response() -> None:
    reader = read(HINT * 4 + OK)
    reader.restart()

    reader.feed(HINT * 4 + b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")

    assert (reader.status, reader.header(b"retry-after"), reader.body) == (503, b"7", b"")
    assert reader.can_continue
