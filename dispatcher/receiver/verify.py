"""Check the signature of a webhook (Standard Webhooks 1.0.0, symmetric).

The signed content is `id.timestamp.body` over the raw bytes of the body: verify before parsing, never after
parsing and serialising again.
"""

import base64
import hmac
import time
from collections.abc import Mapping
from typing import Final

TOLERANCE_SECONDS: Final = 300
"""How far a request's timestamp may lie from now, both ways: bounds the time in which a capture can be replayed."""

_MOST_SIGNATURES: Final = 10


class InvalidWebhook(Exception):
    """The request must be answered with 400 and otherwise ignored; the message says which rule it breaks."""


def verify(headers: Mapping[str, str], body: bytes, *secrets: str, now: float | None = None) -> str:
    """Return the event's id when one of `secrets` signed exactly this body within the last 5 minutes.

    `headers` are those of the request, in any case; `secrets` look like `whsec_…`, give both while one is being
    rotated. Remember the id: equal ids are the same event, delivered again.

    Raises:
        InvalidWebhook: always, and only, when the request is not to be trusted.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    try:
        event_id, stamp, offered = (lowered[f"webhook-{part}"] for part in ("id", "timestamp", "signature"))
    except KeyError as fault:
        message = f"the header {fault.args[0]} is missing"
        raise InvalidWebhook(message) from fault
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        message = "the header webhook-timestamp is not a whole number of seconds"
        raise InvalidWebhook(message)
    if abs(int(time.time() if now is None else now) - int(stamp)) > TOLERANCE_SECONDS:
        message = "the timestamp is more than 5 minutes away from now: a replay, or a clock that is wrong"
        raise InvalidWebhook(message)
    if not (event_id.isascii() and offered.isascii()):
        # Servers hand on foreign bytes as characters that cannot be encoded; ours are plain ASCII always.
        message = "the headers are not ASCII"
        raise InvalidWebhook(message)
    content = f"{event_id}.{stamp}.".encode() + body
    expected = [_signature(secret, content) for secret in secrets]
    for entry in offered.split(" ")[:_MOST_SIGNATURES]:
        version, _, signature = entry.partition(",")
        if version == "v1" and any(hmac.compare_digest(signature.encode(), good) for good in expected):
            return event_id
    message = "no signature matches: another secret, or a body that is not byte for byte what was sent"
    raise InvalidWebhook(message)


def _signature(secret: str, content: bytes) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError as fault:
        message = "the secret is not base64; copy it whole, from whsec_ on"
        raise ValueError(message) from fault
    if not key:
        # An empty key, say from a variable that is not set, would let anybody sign.
        message = "the secret is empty"
        raise ValueError(message)
    return base64.b64encode(hmac.digest(key, content, "sha256"))
