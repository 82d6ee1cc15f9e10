"""`dispatcher deliveries`: what was sent, what waits, what failed, through the API."""

from typing import Annotated

import typer

from dispatcher.cli.client import ApiKeyOption, ApiUrlOption, Environment, EnvironmentOption, call, collect, profile
from dispatcher.cli.output import Form, FormOption, show_one, show_rows

app = typer.Typer(no_args_is_help=True)

_COLUMNS = ("id", "status", "event_type", "event_id", "attempts", "next_attempt_at", "created_at")
_ATTEMPTS = ("attempt", "started_at", "outcome", "status_code", "duration_ms", "verdict", "next_at")


@app.command("list")
def list_(
    endpoint: Annotated[str, typer.Option("--endpoint", help="Id of the endpoint, we_…")],
    status: Annotated[str | None, typer.Option(help="pending, retrying, held, delivered, exhausted, canceled.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 25,
    env: EnvironmentOption = Environment.TEST,
    api_url: ApiUrlOption = None,
    api_key: ApiKeyOption = None,
    output: FormOption = Form.TABLE,
) -> None:
    """List the deliveries of an endpoint, newest first.

    Example: dispatcher deliveries list --endpoint we_3JqPz7LmA0 --status exhausted
    """
    path = f"/v1/webhook_endpoints/{endpoint}/deliveries"
    show_rows(collect(profile(api_url, api_key, env), path, {"status": status}, limit), _COLUMNS, output)


@app.command("show")
def show(
    delivery: Annotated[str, typer.Argument(help="Id, dlv_…")],
    env: EnvironmentOption = Environment.TEST,
    api_url: ApiUrlOption = None,
    api_key: ApiKeyOption = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Show one delivery and the timeline of its attempts.

    Example: dispatcher deliveries show dlv_74pqhkj2n3or4
    """
    who = profile(api_url, api_key, env)
    found = call(who, "GET", f"/v1/deliveries/{delivery}")
    attempts = collect(who, f"/v1/deliveries/{delivery}/attempts", {}, 100)
    if output is not Form.TABLE:
        show_one({**found, "attempt_log": attempts}, output)
        return
    show_one(found, output)
    typer.echo("")
    show_rows(attempts, _ATTEMPTS, output)
