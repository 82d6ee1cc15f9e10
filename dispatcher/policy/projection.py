"""Builds the body that endpoints get: the envelope around what the schema allows of the data.

The allow-list is the schema's own `properties`, at every depth. What it does not name is left out
and counted, even where the schema leaves objects open for receivers, so that a new field of a
producer cannot leak by accident. What it names passes only in its own shape: an object where the
schema has a text is left out too. Compiled once into nested filters; the work per event is a walk
over the data, or none: data that matches `Projection.whole` is what the walk would return.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol, TypeAlias, TypedDict, cast

import orjson

from dispatcher.model.errors import ConfigurationError
from dispatcher.policy.schema_files import EventSchemas, Json, JsonObject

PERSONAL_DATA: Final = "personal_data"
"""The one name below which personal data may stand in a record. Never stored, at whatever depth."""

_TO_SECONDS: Final = orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS
"""Four times faster than the standard library."""

_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_ANY_SCALAR: Final[JsonObject] = {"type": ["string", "number", "boolean", "null"]}


class Projected(NamedTuple):
    """What is left of a record's data, and how much is not.

    `dropped_fields` counts unknown or misshapen fields, each once with all it holds;
    `personal_fields` counts the entries of `personal_data`.
    """

    data: JsonObject
    dropped_fields: int
    personal_fields: int


class Envelope(TypedDict):
    """A body in the order of its fields, in which whoever makes one has to name them.

    `id` is the public event id, `timestamp` is as `show_timestamp` shows it. `data` is sent as it is: project it first.
    """

    id: str
    type: str
    timestamp: str
    api_version: str
    environment: str
    account_id: str
    test: bool
    data: Mapping[str, Json]


class Projection:
    """Keeps of a record's data what the newest version of the bodies may hold.

    Raises ConfigurationError for a schema with an object that allows everything.
    """

    def __init__(self, schemas: EventSchemas) -> None:
        self._filter = _compile(_data_schema(schemas.envelope), schemas.envelope, "/data")
        self.whole: JsonObject = _whole(self._filter)
        """A schema of the data of which `apply` would leave out nothing; asking a validator is cheaper than a walk."""

    def apply(self, data: JsonObject) -> Projected:
        """Return the allowed part of `data`, in its order; `data` itself is not changed."""
        tally = _Tally()
        kept = self._filter.keep(data, tally) if self._filter else data
        return Projected(cast("JsonObject", kept), tally.dropped, tally.personal)


def build_body(envelope: Envelope) -> bytes:
    """Return a body as it is stored, signed and sent: compact UTF-8 JSON, equal for equal input."""
    return orjson.dumps(envelope)


def show_timestamp(at: dt.datetime) -> str:
    """Return an aware instant as `2026-11-03T09:24:55.312Z`; finer fractions are cut."""
    if at.tzinfo is not dt.UTC:
        at = at.astimezone(dt.UTC)
    seconds = orjson.dumps(at, option=_TO_SECONDS)[1:-2].decode("ascii")
    return f"{seconds}.{at.microsecond // 1_000:03}Z"


class _Tally:
    __slots__ = ("dropped", "personal")

    def __init__(self) -> None:
        self.dropped = 0
        self.personal = 0


class _Filter(Protocol):
    """Keeps the allowed part of a value; answers _NOTHING for a value of another shape."""

    def keep(self, value: Json, tally: _Tally) -> Json: ...

    def whole(self) -> JsonObject:
        """Return the schema of the values that are kept as they are."""
        ...


# None stands for a scalar: it needs no walk, so the object above checks it without a call.
_Rule: TypeAlias = _Filter | None


class _Object:
    """Keeps the named fields."""

    __slots__ = ("_rules",)

    def __init__(self, rules: Mapping[str, _Rule]) -> None:
        self._rules = rules

    def keep(self, value: Json, tally: _Tally) -> Json:
        if value.__class__ is not dict:
            return _keep_scalar(value, tally)
        rules = self._rules
        kept: JsonObject = {}
        for name, item in value.items():
            if name not in rules:
                _count_left_out(name, item, tally)
            elif (rule := rules[name]) is not None:
                kept[name] = rule.keep(item, tally)
            elif item.__class__ in _SCALARS:
                kept[name] = item
            else:
                tally.dropped += 1
        return kept

    def whole(self) -> JsonObject:
        fields: JsonObject = {name: _whole(rule) for name, rule in self._rules.items()}
        return {"type": ["object", "null"], "properties": fields, "additionalProperties": False}


class _Map:
    """Keeps every field with a scalar value: an open map, such as the customer's metadata."""

    __slots__ = ()

    def keep(self, value: Json, tally: _Tally) -> Json:
        if value.__class__ is not dict:
            return _keep_scalar(value, tally)
        kept = {name: item for name, item in value.items() if item.__class__ in _SCALARS}
        tally.dropped += len(value) - len(kept)
        return kept

    def whole(self) -> JsonObject:
        return {"type": ["object", "null"], "additionalProperties": _ANY_SCALAR}


