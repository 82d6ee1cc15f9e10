"""What a record says about itself: CloudEvents attributes, from headers or from a structured event.

Each check refuses the record with the reason that its dead event gets; details name attributes,
never their values. Attributes are `{name: value}` without the `ce_` of the headers; only those that
came from a structured event can be other than texts.
"""

import datetime as dt
import re
from collections.abc import Mapping
from typing import Final, NoReturn, TypeAlias

from dispatcher.model.event import DeadReason, Environment
from dispatcher.model.ids import ACCOUNT_ID
from dispatcher.policy.instants import read_instant, read_shown
from dispatcher.policy.projection import show_timestamp
from dispatcher.policy.schema_files import RECORD_DATA_URN, Json

Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]
Attributes: TypeAlias = Mapping[str, Json]

CONTENT_TYPE: Final = "datacontenttype"
"""The attribute whose header has a name of its own: `content-type`."""

_SPECVERSION: Final = "1.0"
_ENVIRONMENTS: Final = frozenset(environment.value for environment in Environment)
_LONGEST_IDENTITY: Final = 256
# What decides what an event is and whose: no two places may tell different stories.
_DECISIVE: Final = ("specversion", "id", "source", "type", "subject", "accountid", "environment")
# Spelled out, because lowering and cutting every header's name costs more than looking it up.
_ATTRIBUTE_OF: Final = {
    "content-type": CONTENT_TYPE,
    "ce_accountid": "accountid",
    "ce_dataschema": "dataschema",
    "ce_environment": "environment",
    "ce_id": "id",
    "ce_partitionkey": "partitionkey",
    "ce_revision": "revision",
    "ce_source": "source",
    "ce_specversion": "specversion",
    "ce_subject": "subject",
    "ce_time": "time",
    "ce_traceparent": "traceparent",
    "ce_type": "type",
}
_NAMES_BYTES: Final = len("".join(_ATTRIBUTE_OF))
_LONGEST_CHARACTER: Final = 4
# Producers may use names of their own (reverse host names, versions): wider than our own rule.
_PRODUCER_TYPE: Final = re.compile(r"(?=.{1,256}\Z)[A-Za-z0-9_]+([.:/-][A-Za-z0-9_]+)*")
_OUR_SCHEMAS: Final = RECORD_DATA_URN.rpartition(":")[0] + ":"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Refused(Exception):
    """The record is no event; caught by the decoder and nobody else."""

    def __init__(self, reason: DeadReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def refuse(reason: DeadReason, detail: str) -> NoReturn:
    """End the decoding of this record. `detail` may name fields, never show values."""
    raise Refused(reason, detail)


def read_headers(headers: Headers, n_bytes_allowed: int, n_allowed: int) -> dict[str, str]:
    """Return the attributes that stand in headers, ignoring the headers of others.

    Refused: too many or too large headers, an attribute written twice (in any letter case), null,
    or not UTF-8.
    """
    try:
        # Nearly all records have nothing but our own headers, each once, and small: no closer look is needed.
        attributes = {_ATTRIBUTE_OF[name]: raw.decode() for name, raw in headers}  # type: ignore[union-attr] # see below
    except (KeyError, AttributeError, UnicodeDecodeError):
        # A header of others or in other letters, null, not UTF-8.
        return _read_one_by_one(headers, n_bytes_allowed, n_allowed)
    most_bytes = _LONGEST_CHARACTER * len("".join(attributes.values())) + _NAMES_BYTES
    if len(attributes) == len(headers) <= n_allowed and most_bytes <= n_bytes_allowed:
        return attributes
    return _read_one_by_one(headers, n_bytes_allowed, n_allowed)


def _read_one_by_one(headers: Headers, n_bytes_allowed: int, n_allowed: int) -> dict[str, str]:
    if len(headers) > n_allowed:
        refuse(DeadReason.BAD_HEADERS, f"{len(headers)} headers")
    attributes: dict[str, str] = {}
    n_bytes = 0
    for name, raw in headers:
        n_bytes += len(name) + (0 if raw is None else len(raw))
        attribute = _ATTRIBUTE_OF.get(name) or _attribute_of(name)
        if attribute is None:
            continue
        if attribute in attributes:
            refuse(DeadReason.BAD_HEADERS, f"{shown(attribute)} is there twice")
        if raw is None:
            refuse(DeadReason.BAD_HEADERS, f"{shown(attribute)} is null")
        try:
            attributes[attribute] = raw.decode()
        except UnicodeDecodeError:
            refuse(DeadReason.BAD_HEADERS, f"{shown(attribute)} is not UTF-8")
    if n_bytes > n_bytes_allowed:
        refuse(DeadReason.BAD_HEADERS, f"{n_bytes} bytes of headers")
    return attributes


def _attribute_of(name: str) -> str | None:
    """Name the attribute of an unusual header; letter case makes no second tenant."""
    lowered = name.lower()
    return lowered[3:] if lowered.startswith("ce_") else _ATTRIBUTE_OF.get(lowered)


def check_agreement(headers: Attributes, event: Attributes) -> None:
    """Refuse a structured event whose headers say something else about what it is or whose."""
    for name in _DECISIVE:
        if name in headers and name in event and headers[name] != event[name]:
            refuse(DeadReason.BAD_HEADERS, f"{name} differs in headers and value")


def check_specversion(attributes: Attributes) -> None:
    """Refuse what is no CloudEvent, or one of another version."""
    version = attributes.get("specversion")
    if version is None:
        refuse(DeadReason.BAD_HEADERS, "specversion is missing: not a CloudEvent")
    if version != _SPECVERSION:
        refuse(DeadReason.BAD_HEADERS, "specversion is not 1.0")


def check_data_schema(attributes: Attributes) -> None:
    """Refuse another version of our own schema; other people's schemas say nothing to us."""
    named = attributes.get("dataschema")
    if isinstance(named, str) and named.startswith(_OUR_SCHEMAS) and named != RECORD_DATA_URN:
        refuse(DeadReason.SCHEMA_INVALID, "dataschema is a version that is not known here")


def type_of(attributes: Attributes) -> str:
    """Return the producer's name of the type: 1 to 256 characters, well-formed."""
    name = attributes.get("type")
    if name is None:
        refuse(DeadReason.BAD_HEADERS, "type is missing")
    if not isinstance(name, str) or not _PRODUCER_TYPE.fullmatch(name):
        refuse(DeadReason.BAD_TYPE, "type is malformed")
    return name


def identity_of(attributes: Attributes, name: str) -> str:
    """Return half of the identity, `source` or `id`: 1 to 256 characters, none a control."""
    value = attributes.get(name)
    if not isinstance(value, str) or not value:
        refuse(DeadReason.BAD_HEADERS, f"{name} is missing")
    if len(value) > _LONGEST_IDENTITY:
        refuse(DeadReason.BAD_HEADERS, f"{name} has {len(value)} characters")
    # Source and id are joined by a newline: one inside either would make two identities equal.
    if not value.isprintable() and _CONTROL.search(value):
        refuse(DeadReason.BAD_HEADERS, f"{name} holds control characters")
    return value


def account_of(attributes: Attributes) -> str:
    """Return the public account id; the tenant is never guessed."""
    account = attributes.get("accountid")
    if account is None or account == "":
        refuse(DeadReason.MISSING_ACCOUNT, "accountid is missing")
    if not isinstance(account, str) or not ACCOUNT_ID.fullmatch(account):
        refuse(DeadReason.BAD_ACCOUNT, "accountid is malformed")
    return account


def environment_of(attributes: Attributes) -> str:
    """Return `live` or `test`; nothing is live by default."""
    environment = attributes.get("environment")
    if environment is None or environment == "":
        refuse(DeadReason.MISSING_ENVIRONMENT, "environment is missing")
    if not isinstance(environment, str) or environment not in _ENVIRONMENTS:
        refuse(DeadReason.BAD_HEADERS, "environment is neither live nor test")
    return environment


def instant_of(attributes: Attributes) -> tuple[dt.datetime, str]:
    """Return when it happened, aware UTC, and that as a body shows it.

    Read is any RFC 3339 fraction and offset, and a space for the T, as some write it.
    """
    text = attributes.get("time")
    if text is None or text == "":
        refuse(DeadReason.BAD_HEADERS, "time is missing")
    if isinstance(text, str):
        if (instant := read_shown(text)) is not None:
            return instant, text
        if (instant := read_instant(text.replace(" ", "T", 1))) is not None:
            return instant, show_timestamp(instant)
    refuse(DeadReason.BAD_TIMESTAMP, "time is no RFC 3339 instant of the years 1 to 9999")


def shown(name: str | int) -> str:
    """Return a peer's name for a detail; one that could be a value (a sentence) is hidden."""
    text = str(name)
    return text if _PLAIN_NAME.fullmatch(text) else "*"
