"""Check the signature of a webhook (Standard Webhooks 1.0.0, symmetric).

The signed content is `id.timestamp.body` over the raw bytes of the body: verify before parsing, never after
parsing and serialising again.
"""

import base64
import hmac
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NoReturn, Protocol

TOLERANCE_SECONDS: Final = 300
"""How far a request's timestamp may lie from now, both ways: bounds the time in which a capture can be replayed."""

_SHORTEST_KEY_BYTES: Final = 24

SIGNED_HEADERS: Final = ("webhook-id", "webhook-timestamp", "webhook-signature")

# A full stop separates the signed parts; a comma is what proxies join two header lines with.
_ID: Final = re.compile(r"[!-+/-~-]{1,256}")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
_SIGNATURES: Final = re.compile(r"[^ ,]+,[^ ,]+(?: [^ ,]+,[^ ,]+){0,9}")

_SHAPES: Final = {
    "webhook-id": "no id: it is empty, too long, not ASCII, or holds a blank, a comma or a full stop",
    "webhook-timestamp": "not a whole number of seconds",
    "webhook-signature": "no list of `version,base64` with single blanks between: two lines that were folded, perhaps",
}


class Pairs(Protocol):
    """Headers as every framework has them; a name may come twice."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Return names and values."""


Headers = Mapping[str, str] | Pairs | Iterable[tuple[str, str]]


class Reason(StrEnum):
    """Why a request is not to be trusted; closed, for metrics and logs."""

    HEADER_MISSING = "header_missing"
    HEADER_REPEATED = "header_repeated"
    HEADER_MALFORMED = "header_malformed"
    TIMESTAMP_TOO_OLD = "timestamp_too_old"
    TIMESTAMP_TOO_NEW = "timestamp_too_new"
    BODY_NOT_UTF8 = "body_not_utf8"
    NO_KNOWN_SIGNATURE = "no_known_signature"
    SIGNATURE_MISMATCH = "signature_mismatch"


