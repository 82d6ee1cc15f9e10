"""Turns one Kafka record into an event, a dead event or a skipped one; no record can make it fail.

    record -> attributes -> type known? -> identity, tenant, time -> schema -> projection -> event

Attributes come first: a type that is not for us costs no parsing, and the tenant is settled before
a byte of the value is believed. Each attribute is taken from one place. A header written twice
makes the record dead, and so do headers that contradict a structured event.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn, cast

import jsonschema_rs
import orjson

from dispatcher.intake import attributes as cloudevent
from dispatcher.intake.attributes import CONTENT_TYPE, Attributes, Headers, Refused, refuse, shown
from dispatcher.model.event import DeadEvent, DeadReason, Event, Record, Skipped
from dispatcher.model.ids import event_id_of, show_event_id
from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.projection import Envelope, Projection, build_body
from dispatcher.policy.schema_files import (
    API_VERSION,
    EVENT_URN,
    RECORD_DATA_URN,
    EventSchemas,
    Json,
    JsonObject,
)

UNKNOWN_TYPE: Final = "unknown_type"
"""The reason of a skipped record."""

_JSON: Final = "application/json"
_STRUCTURED: Final = frozenset({"application/cloudevents", "application/cloudevents+json"})
_BATCH: Final = "application/cloudevents-batch"
_GUID_HEADER: Final = "__value_schema_id"
_BACKSLASH: Final = ord("\\")
_FRAME_BYTES: Final = 5
_LONGEST_DETAIL: Final = 300


@dataclass(frozen=True, slots=True)
class PlainMapping:
    """Where a plain JSON record without CloudEvents attributes holds what an event needs.

    Each field but `source` is a dotted path into the value; `source` is the same for every record.
    What `data` leads to must fulfil the schema of a record's value.
    """

    source: str
    id: str
    type: str
    time: str
    account: str
    environment: str
    data: str


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """What a record may measure: its value, its headers together, the levels of its JSON."""

    value_bytes: int = 262_144
    header_bytes: int = 16_384
    headers: int = 128
    levels: int = 32


class _Message(NamedTuple):
    """A record taken apart. `data` is parsed already where the attributes stood in the value."""

    attributes: Attributes
    payload: bytes
    data: Json
    is_parsed: bool


class Decoder:
    """Decodes records one by one; made once, keeps nothing between records, does no I/O.

    `plain` lets plain JSON in; without it such a record is dead.
    """

    def __init__(
        self,
        schemas: EventSchemas,
        catalogue: Catalogue,
        *,
        limits: DecodingLimits | None = None,
        plain: PlainMapping | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._limits = limits or DecodingLimits()
        self._plain = plain
        self._projection = Projection(schemas)
        self._validators = _compile_validators(schemas, catalogue)
        # Nearly all records hold nothing but what we know: one look says that they are valid and stay whole.
        self._whole = _compile_validators(schemas, catalogue, self._projection.whole)

    def decode(self, record: Record) -> Event | DeadEvent | Skipped:
        """Return what the record is. Never raises; equal records get equal answers."""
        try:
            return self._decode(record)
        except Refused as refused:
            return DeadEvent(refused.reason, refused.detail[:_LONGEST_DETAIL])
        except Exception as fault:  # noqa: BLE001 -- one record must not stop its partition
            return DeadEvent(DeadReason.SCHEMA_INVALID, f"decoder fault: {type(fault).__name__}")

    def _decode(self, record: Record) -> Event | Skipped:
        value = record.value
        if value is None:
            refuse(DeadReason.NULL_VALUE, "the record has no value")
        if len(value) > self._limits.value_bytes:
            refuse(DeadReason.TOO_LARGE, f"the value has {len(value)} bytes")
        message = self._open(_unframe(value, record.headers), record.headers)

        event_type = self._event_type(message.attributes)
        if event_type is None:
            return Skipped(UNKNOWN_TYPE)
        return self._event(event_type, message)

    def _open(self, payload: bytes, headers: Headers) -> _Message:
        limits = self._limits
        attributes = cloudevent.read_headers(headers, limits.header_bytes, limits.headers)
        content_type = attributes.get(CONTENT_TYPE, _JSON)
        if content_type != _JSON and _is_structured(content_type):
            return self._open_structured(payload, attributes)
        if self._plain is not None and attributes.keys() <= {CONTENT_TYPE}:
            return self._open_plain(payload, self._plain)
        cloudevent.check_specversion(attributes)
        return _Message(attributes, payload, None, is_parsed=False)

    def _open_structured(self, payload: bytes, headers: Attributes) -> _Message:
        event = self._parse(payload)
        if not isinstance(event, dict):
            refuse(DeadReason.SCHEMA_INVALID, "the structured event is not an object")
        self._check_levels(payload, event)
        # What we would write to the very same bytes repeats no name; all else is looked at closely.
        if orjson.dumps(event) != payload:
            _check_no_name_twice(payload)
        cloudevent.check_agreement(headers, event)
        cloudevent.check_specversion(event)
        return _Message(event, payload, event.get("data"), is_parsed=True)

    def _open_plain(self, payload: bytes, mapping: PlainMapping) -> _Message:
        document = self._parse(payload)
        self._check_levels(payload, document)
        data = _at_path(document, mapping.data)
        attributes: JsonObject = {
            "source": mapping.source,
            "id": _at_path(document, mapping.id),
            "type": _at_path(document, mapping.type),
            "time": _at_path(document, mapping.time),
            "subject": _at_path(data, "verification.id"),
            "accountid": _at_path(document, mapping.account),
            "environment": _at_path(document, mapping.environment),
        }
        return _Message(attributes, payload, data, is_parsed=True)

    def _event_type(self, attributes: Attributes) -> str | None:
        """Return our name of the type, or None for a sound one that is not for us."""
        name = attributes.get("type")
        if isinstance(name, str) and (ours := self._catalogue.from_producer(name)) is not None:
            return ours
        if self._catalogue.is_known(cloudevent.type_of(attributes)):
            refuse(DeadReason.BAD_TYPE, "type is one that only the dispatcher makes")
        return None

    def _event(self, event_type: str, message: _Message) -> Event:
        attributes = message.attributes
        source = cloudevent.identity_of(attributes, "source")
        event_id = event_id_of(source, cloudevent.identity_of(attributes, "id"))
        public_id = show_event_id(event_id)
        account = cloudevent.account_of(attributes)
        environment = cloudevent.environment_of(attributes)
        occurred_at, timestamp = cloudevent.instant_of(attributes)
        cloudevent.check_data_schema(attributes)

        data, dropped_fields = self._project(event_type, message)
        envelope: Envelope = {
            "id": public_id,
            "type": event_type,
            "timestamp": timestamp,
            "api_version": API_VERSION,
            "environment": environment,
            "account_id": account,
            "test": False,
            "data": data,
        }
        body = build_body(envelope)
        # Hardly any body holds a backslash, and a single byte is found much faster than six, most of all as a number.
        if _BACKSLASH in body and b"\\u0000" in body and _holds_nul(data):
            refuse(DeadReason.SCHEMA_INVALID, "a text holds U+0000")
        verification: Any = data["verification"]
        # By position: with its names it takes twice the time.
        return Event(
            event_id,
            public_id,
            account,
            environment,
            event_type,
            verification["id"],
            verification["client_reference"],
            verification["outcome"],
            verification["workflow_id"],
            occurred_at,
            body,
            dropped_fields,
        )

    def _project(self, event_type: str, message: _Message) -> tuple[JsonObject, int]:
        """Return the allowed part of data that is valid and about the subject, and how many fields are not allowed."""
        attributes, payload, data, is_parsed = message
        subject = attributes.get("subject")
        if not subject:
            refuse(DeadReason.BAD_HEADERS, "subject is missing")
        if not is_parsed:
            data = self._parse(payload)
        whole: Any = data
        n_dropped = 0
        if not self._whole[event_type].is_valid(data):
            # Behind the look, not before it: what is whole is no deeper than the schema, and that ends at any name or
            # shape that it does not know.
            self._check_levels(payload, data)
            validator = self._validators[event_type]
            if not validator.is_valid(data):
                _refuse_invalid(validator, data)
            whole, n_dropped, _ = self._projection.apply(cast("JsonObject", data))
        if subject != whole["verification"]["id"]:
            refuse(DeadReason.BAD_HEADERS, "subject is not the id of the verification")
        return whole, n_dropped

    @staticmethod
    def _parse(payload: bytes) -> Json:
        try:
            parsed: Json = orjson.loads(payload)
        except orjson.JSONDecodeError as fault:
            _refuse_unparsed(payload, fault)
        return parsed

    def _check_levels(self, payload: bytes, document: Json) -> None:
        # Few brackets cannot nest deep: only suspects are walked.
        n_openings = payload.count(b"{") + payload.count(b"[")
        if n_openings > self._limits.levels and _is_deeper(document, self._limits.levels):
            refuse(DeadReason.SCHEMA_INVALID, f"more than {self._limits.levels} levels")


def _compile_validators(
    schemas: EventSchemas, catalogue: Catalogue, *more: JsonObject
) -> Mapping[str, jsonschema_rs.Draft202012Validator]:
    registry = jsonschema_rs.Registry(list(schemas.documents.items()))
    names = [kind.name for kind in catalogue.types if catalogue.from_producer(kind.name)]
    return {
        name: jsonschema_rs.Draft202012Validator(
            {
                "allOf": [
                    {"$ref": RECORD_DATA_URN},
                    {"$ref": f"{EVENT_URN}:{name}#/$defs/data"},
                    *more,
                ]
            },
            validate_formats=True,
            registry=registry,
            # Linear in the text, whatever the text.
            pattern_options=jsonschema_rs.RegexOptions(),
            offline=True,
        )
        for name in names
    }


def _is_structured(content_type: str) -> bool:
    """Tell whether a value is a whole event, and not data alone; what is neither is refused."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _STRUCTURED:
        return True
    if media_type.startswith(_BATCH):
        refuse(DeadReason.BAD_HEADERS, "content-type is a batch, and one record is one event")
    if media_type != _JSON and not media_type.endswith("+json"):
        refuse(DeadReason.BAD_HEADERS, "content-type is not JSON")
    return False


