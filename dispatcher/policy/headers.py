"""Which custom headers a customer may add to the requests that we send.

Ours are never theirs: a second `content-length` or `webhook-id` is how requests get smuggled or forged.
Values are secrets (mostly tokens): a fault names the header, never its value.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

MOST_HEADERS: Final = 10
LONGEST_NAME: Final = 64
LONGEST_VALUE: Final = 1024
MOST_BYTES: Final = 8192
"""All custom headers together, as sent: name, colon, space, value, line end."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_FRAMING_BYTES: Final = 4

_RESERVED: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "cookie",
        "date",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
    }
)
_RESERVED_PREFIXES: Final = ("content-", "proxy-", "webhook-", "x-forwarded-", "x-webhook-")


class HeaderFault(NamedTuple):
    """What is wrong with one header, or with all of them together (`name` None)."""

    name: str | None
    code: str
    message: str


def faults_of(headers: Sequence[tuple[str, str]]) -> list[HeaderFault]:
    """Return every fault of a set of custom headers, empty when all may be sent."""
    faults = _faults_of_all(headers)
    seen: set[str] = set()
    for name, value in headers:
        fault = _fault_of_name(name, seen) or _fault_of_value(name, value)
        if fault is not None:
            faults.append(fault)
        seen.add(name.lower())
    return faults


def _faults_of_all(headers: Sequence[tuple[str, str]]) -> list[HeaderFault]:
    faults = []
    if len(headers) > MOST_HEADERS:
        faults.append(HeaderFault(None, "too_many_headers", f"at most {MOST_HEADERS} custom headers"))
    if sum(len(name) + len(value) + _FRAMING_BYTES for name, value in headers) > MOST_BYTES:
        message = f"custom headers may take {MOST_BYTES} bytes together"
        faults.append(HeaderFault(None, "headers_too_large", message))
    return faults


def _fault_of_name(name: str, seen: set[str]) -> HeaderFault | None:
    lowered = name.lower()
    if len(name) > LONGEST_NAME or not _TOKEN.fullmatch(name):
        message = f"a header name is a token of at most {LONGEST_NAME} characters"
        return HeaderFault(name, "header_name_malformed", message)
    if lowered in _RESERVED or lowered.startswith(_RESERVED_PREFIXES):
        return HeaderFault(name, "header_reserved", "this header is set by us or not allowed")
    if lowered in seen:
        return HeaderFault(name, "header_duplicate", "this header is given twice")
    return None


def _fault_of_value(name: str, value: str) -> HeaderFault | None:
    if len(value) <= LONGEST_VALUE and _VALUE.fullmatch(value):
        return None
    message = f"a header value is 1 to {LONGEST_VALUE} visible ASCII characters, spaces only inside"
    return HeaderFault(name, "header_value_malformed", message)
