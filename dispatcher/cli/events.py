"""`dispatcher events`: events as they came in, through the API."""

from typing import Annotated

import typer

from dispatcher.cli.client import ApiKeyOption, ApiUrlOption, Environment, EnvironmentOption, collect, profile
from dispatcher.cli.output import Form, FormOption, show_rows

app = typer.Typer(no_args_is_help=True)

_COLUMNS = ("id", "type", "timestamp", "subject")


@app.callback()
def events() -> None:
    """Events as they came in."""


@app.command("list")
def list_(
    event_type: Annotated[str | None, typer.Option("--type", help="Only this type.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 25,
    env: EnvironmentOption = Environment.TEST,
    api_url: ApiUrlOption = None,
    api_key: ApiKeyOption = None,
    output: FormOption = Form.TABLE,
) -> None:
    """List events, newest first.

    Example: dispatcher events list --type verification.completed
    """
    found = collect(profile(api_url, api_key, env), "/v1/events", {"type": event_type}, limit)
    for event in found:
        event.setdefault("subject", event.get("data", {}).get("verification", {}).get("id"))
    show_rows(found, _COLUMNS, output)
