"""What the response reader relies on in its parser; a new release may change any of it."""

from typing import Any

import httptools
import pytest


class Recorder:
    """Writes down every callback of the parser."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self.log.append("begin")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.log.append((name, value))

    def on_headers_complete(self) -> None:
        self.log.append(("head", self.parser.get_status_code(), self.parser.should_keep_alive()))

    def on_body(self, data: bytes) -> None:
        self.log.append(("body", data))

    def on_message_complete(self) -> None:
        self.log.append("end")

    def feed(self, *pieces: bytes) -> list[Any]:
        for piece in pieces:
            self.parser.feed_data(piece)
        return self.log


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OK_LOG = ["begin", (b"Content-Length", b"2"), ("head", 200, True), ("body", b"ok"), "end"]


@pytest.mark.parametrize("status", [100, 103])
def test_informational_responses_arrive_as_complete_messages_without_a_body(status: int) -> None:
    log = Recorder().feed(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status, OK)

    assert log == [
        "begin",
        (b"Content-Length", b"5"),
        ("head", status, True),
        "end",
        *OK_LOG,
    ]


def test_switching_protocols_completes_and_then_raises() -> None:
    recorder = Recorder()

    with pytest.raises(httptools.HttpParserUpgrade):
        recorder.feed(b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
    assert recorder.log[-1] == "end"


def test_a_bare_101_completes_and_is_an_error() -> None:
    recorder = Recorder()

    with pytest.raises(httptools.HttpParserError):
        recorder.feed(b"HTTP/1.1 101 X\r\n\r\n")
    assert recorder.log[-1] == "end"


def test_a_body_without_length_never_completes() -> None:
    log = Recorder().feed(b"HTTP/1.1 200 OK\r\n\r\nabc", b"def")

    assert log == ["begin", ("head", 200, False), ("body", b"abc"), ("body", b"def")]


def test_there_is_no_bound_on_headers_values_and_chunk_extensions() -> None:
    many = b"".join(b"X-%d: y\r\n" % number for number in range(10_000))
    Recorder().feed(b"HTTP/1.1 200 OK\r\n", many, b"X: " + b"v" * 1_000_000, b"\r\n\r\n")

    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    log = Recorder().feed(chunked, b"2;x=" + b"y" * 1_000_000, b"\r\nok\r\n")
    assert log[-1] == ("body", b"ok")


def test_trailers_arrive_as_headers_after_the_body() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    log = Recorder().feed(chunked, b"2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n")

    assert log[-3:] == [("body", b"ok"), (b"X-Trailer", b"1"), "end"]


def test_a_second_response_glued_on_begins_a_message_and_overwrites_the_status() -> None:
    recorder = Recorder()
    log = recorder.feed(OK + b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")

    assert log[: len(OK_LOG)] == OK_LOG
    assert log[len(OK_LOG)] == "begin"
    assert recorder.parser.get_status_code() == 500


def test_stray_line_ends_after_a_response_are_invisible() -> None:
    assert Recorder().feed(OK + b"\r\n\r\n") == OK_LOG


def test_bytes_after_connection_close_are_an_error() -> None:
    recorder = Recorder()
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"

    with pytest.raises(httptools.HttpParserError):
        recorder.feed(closing + b"x")
    assert recorder.log[-1] == "end"


@pytest.mark.parametrize("status", [b"099", b"999"])
def test_three_digits_are_a_status_whatever_they_say(status: bytes) -> None:
    log = Recorder().feed(OK.replace(b"200", status))

    assert ("head", int(status), True) in log


@pytest.mark.parametrize("version", ["0.9", "2.0"])
def test_other_versions_are_accepted(version: str) -> None:
    recorder = Recorder()
    recorder.feed(OK.replace(b"1.1", version.encode()))

    assert recorder.parser.get_http_version() == version


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n",
        b"HTTP/1.1 1000 OK\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_ambiguous_framing_and_loose_syntax_are_errors(response: bytes) -> None:
    with pytest.raises(httptools.HttpParserError):
        Recorder().feed(response)


def test_one_parser_reads_response_after_response_from_borrowed_memory() -> None:
    recorder = Recorder()
    borrowed = bytearray(OK)
    recorder.parser.feed_data(memoryview(borrowed))
    borrowed[:] = b"x" * len(borrowed)

    recorder.parser.feed_data(memoryview(OK))

    assert recorder.log == OK_LOG + OK_LOG
