"""Records that became events, and records that could not."""

import datetime as dt
from enum import StrEnum
from typing import NamedTuple


class Environment(StrEnum):
    """The two worlds of an account; a test event never reaches a live endpoint."""

    LIVE = "live"
    TEST = "test"


class DeadReason(StrEnum):
    """Why a record became a dead event: the closed list of the Kafka contract."""

    NOT_JSON = "not_json"
    NOT_UTF8 = "not_utf8"
    NULL_VALUE = "null_value"
    BAD_HEADERS = "bad_headers"
    BAD_ACCOUNT = "bad_account"
    BAD_TYPE = "bad_type"
    SCHEMA_INVALID = "schema_invalid"
    MISSING_ACCOUNT = "missing_account"
    UNKNOWN_ACCOUNT = "unknown_account"
    MISSING_ENVIRONMENT = "missing_environment"
    TOO_LARGE = "too_large"
    BAD_TIMESTAMP = "bad_timestamp"
    REFUSED_BY_DATABASE = "refused_by_database"


class Record(NamedTuple):
    """One Kafka message as read; `timestamp_ms` is the broker's or producer's, in Unix milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Event(NamedTuple):
    """One decoded fact. `body` is what thin endpoints get, byte for byte, and what is signed.

    `event_id` is the 20 raw bytes and `public_id` their text (see ids), `account` the public account id,
    `occurred_at` aware UTC.
    `client_reference` is the customer's own key of the subject; a redacted one has none.
    `dropped_fields` counts the fields of the record that the allow-list projection left out.
    """

    event_id: bytes
    public_id: str
    account: str
    environment: str
    type: str
    subject: str | None
    client_reference: str | None
    outcome: str | None
    workflow_id: str | None
    occurred_at: dt.datetime
    body: bytes
    dropped_fields: int


class DeadEvent(NamedTuple):
    """A record that cannot become an event, and where in it the fault lies (no values, only names)."""

    reason: DeadReason
    detail: str


class Skipped(NamedTuple):
    """A sound record that is not for us: an event type that the catalogue does not map."""

    reason: str
