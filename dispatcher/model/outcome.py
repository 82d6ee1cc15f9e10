"""What an attempt met, and what we decide about it: two closed lists and the values around them."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple


class OutcomeKind(StrEnum):
    """What one attempt met. Closed: metric label, log field, API value and database CHECK."""

    DELIVERED = "delivered"
    HTTP_3XX = "http_3xx"
    HTTP_4XX = "http_4xx"
    HTTP_410 = "http_410"
    HTTP_429 = "http_429"
    HTTP_5XX = "http_5xx"
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_RESPONSE = "timeout_response"
    DNS_ERROR = "dns_error"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_RESET = "connection_reset"
    TLS_ERROR = "tls_error"
    ADDRESS_FORBIDDEN = "address_forbidden"
    PROTOCOL_ERROR = "protocol_error"
    INTERRUPTED = "interrupted"
    INTERNAL_ERROR = "internal_error"


FREE_OUTCOMES: Final = frozenset({OutcomeKind.INTERRUPTED, OutcomeKind.INTERNAL_ERROR})
"""Outcomes that are our doing: the endpoint is not charged an attempt for them."""


class Phases(NamedTuple):
    """Seconds spent in each phase of an attempt; None where it did not happen (a reused connection).

    `wait` runs from the last byte of our request to the complete response head.
    """

    dns: float | None
    connect: float | None
    tls: float | None
    wait: float | None


NO_PHASES: Final = Phases(None, None, None, None)


class Outcome(NamedTuple):
    """What one attempt met. Never raised: a customer's fault is a value.

    `duration_seconds` is the whole attempt, DNS included. `retry_after` is the raw header value, as it
    came. `reason` says more than the kind in our own words (never the peer's bytes).
    `body` is the response body's first bytes (at most 16 KiB), `body_cut` whether more followed. `headers` are
    those of the response as they came, at most 64 in 16 KiB. `signed_at` is the Unix second that the request bears
    as its timestamp, None when none was written.
    """

    kind: OutcomeKind
    duration_seconds: float
    status: int | None = None
    phases: Phases = NO_PHASES
    retry_after: bytes | None = None
    reason: str = ""
    peer: str | None = None
    reused: bool = False
    body: bytes = b""
    body_cut: bool = False
    headers: Sequence[tuple[bytes, bytes]] = ()
    signed_at: int | None = None


class VerdictKind(StrEnum):
    """What we decide about a delivery after an attempt, or without one."""

    DELIVERED = "delivered"
    RETRY = "retry"
    EXHAUSTED = "exhausted"
    GONE = "gone"
    CANCELED = "canceled"
    INTERRUPTED = "interrupted"
    PARKED = "parked"
    HELD = "held"


class Verdict(NamedTuple):
    """A decision. `retry_in_seconds` counts from the moment of deciding; None when nothing follows.

    `attempts` is the number of counted attempts after this one. `endpoint_pause_seconds` is set when
    the peer asked for silence (429 or 503 with Retry-After), else 0.
    """

    kind: VerdictKind
    attempts: int
    retry_in_seconds: float | None = None
    endpoint_pause_seconds: float = 0.0
