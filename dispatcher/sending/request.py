"""The bytes of a request, from a template that is made once per endpoint.

Only what differs between two attempts is filled in: event, timestamp, signature, type, delivery and
attempt number. The customer's own headers come after ours and can replace none of them.
"""

from functools import lru_cache
from typing import Final

from dispatcher.model.delivery import Delivery
from dispatcher.model.endpoint import Target
from dispatcher.policy.signing import Signer
from dispatcher.policy.urls import DEFAULT_PORTS
from dispatcher.sending.dial import Place

_HEAD: Final = (
    b"POST %b HTTP/1.1\r\n"
    b"host: %b\r\n"
    b"content-type: application/json\r\n"
    b"user-agent: %b\r\n"
    b"accept-encoding: identity\r\n"
    b"x-webhook-environment: %b\r\n"
)
_VARYING: Final = (
    b"webhook-id: %b\r\n"
    b"webhook-timestamp: %b\r\n"
    b"webhook-signature: %b\r\n"
    b"x-webhook-event: %b\r\n"
    b"x-webhook-delivery: %b\r\n"
    b"x-webhook-attempt: %d/%d\r\n"
)
_BODY: Final = b"content-length: %d\r\n\r\n%b"


class Template:
    """One endpoint's request, ready to be filled in. Immutable.

    Raises:
        ValueError: something in the target cannot stand in a header: control characters or non-ASCII.
    """

    __slots__ = ("_format", "_n_attempts", "_signer", "place")

    def __init__(self, target: Target, user_agent: str) -> None:
        self.place = Place(target.authority, target.scheme == "https", target.hostname, target.port)
        self._signer = Signer([key.key for key in target.keys])
        self._n_attempts = len(target.schedule)
        own_lines = [_encode(name) + b": " + _encode(value) + b"\r\n" for name, value in target.headers]
        fixed = _HEAD % (
            _encode(target.path),
            _encode(_host_of(target)),
            _encode(user_agent),
            _encode(target.environment),
        )
        own = b"".join(own_lines).replace(b"%", b"%%")
        self._format = fixed.replace(b"%", b"%%") + _VARYING + own + _BODY

    def fill(self, delivery: Delivery, attempt_no: int, now: int, *, delivery_id: str) -> bytes:
        """Return head and body of one attempt, signed. `now` is Unix seconds of it, `delivery_id` the public one.

        A delivery that is sent again goes on counting: after ten attempts, and with a schedule of four, its next
        one is 11/14.
        """
        message_id, timestamp, body = delivery.public_event_id.encode(), b"%d" % now, delivery.body
        return self._format % (
            message_id,
            timestamp,
            self._signer.sign(message_id, timestamp, body),
            _encode_type(delivery.event_type),
            delivery_id.encode(),
            attempt_no,
            delivery.attempts_before + self._n_attempts,
            len(body),
            body,
        )


def _host_of(target: Target) -> str:
    name = f"[{target.hostname}]" if ":" in target.hostname else target.hostname
    return name if DEFAULT_PORTS[target.scheme] == target.port else f"{name}:{target.port}"


def _encode(text: str) -> bytes:
    """Return the text as bytes of one header line: a line break in it would be a second header."""
    if not (text.isascii() and text.isprintable()):
        message = "a header of the request holds characters that cannot be sent"
        raise ValueError(message)
    return text.encode("ascii")


_encode_type = lru_cache(maxsize=256)(_encode)
