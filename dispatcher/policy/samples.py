"""Turns a published example into a record as a producer would send it, or into the body of a test event."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, cast

import orjson

from dispatcher.policy.projection import show_timestamp
from dispatcher.policy.schema_files import Json, JsonObject

SOURCE: Final = "/dispatcher/trigger"
"""`ce_source` of sample events; never that of a real producer, so their ids cannot meet."""

_TIME_FIELDS: Final = ("created_at", "started_at", "completed_at", "expires_at", "redacted_at")
_OUTCOMES: Final = ("approved", "declined", "inconclusive")
_EDGES: Final = ("non_ascii", "empty_optional", "largest")
_OPTIONAL: Final = ("checks", "metadata")


class SampleRecord(NamedTuple):
    """A record ready to be produced: key, value and CloudEvents headers (binary mode)."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class SampleFrame(NamedTuple):
    """What stands around a test event: whose it is, where, its id, and the endpoint that it is for."""

    account: str
    environment: str
    event_id: str
    endpoint_id: str


def sample_record(
    example: bytes,
    *,
    account: str,
    environment: str,
    token: str,
    now: dt.datetime,
    changes: Mapping[str, Json] | None = None,
) -> SampleRecord:
    """Return a fresh event made from the `example` body of its type.

    `token` (letters and digits, at least 10) makes its ids unique. Its times are moved so that it happened at
    `now` (aware). `changes` sets fields of `data` by dotted path, like `verification.outcome`.

    Raises:
        ValueError: a path leads through something that is not an object, or a value cannot be written as JSON.
    """
    body = cast("JsonObject", orjson.loads(example))
    data = cast("JsonObject", body["data"])
    verification = cast("JsonObject", data["verification"])
    verification["id"] = f"ver_{token}"
    data["links"] = {"self": f"https://api.example.com/v1/verifications/ver_{token}"}
    _move_times(verification, now - _moment(cast("str", body["timestamp"])))
    for path, value in (changes or {}).items():
        _set(data, path.split("."), value)
    subject = str(verification["id"])
    stamp = show_timestamp(now)
    headers = {
        "ce_specversion": "1.0",
        "ce_id": token,
        "ce_source": SOURCE,
        "ce_type": str(body["type"]),
        "ce_time": stamp,
        "ce_subject": subject,
        "ce_accountid": account,
        "ce_environment": environment,
        "content-type": "application/json",
    }
    encoded = tuple((name, value.encode()) for name, value in headers.items())
    try:
        return SampleRecord(subject.encode(), orjson.dumps(data), encoded)
    except orjson.JSONEncodeError as fault:
        # Nested too deeply, or not text: more can be read than written.
        message = f"what is set cannot be written as JSON: {fault}"
        raise ValueError(message) from fault


def sample_body(
    example: bytes, frame: SampleFrame, *, token: str, now: dt.datetime, variant: str | None = None
) -> bytes:
    """Return the body of a test event made from the `example` of its type; it fulfils the type's schema.

    `token` (letters and digits, at least 10) makes its verification unique. Raises ValueError for a variant that
    this type has not; `variants_of` lists those that it has.
    """
    if variant is not None and variant not in variants_of(example):
        message = "this event type has no such variant"
        raise ValueError(message)
    body = cast("JsonObject", orjson.loads(example))
    data = cast("JsonObject", body["data"])
    verification = data.get("verification")
    if isinstance(verification, dict):
        verification["id"] = f"ver_{token}"
        data["links"] = {"self": f"https://api.example.com/v1/verifications/ver_{token}"}
        _move_times(verification, now - _moment(cast("str", body["timestamp"])))
        if variant is not None:
            _vary(data, verification, variant)
    elif "endpoint_id" in data:
        data["endpoint_id"] = frame.endpoint_id
    body |= {"id": frame.event_id, "timestamp": show_timestamp(now), "test": True}
    body |= {"environment": frame.environment, "account_id": frame.account}
    return orjson.dumps(body)


def variants_of(example: bytes) -> tuple[str, ...]:
    """Return the variants that test events of a type have, edge cases last; none for those without a verification."""
    verification = cast("JsonObject", cast("JsonObject", orjson.loads(example))["data"]).get("verification")
    if not isinstance(verification, dict):
        return ()
    is_decision = verification["status"] == "completed" and verification["outcome"] is not None
    return (*(_OUTCOMES if is_decision else ()), *_EDGES)


def _vary(data: JsonObject, verification: JsonObject, variant: str) -> None:
    match variant:
        case "non_ascii":
            verification["client_reference"] = "Zoë Nuñez-Đặng 東京 🙂"
            verification["metadata"] = {"straße": "Ærøskøbing, Łódź"}
        case "empty_optional":
            for name in (*_OPTIONAL, *_TIME_FIELDS[1:]):
                verification.pop(name, None)
            verification |= {"client_reference": None, "workflow_id": None, "reason_codes": []}
            data.pop("previous", None)
            data.pop("links", None)
        case "largest":
            # As much as the schema allows of the customer's own.
            verification["client_reference"] = "r" * 255
            verification["metadata"] = {f"name_{n:02}": "x" * 500 for n in range(50)}
        case outcome:
            verification["outcome"] = outcome
            verification["reason_codes"] = [] if outcome == "approved" else ["document_expired"]


def parse_changes(texts: Sequence[str], outcome: str | None) -> dict[str, Json]:
    """Read `data.path=value` texts; a value is JSON where it parses as such, else a text.

    Raises:
        ValueError: a text without `=`, or an outcome that does not exist.
    """
    changes: dict[str, Json] = {}
    if outcome is not None:
        if outcome not in _OUTCOMES:
            message = f"an outcome is one of {', '.join(_OUTCOMES)}"
            raise ValueError(message)
        changes["verification.outcome"] = outcome
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            message = f"{text!r} does not look like data.verification.revision=8"
            raise ValueError(message)
        try:
            parsed: Json = orjson.loads(value)
        except orjson.JSONDecodeError:
            parsed = value
        changes[path.removeprefix("data.")] = parsed
    return changes


def _move_times(verification: JsonObject, by: dt.timedelta) -> None:
    for name in _TIME_FIELDS:
        value = verification.get(name)
        if isinstance(value, str):
            verification[name] = show_timestamp(_moment(value) + by)


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


def _set(data: JsonObject, path: Sequence[str], value: Json) -> None:
    place = data
    for name in path[:-1]:
        inner = place.setdefault(name, {})
        if not isinstance(inner, dict):
            message = f"{name} in {'.'.join(path)} is not an object"
            raise ValueError(message)  # noqa: TRY004 - the person's text is wrong, not a type
        place = inner
    place[path[-1]] = value
