"""How commands print: a table for people, JSON for programs.

JSON holds every field as the API or the ledger gave it, with ISO times. Tables hold some columns, times relative to
now, and fit the terminal; piped ones keep every value whole. Nothing that came from outside reaches the terminal with
control characters in it.
"""

import datetime as dt
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any, Final

import orjson
import typer

from dispatcher.cli.table import draw, paint, plain, width_of
from dispatcher.cli.times import relative
from dispatcher.kit import clock
from dispatcher.policy.projection import show_timestamp


class Form(StrEnum):
    """The three forms of output. `json` is one document, `jsonl` one object per line."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


FormOption = Annotated[Form, typer.Option("-o", "--output", help="How to print.")]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000_000, help="How many at most.")]
AllOption = Annotated[bool, typer.Option("--all", help="All of them, however many.")]

_TIMES: Final = ("_at", "timestamp")


def show_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], form: Form) -> None:
    """Print a list. Tables show `columns` only, the most important first; JSON forms print every field as it is.

    A column's name that ends with `…` may be cut where the terminal is narrow. JSON lines are printed as rows come.
    """
    if form is Form.TABLE:
        _table(list(rows), columns)
    elif form is Form.JSON:
        _write(list(rows), indent=True)
    else:
        for row in rows:
            _write(row, indent=False)


def show_page(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], form: Form, limit: int | None) -> None:
    """Print up to `limit` rows, all for None, and tell people when there are more. `rows` gives one more if it can."""
    if limit is None:
        show_rows(rows, columns, form)
        return
    given = iter(rows)
    show_rows(islice(given, limit), columns, form)
    if form is Form.TABLE and next(given, None) is not None:
        shown = "the first is" if limit == 1 else f"the first {limit} are"
        say(f"{shown} shown; --limit or --all shows more")


def show_one(row: Mapping[str, Any], form: Form) -> None:
    """Print one object: as `name  value` lines, members of members as `name.name  value`, or as JSON."""
    if form is not Form.TABLE:
        _write(row, indent=form is Form.JSON)
        return
    now = clock.utcnow()
    lines = [(plain(name), value) for name, value in _flat(row)]
    width = max((width_of(name) for name, _ in lines), default=0)
    for name, value in lines:
        shown = cell(value)
        instant = _instant(value) if is_time(name) else None
        if instant is not None:
            shown = f"{shown} ({relative(instant, now)})"
        typer.echo(f"{name}{' ' * (width - width_of(name))}  {paint(plain(shown))}")


def write_line(row: Mapping[str, Any]) -> None:
    """Print one object on a line of its own.

    So in both JSON forms of what goes on: a stream has no end at which a document could close.
    """
    _write(row, indent=False)


def say(text: str) -> None:
    """Tell a person something beside the output: on standard error."""
    typer.echo(text, err=True)


def show_done(done: Mapping[str, Any], words: str, form: Form) -> None:
    """Tell that something was done: in `words` beside the output, or as JSON."""
    if form is Form.TABLE:
        say(words)
    else:
        show_one(done, form)


def is_time(name: str) -> bool:
    """Tell whether a field of that name holds an instant."""
    return name.endswith(_TIMES)


def cell(value: object) -> str:
    """Return a value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    if isinstance(value, dt.datetime):
        return show_timestamp(value)
    if isinstance(value, dict):
        return orjson.dumps(value, default=str).decode()
    return str(value)


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _write(value: object, *, indent: bool) -> None:
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | (orjson.OPT_INDENT_2 if indent else 0)
    sys.stdout.buffer.write(orjson.dumps(value, default=str, option=options))
    sys.stdout.buffer.flush()


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    if not rows:
        say("nothing found")
        return
    now = clock.utcnow()
    names = [column.removesuffix("…") for column in columns]
    cells = [
        [_relative(row.get(name), now) if is_time(name) else plain(cell(row.get(name))) for name in names]
        for row in rows
    ]
    for line in draw([name.replace("_", " ") for name in names], cells, [column.endswith("…") for column in columns]):
        typer.echo(line)


def _relative(value: object, now: dt.datetime) -> str:
    instant = _instant(value)
    return plain(cell(value)) if instant is None else relative(instant, now)


def _instant(value: object) -> dt.datetime | None:
    """Return the aware instant that a value is or tells, None when it is none: what strangers wrote may be anything."""
    instant = value
    if isinstance(value, str):
        try:
            instant = dt.datetime.fromisoformat(value)
        except ValueError:
            return None
    return instant if isinstance(instant, dt.datetime) and instant.tzinfo is not None else None