class InvalidWebhook(Exception):
    """The request must be answered with 400 and otherwise ignored; the message says which rule it breaks."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Webhook:
    """A request that is ours. Remember the id: equal ids are the same event, delivered again.

    `signed_at` is in Unix seconds, of this attempt and not of the event.
    """

    id: str
    signed_at: int
    body: bytes

    def event(self) -> dict[str, Any]:
        """Parse the body."""
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


def verify(
    headers: Headers,
    body: bytes | str,
    secrets: str | Sequence[str],
    *,
    now: float | None = None,
    tolerance: float = TOLERANCE_SECONDS,
) -> Webhook:
    """Return the webhook when one of `secrets` signed exactly this body at most `tolerance` seconds from now.

    `headers` are those of the request, in any case; `secrets` look like `whsec_…`, give both while one is being
    rotated. A text as body stands for its UTF-8.

    Raises:
        InvalidWebhook: always, and only, when the request is not to be trusted.
        ValueError: a secret is none, or there is none: the receiver's own fault, to be answered with 500.
    """
    keys = secret_keys([secrets] if isinstance(secrets, str) else secrets)
    event_id, stamp, offered = signed_headers(headers)
    _check_age(int(time.time() if now is None else now) - int(stamp), tolerance)
    raw = _bytes_of(body)
    candidates = known_signatures(offered)
    if not candidates:
        _refuse(Reason.NO_KNOWN_SIGNATURE, "the header webhook-signature holds no v1 entry, the only kind known here")
    expected = [sign(key, event_id, stamp, raw) for key in keys]
    # All of them, so that the time taken does not tell which one it was.
    matches = [hmac.compare_digest(one, good) for one in candidates for good in expected]
    if not any(matches):
        _refuse(
            Reason.SIGNATURE_MISMATCH,
            "no signature matches: another secret, or a body that is not byte for byte what was sent",
        )
    return Webhook(event_id, int(stamp), raw)


def secret_keys(secrets: Iterable[str]) -> list[bytes]:
    """Return the raw keys, at least one. Raises ValueError when there is none, or one is none."""
    keys = [secret_key(secret) for secret in secrets]
    if not keys:
        message = "there is no secret to verify with"
        raise ValueError(message)
    return keys


def secret_key(secret: str) -> bytes:
    """Return the raw key of a secret; blanks around it, as files leave them, and a missing `whsec_` do not matter.

    Raises:
        ValueError: it is not one; the message says why and never shows it.
    """
    text = secret.strip().removeprefix("whsec_")
    if not text:
        # An empty key, say from a variable that is not set, would let anybody sign.
        message = "the secret is empty"
        raise ValueError(message)
    if "-" in text or "_" in text:
        message = "the secret is in the URL-safe alphabet: write + for - and / for _, or copy it again as it was shown"
        raise ValueError(message)
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError as fault:
        message = "the secret is not base64; copy it whole, from whsec_ on"
        raise ValueError(message) from fault
    if len(key) < _SHORTEST_KEY_BYTES:
        # What is left of one that was cut can be guessed.
        message = f"the secret is of {len(key)} bytes, and none is shorter than 24: copy it whole, from whsec_ on"
        raise ValueError(message)
    return key


def sign(key: bytes, event_id: str, stamp: str, body: bytes) -> bytes:
    """Return the base64 of a `v1` signature, without its `v1,`."""
    return base64.b64encode(hmac.digest(key, f"{event_id}.{stamp}.".encode() + body, "sha256"))


def pairs_of(headers: Headers) -> list[tuple[str, str]]:
    """Return lower-case names and values, in order; a name that came twice is there twice."""
    items = headers.items() if hasattr(headers, "items") else headers
    return [(name.lower(), value) for name, value in items]


def signed_headers(headers: Headers) -> tuple[str, str, str]:
    """Return id, timestamp and signatures as they came, each once and well-formed, or raise InvalidWebhook."""
    pairs = pairs_of(headers)
    found = []
    for name, shape in zip(SIGNED_HEADERS, (_ID, _TIMESTAMP, _SIGNATURES), strict=True):
        values = [value for other, value in pairs if other == name]
        if not values:
            _refuse(Reason.HEADER_MISSING, f"the header {name} is missing")
        if len(values) > 1:
            _refuse(Reason.HEADER_REPEATED, f"the header {name} came {len(values)} times; it is sent once")
        # Servers hand on foreign bytes as characters that cannot be encoded; ours are plain ASCII always.
        if not values[0].isascii() or shape.fullmatch(values[0]) is None:
            _refuse(Reason.HEADER_MALFORMED, f"the header {name} is {_SHAPES[name]}")
        found.append(values[0])
    return found[0], found[1], found[2]


def known_signatures(offered: str) -> list[bytes]:
    """Return the signatures of version `v1`; others, like `v1a`, are skipped."""
    entries = [entry.partition(",") for entry in offered.split(" ")]
    return [signature.encode() for version, _, signature in entries if version == "v1"]


def _check_age(age: int, tolerance: float) -> None:
    if age > tolerance:
        _refuse(
            Reason.TIMESTAMP_TOO_OLD,
            f"the timestamp is {age} s in the past, more than {tolerance:g}: a replay, or a clock that is wrong",
        )
    if -age > tolerance:
        _refuse(
            Reason.TIMESTAMP_TOO_NEW,
            f"the timestamp is {-age} s in the future, more than {tolerance:g}: a clock that is wrong",
        )


def _bytes_of(body: bytes | str) -> bytes:
    if not isinstance(body, str):
        return bytes(body)
    try:
        return body.encode()
    except UnicodeEncodeError:
        _refuse(Reason.BODY_NOT_UTF8, "the body holds characters that UTF-8 has not: hand over the bytes as they came")


def _refuse(reason: Reason, message: str) -> NoReturn:
    # Nothing of the request's own may hang on to the traceback: it goes to logs.
    raise InvalidWebhook(reason, message) from None