def _unframe(value: bytes, headers: Headers) -> bytes:
    """Take off the registry's frame, byte 00 and a schema number; no JSON begins with byte 00."""
    if not value.startswith(b"\x00"):
        return value
    if any(name == _GUID_HEADER for name, _ in headers):
        return value
    return value[_FRAME_BYTES:]


def _check_no_name_twice(payload: bytes) -> None:
    pairs = cast("list[tuple[str, object]]", json.loads(payload, object_pairs_hook=list))
    if len({name for name, _ in pairs}) != len(pairs):
        refuse(DeadReason.BAD_HEADERS, "an attribute is there twice")


def _refuse_invalid(validator: jsonschema_rs.Draft202012Validator, data: Json) -> NoReturn:
    fault = next(validator.iter_errors(data))
    pointer = "".join(f"/{shown(name)}" for name in fault.instance_path)
    refuse(DeadReason.SCHEMA_INVALID, f"{pointer or '/'}: {fault.kind.name}")


def _refuse_unparsed(payload: bytes, fault: orjson.JSONDecodeError) -> NoReturn:
    try:
        payload.decode()
    except UnicodeDecodeError as broken:
        refuse(DeadReason.NOT_UTF8, f"byte {broken.start}")
    if "surrogate" in fault.msg:
        refuse(DeadReason.SCHEMA_INVALID, f"half a surrogate pair at character {fault.pos}")
    if "depth" in fault.msg:
        refuse(DeadReason.SCHEMA_INVALID, f"nested too deep at character {fault.pos}")
    refuse(DeadReason.NOT_JSON, f"at character {fault.pos}: {fault.msg}")


def _is_deeper(document: Json, levels: int) -> bool:
    layer = [document] if isinstance(document, dict | list) else []
    for _ in range(levels):
        layer = [
            child
            for node in layer
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not layer:
            return False
    return bool(layer)


def _holds_nul(value: Json) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any("\x00" in name or _holds_nul(item) for name, item in value.items())
    return isinstance(value, list) and any(_holds_nul(item) for item in value)


def _at_path(document: Json, path: str) -> Json:
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document
