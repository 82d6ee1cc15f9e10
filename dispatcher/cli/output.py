"""How commands print: a table for people, JSON for programs."""

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import orjson
import typer


class Form(StrEnum):
    """The three forms of output. `json` is one document, `jsonl` one object per line."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


FormOption = Annotated[Form, typer.Option("-o", "--output", help="How to print.")]


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], form: Form) -> None:
    """Print a list. Tables show `columns` only; JSON forms print every field as it is."""
    if form is Form.TABLE:
        _table(rows, columns)
    elif form is Form.JSON:
        _write(list(rows), indent=True)
    else:
        for row in rows:
            _write(row, indent=False)


def show_one(row: Mapping[str, Any], form: Form) -> None:
    """Print one object: as `name  value` lines, or as JSON."""
    if form is not Form.TABLE:
        _write(row, indent=form is Form.JSON)
        return
    width = max((len(name) for name in row), default=0)
    for name, value in row.items():
        typer.echo(f"{name:<{width}}  {_cell(value)}")


def _write(value: object, *, indent: bool) -> None:
    options = orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if indent else 0)
    sys.stdout.buffer.write(orjson.dumps(value, default=str, option=options))
    sys.stdout.buffer.flush()


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, dict):
        return orjson.dumps(value, default=str).decode()
    return str(value)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not rows:
        typer.echo("nothing found", err=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    # Piped output keeps its full width: programs that cut columns want whole ids.
    Console(width=None if sys.stdout.isatty() else 240, highlight=False, markup=False).print(table)
