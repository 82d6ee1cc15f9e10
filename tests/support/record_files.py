"""Reads the record files below schemas/kafka: what was written, and what must become of it."""

import base64
import json
from pathlib import Path
from typing import NamedTuple, TypeAlias

from dispatcher.model.event import Record

SCHEMAS = Path(__file__).parents[2] / "schemas"

Text: TypeAlias = str | dict[str, str | int] | None


class RecordFile(NamedTuple):
    """One file: its record and its `expect` (see schemas/README.md)."""

    name: str
    record: Record
    expect: dict[str, str | int]


def read_record_files(folder: str) -> list[RecordFile]:
    """Return the files of `good`, `bad` or `skipped` in the order of their names."""
    return [_read(path) for path in sorted((SCHEMAS / "kafka" / folder).glob("*.json"))]


def _read(path: Path) -> RecordFile:
    document = json.loads(path.read_text())
    record = Record(
        topic="verification.events.v1",
        partition=0,
        offset=0,
        timestamp_ms=1_793_697_895_312,
        key=_bytes(document["key"]),
        value=_bytes(document["value"]),
        headers=tuple((name, _bytes(value)) for name, value in document["headers"]),
    )
    return RecordFile(path.stem, record, document["expect"])


def _bytes(text: Text) -> bytes | None:
    if text is None or isinstance(text, str):
        return None if text is None else text.encode()
    if "base64" in text:
        return base64.b64decode(str(text["base64"]))
    return str(text["text"]).encode() * int(text["times"])
