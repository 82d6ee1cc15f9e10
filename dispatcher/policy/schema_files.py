"""Finds the published schemas and reads them, once, when the program is put together.

The files are the law: validation, projection and the catalogue are built from what customers and
producers read. Nothing here is called after start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, TypeAlias, cast

import orjson

from dispatcher.model.errors import ConfigurationError

API_VERSION: Final = "2026-11-01"
"""The newest version of the bodies: what is stored, and what new endpoints get."""

Json: TypeAlias = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
"""A parsed JSON document."""

JsonObject: TypeAlias = dict[str, Json]

EVENT_URN: Final = f"urn:webhooks:event:{API_VERSION}"
RECORD_DATA_URN: Final = "urn:verification-events:data:1"


@dataclass(frozen=True, slots=True)
class EventSchemas:
    """The schemas of one version by `$id`: envelope, every event type, and a record's value."""

    documents: Mapping[str, JsonObject]

    @property
    def envelope(self) -> JsonObject:
        """Return the schema that every body fulfils."""
        return self.documents[EVENT_URN]

    def of_type(self, name: str) -> JsonObject | None:
        """Return the schema of one event type, or None when it has none."""
        return self.documents.get(f"{EVENT_URN}:{name}")


@dataclass(frozen=True, slots=True)
class Publications:
    """What is published about the API and the bodies of webhooks, in the bytes in which it is served.

    `schemas` and `examples` are by event type; each schema is whole in itself, with the envelope in its `$defs`.
    """

    openapi: bytes
    schemas: Mapping[str, bytes]
    examples: Mapping[str, bytes]


def schema_folder() -> Traversable:
    """Return the folder of the schemas: inside an installed package, or beside it in a checkout."""
    packed = resources.files("dispatcher") / "_schemas"
    if packed.is_dir():
        return packed
    checkout = Path(__file__).parents[2] / "schemas"
    if checkout.is_dir():
        return checkout
    raise ConfigurationError([f"no schemas in {packed} or {checkout}: install the package again"])


def load_event_schemas(folder: Traversable) -> EventSchemas:
    """Read every schema of the newest version below `folder`. Reads some twenty small files."""
    files = [
        *(folder / "events" / API_VERSION).iterdir(),
        folder / "kafka" / "data.schema.json",
    ]
    documents = [_read_object(file) for file in files if file.name.endswith(".schema.json")]
    return EventSchemas({str(document["$id"]): document for document in documents})


def load_publications(folder: Traversable) -> Publications:
    """Read the API's document, and the schema and the example of every event type. Reads some forty small files."""
    schemas = load_event_schemas(folder)
    names = [str(entry["name"]) for entry in cast("list[JsonObject]", load_catalogue(folder)["types"])]
    return Publications(
        openapi=load_openapi(folder),
        schemas={name: orjson.dumps(_bundled(schemas, name)) for name in names},
        examples={name: load_example(folder, name) for name in names},
    )


def load_catalogue(folder: Traversable) -> JsonObject:
    """Read the catalogue of event types as it is published."""
    return _read_object(folder / "catalogue.json")


def load_openapi(folder: Traversable) -> bytes:
    """Read the API's document as it is published."""
    return (folder / "openapi.json").read_bytes()


def load_example(folder: Traversable, name: str) -> bytes:
    """Return the example body of one event type in the exact bytes that are sent.

    `name` must be a known event type. Raises FileNotFoundError for any other.
    """
    return (folder / "examples" / "good" / f"{name}.json").read_bytes()


def _bundled(schemas: EventSchemas, name: str) -> JsonObject:
    own = schemas.documents[f"{EVENT_URN}:{name}"]
    defined = cast("JsonObject", own.get("$defs", {}))
    return {**own, "$defs": {**defined, "envelope": schemas.envelope}}


def _read_object(file: Traversable) -> JsonObject:
    return cast("JsonObject", orjson.loads(file.read_bytes()))
