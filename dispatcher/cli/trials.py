"""Sample events for `trigger`, checked as the daemon will check them before anything is published."""

import difflib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

import orjson
import typer

from dispatcher.intake.decoding import Decoder
from dispatcher.kit import clock
from dispatcher.model.event import DeadEvent, Event, Record
from dispatcher.model.ids import event_id_of, show_event_id
from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.samples import SOURCE, SampleRecord, parse_changes, sample_record
from dispatcher.policy.schema_files import load_catalogue, load_event_schemas, load_example, schema_folder


class Trial(NamedTuple):
    """One sample event ready to be published, and the id that it will have."""

    event_id: str
    record: SampleRecord


def make_trials(
    event_type: str, texts: Sequence[str], outcome: str | None, *, account: str, environment: str, n: int
) -> list[Trial]:
    """Return `n` sample events of a type, with the fields set that `texts` (`path=value`) name.

    Raises:
        typer.BadParameter: no such type, a text that sets nothing, or an event that the daemon would set aside.
    """
    folder = schema_folder()
    catalogue = Catalogue.from_document(load_catalogue(folder))
    example = _example(folder, catalogue, event_type)
    changes = _changes((), outcome, "--outcome") | _changes(texts, None, "--set")
    try:
        tokens = [secrets.token_hex(8) for _ in range(n)]
        records = [
            sample_record(
                example, account=account, environment=environment, token=token, now=clock.utcnow(), changes=changes
            )
            for token in tokens
        ]
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--set") from fault
    _check(Decoder(load_event_schemas(folder), catalogue), records[0], changes)
    return [
        Trial(show_event_id(event_id_of(SOURCE, token)), record) for token, record in zip(tokens, records, strict=True)
    ]


def _changes(texts: Sequence[str], outcome: str | None, option: str) -> dict[str, Any]:
    try:
        return parse_changes(texts, outcome)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint=option) from fault


def _example(folder: Traversable, catalogue: Catalogue, event_type: str) -> bytes:
    if catalogue.find(event_type) is None:
        near = ", ".join(catalogue.nearest(event_type))
        message = f"{event_type} is no event type; did you mean {near}?" if near else f"{event_type} is no event type"
        raise typer.BadParameter(message, param_hint="TYPE")
    if catalogue.from_producer(event_type) is None:
        message = f"{event_type} is made by the dispatcher itself, never by producers"
        raise typer.BadParameter(message, param_hint="TYPE")
    return load_example(folder, event_type)


def _check(decoder: Decoder, record: SampleRecord, changes: Mapping[str, Any]) -> None:
    """Refuse what the daemon would set aside, and fields that it would drop."""
    decoded = decoder.decode(Record("trial", 0, 0, 0, record.key, record.value, record.headers))
    if isinstance(decoded, DeadEvent):
        message = f"the event would be set aside as {decoded.reason}: {decoded.detail}"
        raise typer.BadParameter(message, param_hint="--set")
    assert isinstance(decoded, Event)
    known = dict(_leaves(orjson.loads(decoded.body)["data"], ""))
    for path, value in changes.items():
        if not _is_kept(path, value, known):
            near = difflib.get_close_matches(path, known, 1)
            hint = f"; did you mean data.{near[0]}?" if near else ""
            message = f"no event has the field data.{path}: it would be dropped{hint}"
            raise typer.BadParameter(message, param_hint="--set")


def _is_kept(path: str, value: object, known: Mapping[str, object]) -> bool:
    if isinstance(value, dict):
        return all(_is_kept(f"{path}.{name}", inner, known) for name, inner in value.items())
    return path in known


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Give every value that is no object with its dotted path."""
    if not isinstance(value, dict):
        yield path, value
        return
    for name, inner in value.items():
        yield from _leaves(inner, f"{path}.{name}" if path else name)
