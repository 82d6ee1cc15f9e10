"""What the dispatcher itself has to tell an account: operational events, and the endpoints they are about."""

import datetime as dt
from enum import StrEnum
from typing import NamedTuple


class NewsKind(StrEnum):
    """The operational event types. Closed: the catalogue's types of that sort."""

    ENDPOINT_FAILING = "endpoint.failing"
    ENDPOINT_DISABLED = "endpoint.disabled"
    DELIVERY_EXHAUSTED = "delivery.exhausted"


class Concerned(NamedTuple):
    """An endpoint as news tell of it. `at` is the moment of the transaction that read it, aware UTC.

    `disabled_reason`, `held_since` and `n_pending` (counted up to a bound) say something while it is disabled.
    """

    endpoint_id: int
    public_id: str
    account_id: int
    account: str
    environment: str
    disabled_reason: str | None
    held_since: dt.datetime | None
    n_pending: int
    at: dt.datetime


class News(NamedTuple):
    """One operational event. Its subject is the endpoint it is about, `body` what endpoints get."""

    kind: NewsKind
    about: Concerned
    event_id: bytes
    body: bytes