class _List:
    """Keeps the items, each by one rule."""

    __slots__ = ("_rule",)

    def __init__(self, rule: _Rule) -> None:
        self._rule = rule

    def keep(self, value: Json, tally: _Tally) -> Json:
        if value.__class__ is not list:
            return _keep_scalar(value, tally)
        rule = self._rule
        if rule is not None:
            return [rule.keep(item, tally) for item in value]
        kept = [item for item in value if item.__class__ in _SCALARS]
        tally.dropped += len(value) - len(kept)
        return kept

    def whole(self) -> JsonObject:
        return {"type": ["array", "null"], "items": _whole(self._rule)}


def _whole(rule: _Rule) -> JsonObject:
    return _ANY_SCALAR if rule is None else rule.whole()


def _keep_scalar(value: Json, tally: _Tally) -> Json:
    """Only null stands in for an object or a list; a value of another shape is left out."""
    if value is not None:
        tally.dropped += 1
    return None


def _count_left_out(name: str, value: Json, tally: _Tally) -> None:
    if name != PERSONAL_DATA:
        tally.dropped += 1
    elif isinstance(value, dict):
        tally.personal += len(value)
    else:
        tally.personal += 1


def _data_schema(envelope: JsonObject) -> JsonObject:
    return cast("JsonObject", cast("JsonObject", envelope["properties"])["data"])


def _compile(schema: JsonObject, root: JsonObject, where: str) -> _Rule:
    schema = _resolve(schema, root)
    if "items" in schema:
        return _List(_compile(cast("JsonObject", schema["items"]), root, f"{where}/*"))
    if "properties" in schema:
        fields = cast("dict[str, JsonObject]", schema["properties"])
        return _Object(
            {name: _compile(field, root, f"{where}/{name}") for name, field in fields.items() if name != PERSONAL_DATA}
        )
    if "additionalProperties" in schema:
        return _Map()
    if not _is_scalar(schema):
        message = f"the schema of {where} allows everything: name its properties"
        raise ConfigurationError([message])
    return None


def _is_scalar(schema: JsonObject) -> bool:
    if "enum" in schema or "const" in schema:
        return True
    types = schema.get("type", "object")
    return not {"object", "array"}.intersection(types if isinstance(types, list) else [types])


def _resolve(schema: JsonObject, root: JsonObject) -> JsonObject:
    """Follow references inside the envelope; of a choice between null and another, take that."""
    while True:
        if "anyOf" in schema:
            choices = cast("list[JsonObject]", schema["anyOf"])
            (schema,) = [choice for choice in choices if choice.get("type") != "null"]
        elif "$ref" in schema:
            schema = _follow(cast("str", schema["$ref"]), root)
        else:
            return schema


def _follow(reference: str, root: JsonObject) -> JsonObject:
    node = root
    for name in reference.removeprefix("#/").split("/"):
        node = cast("JsonObject", node[name])
    return node
