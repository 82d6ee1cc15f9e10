"""Read a request that somebody saved: whole, as it came over the wire, or as headers and a body of their own."""

import json
import re
from dataclasses import dataclass

_REQUEST_LINE = re.compile(rb"[A-Z]+ \S+( HTTP/[\d.]+)?")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


class NoRequest(Exception):
    """What was saved cannot be read as a request; the message says what is expected."""


@dataclass(frozen=True, slots=True)
class Capture:
    """A saved request. Names of headers are as they were written, and come as often as they came."""

    headers: list[tuple[str, str]]
    body: bytes

    def all_of(self, name: str) -> list[str]:
        """Return the values of a header, whose `name` is lower-case."""
        return [value for other, value in self.headers if other.lower() == name]


def read_request(raw: bytes) -> Capture:
    """Read a request as it came over the wire, with line ends of either kind in its head; chunks are put together.

    Raises:
        NoRequest: there is no head, a blank line and a body.
    """
    end = _HEAD_END.search(raw)
    if end is None:
        message = "a request is its headers, a blank line, and the body; no blank line was found"
        raise NoRequest(message)
    found = Capture(read_headers(raw[: end.start()]), raw[end.end() :])
    if any("chunked" in value.lower() for value in found.all_of("transfer-encoding")):
        return Capture(found.headers, _joined(found.body))
    return found


def read_headers(raw: bytes) -> list[tuple[str, str]]:
    """Read lines of `name: value`, with or without a request line, or one JSON object as frameworks log it.

    Raises:
        NoRequest: a line is neither.
    """
    if raw.lstrip().startswith(b"{"):
        return _headers_of_json(raw)
    headers: list[tuple[str, str]] = []
    for number, line in enumerate(raw.splitlines()):
        if not line.strip() or (number == 0 and _REQUEST_LINE.fullmatch(line)):
            continue
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name.strip():
            message = f"line {number + 1} of the headers is not `name: value`"
            raise NoRequest(message)
        headers.append((name.strip(), value.strip()))
    return headers


def _headers_of_json(raw: bytes) -> list[tuple[str, str]]:
    try:
        parsed = json.loads(raw)
    except ValueError as fault:
        message = f"the headers begin like JSON, but are none: {fault}"
        raise NoRequest(message) from fault
    return [
        (name, str(one)) for name, value in parsed.items() for one in (value if isinstance(value, list) else [value])
    ]


def _joined(chunked: bytes) -> bytes:
    """Put chunks together; what is not chunked, since a tool did it already, stays as it is."""
    pieces: list[bytes] = []
    rest = chunked
    while True:
        size, line_end, rest = rest.partition(b"\r\n")
        if not line_end or re.fullmatch(rb"[0-9A-Fa-f]{1,8}(;.*)?", size) is None:
            return chunked
        length = int(size.partition(b";")[0], 16)
        if length == 0:
            return b"".join(pieces)
        if rest[length : length + 2] != b"\r\n":
            return chunked
        pieces.append(rest[:length])
        rest = rest[length + 2 :]
