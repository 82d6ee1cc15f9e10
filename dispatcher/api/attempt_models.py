"""The shapes of one attempt shown whole."""

from typing import Literal

from dispatcher.api.models import AttemptShown, Outgoing


class HeaderShown(Outgoing):
    """One header line, in its place among the others. `value` is null when it cannot be told any more."""

    name: str
    value: str | None


class SentShown(Outgoing):
    """The request, rebuilt: what every request says, the endpoint as it is now, and what was recorded of this one.

    Values of the endpoint's own headers are masked. `is_changed`: somebody changed the endpoint since, so that its URL
    and headers may have been others. `is_signed_again`: the signature was made again with the secrets that signed
    then; else `unsigned_because` tells why not. `without_body_because`: `scope` asks for a key with `payloads:read`.
    """

    method: Literal["POST"]
    url: str
    headers: list[HeaderShown]
    body: str | None
    without_body_because: Literal["scope", "past_retention"] | None
    is_signed_again: bool
    unsigned_because: Literal["not_sent", "not_recorded", "secret_gone", "secret_unreadable", "body_gone"] | None
    is_changed: bool


class AnswerShown(Outgoing):
    """What came back: bytes of a stranger, so show them as text and nothing else.

    `body` is its first 16 KiB at most: text, or base64 when it is none; `is_replaced`: bytes that are no UTF-8 became
    U+FFFD. `is_cut`: more followed. Header values are read as Latin-1.
    """

    status_code: int
    headers: list[HeaderShown]
    content_type: str | None
    body: str | None
    body_encoding: Literal["utf-8", "base64"]
    is_replaced: bool
    is_cut: bool
    without_body_because: Literal["scope"] | None


class WholeAttemptShown(AttemptShown):
    """One HTTP request with what was sent and what came back.

    `response` is null without an answer, for an empty 2xx, and past its retention.
    """

    endpoint_id: str
    request: SentShown
    response: AnswerShown | None
