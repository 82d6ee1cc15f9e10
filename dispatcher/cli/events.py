"""`dispatcher events`: events as they came in, through the API, and attempts as they are made."""

from typing import Annotated, Any

import typer

from dispatcher.cli.client import Api, path_to
from dispatcher.cli.completing import event_types
from dispatcher.cli.grammar import Noun
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, show_one, show_page
from dispatcher.cli.tail import tail

app = Noun()

_COLUMNS = ("id", "type…", "timestamp", "subject…", "client_reference…")

TypeOption = Annotated[str | None, typer.Option("--type", help="Only this type.", autocompletion=event_types)]


@app.command("list")
def list_(
    api: Api,
    event_type: TypeOption = None,
    limit: LimitOption = 25,
    every: AllOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """List events, newest first.

    Example: dispatcher events list --type verification.completed
    Example: dispatcher events list --all -o jsonl
    """
    rows = api.rows("/v1/events", None if every else limit + 1, type=event_type)
    if output is Form.TABLE:
        rows = (_with_names(row) for row in rows)
    show_page(rows, _COLUMNS, output, None if every else limit)


@app.command("show")
def show(
    api: Api,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Id, evt_…", show_default=False)],
    output: FormOption = Form.TABLE,
) -> None:
    """Show one event as it is sent.

    Example: dispatcher events show evt_z7fgcauvdz5kumyas37opaxcsxuj6vs4 -o json
    """
    show_one(api.get(path_to("events", event)), output)


app.command("tail")(tail)


def _with_names(event: dict[str, Any]) -> dict[str, Any]:
    verification = event.get("data", {}).get("verification", {})
    return {**event, "subject": verification.get("id"), "client_reference": verification.get("client_reference")}
