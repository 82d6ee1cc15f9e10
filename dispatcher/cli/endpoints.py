"""`dispatcher endpoints`: register, look at and remove endpoints, through the API."""

from typing import Annotated, Any

import typer

from dispatcher.cli.client import ApiKeyOption, ApiUrlOption, Environment, EnvironmentOption, call, collect, profile
from dispatcher.cli.output import Form, FormOption, show_one, show_rows

app = typer.Typer(no_args_is_help=True)

_COLUMNS = ("id", "status", "url", "events", "verified", "created_at")


@app.command("add")
def add(
    url: Annotated[str, typer.Argument(help="Where to send; https always in live.")],
    events: Annotated[
        list[str], typer.Option("--events", "-e", help="Event type, group like 'verification.*', or '*'. Repeat it.")
    ],
    description: Annotated[str | None, typer.Option(help="A few words for the list.")] = None,
    header: Annotated[list[str] | None, typer.Option("--header", help="'Name: value', sent along. Repeat it.")] = None,
    env: EnvironmentOption = Environment.TEST,
    api_url: ApiUrlOption = None,
    api_key: ApiKeyOption = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Register an endpoint and print its signing secret, this once.

    Example: dispatcher endpoints add https://example.com/webhooks -e 'verification.*'
    """
    body: dict[str, Any] = {"url": url, "events": events}
    if description is not None:
        body["description"] = description
    if header:
        pairs = [line.partition(":") for line in header]
        body["headers"] = {name.strip(): value.strip() for name, _, value in pairs}
    made = call(profile(api_url, api_key, env), "POST", "/v1/webhook_endpoints", body)
    show_one(made, output)
    if output is Form.TABLE:
        typer.echo("\nStore the secret now: it is not shown again.", err=True)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 25,
    env: EnvironmentOption = Environment.TEST,
    api_url: ApiUrlOption = None,
    api_key: ApiKeyOption = None,
    output: FormOption = Form.TABLE,
) -> None:
    """List endpoints, newest first.

    Example: dispatcher endpoints list -o jsonl
    """
    show_rows(collect(profile(api_url, api_key, env), "/v1/webhook_endpoints", {}, limit), _COLUMNS, output)


@app.command("show")
def show(
    endpoint: Annotated[str, typer.Argument(help="Id, we_…")],
    env: EnvironmentOption = Environment.TEST,
    api_url: ApiUrlOption = None,
    api_key: ApiKeyOption = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Show one endpoint.

    Example: dispatcher endpoints show we_3JqPz7LmA0
    """
    show_one(call(profile(api_url, api_key, env), "GET", f"/v1/webhook_endpoints/{endpoint}"), output)


@app.command("delete")
def delete(
    endpoint: Annotated[str, typer.Argument(help="Id, we_…")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    env: EnvironmentOption = Environment.TEST,
    api_url: ApiUrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Delete an endpoint; its waiting deliveries are canceled, its history stays.

    Example: dispatcher endpoints delete we_3JqPz7LmA0
    """
    who = profile(api_url, api_key, env)
    found = call(who, "GET", f"/v1/webhook_endpoints/{endpoint}")
    if not yes:
        typer.confirm(f"Delete {found['id']} ({found['url']})? Waiting deliveries are canceled.", abort=True, err=True)
    call(who, "DELETE", f"/v1/webhook_endpoints/{endpoint}")
    typer.echo(f"deleted {endpoint}", err=True)
