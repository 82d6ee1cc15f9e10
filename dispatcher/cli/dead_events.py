"""`dispatcher dead-events`: records that could not become events."""

import base64
from typing import Annotated, Any

import typer

from dispatcher.cli import dead_event_book
from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.client import path_to
from dispatcher.cli.grammar import Noun
from dispatcher.cli.listing import show_list
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, show_done, show_one, show_page
from dispatcher.cli.ways import Way
from dispatcher.model.ids import parse_dead_place

app = Noun()

_COLUMNS = ("id", "reason", "seen_at", "redriven_at", "detail…")


def _named(text: str) -> str:
    if parse_dead_place(text) is None:
        message = "a dead event is named like verification.events.v1/3/1042"
        raise typer.BadParameter(message)
    return text


IdArgument = Annotated[
    str, typer.Argument(metavar="TOPIC/PARTITION/OFFSET", help="As `dead-events list` shows it.", callback=_named)
]


@app.command("list")
def list_(way: Way, limit: LimitOption = 50, every: AllOption = False, output: FormOption = Form.TABLE) -> None:
    """List dead events, latest first. Their values stay sealed.

    Example: dispatcher dead-events list -o jsonl
    """
    api = way.operator()
    if api is None:
        show_page(dead_event_book.rows(limit, every=every), _COLUMNS, output, None if every else limit)
    else:
        show_list(api, "/v1/dead_events", _COLUMNS, output, limit=limit, every=every)


@app.command("show")
def show(
    way: Way,
    event: IdArgument,
    value: Annotated[
        bool, typer.Option("--value", help="Open the sealed value too; it may hold personal data.")
    ] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Show one dead event with its headers. Programs get the value in base64.

    Example: dispatcher dead-events show verification.events.v1/3/1042 --value
    """
    api = way.operator()
    if api is None:
        found = dead_event_book.read(event, value=value)
    else:
        found = api.get(_path(event), value="true" if value else None)
    show_one(_readable(found) if output is Form.TABLE else found, output)


@app.command("redrive")
def redrive(way: Way, event: IdArgument, output: FormOption = Form.TABLE) -> None:
    """Publish a dead event's record to its topic again, once its cause is mended.

    What was cut off before Kafka had it can be redriven again after a minute: `show` has a redrive_began_at then, and
    no redriven_at.

    Example: dispatcher dead-events redrive verification.events.v1/3/1042
    """
    api = way.operator()
    done = dead_event_book.redrive(event) if api is None else api.call("POST", f"{_path(event)}/redrive")
    place = f"partition {done['partition']} offset {done['offset']}"
    show_done(done, f"published {event} again, as {place}", output)


@app.command("discard")
def discard(way: Way, event: IdArgument, yes: YesOption = False, output: FormOption = Form.TABLE) -> None:
    """Delete a dead event for good.

    Example: dispatcher dead-events discard verification.events.v1/3/1042
    """
    api = way.operator()
    demand(f"Delete {event} for good?", yes=yes)
    if api is None:
        dead_event_book.discard(event)
    else:
        api.call("DELETE", _path(event))
    show_done({"id": event, "discarded": True}, f"discarded {event}", output)


def _path(event: str) -> str:
    return path_to("dead_events", event)


def _readable(found: dict[str, Any]) -> dict[str, Any]:
    """Return a dead event as a person reads it: headers by name, the value as text."""
    row = {**found, "headers": {one["name"]: one["value"] for one in found["headers"]}}
    if "value_base64" in row:
        value = row.pop("value_base64")
        row["value"] = None if value is None else base64.b64decode(value).decode("utf-8", "replace")
    return row
