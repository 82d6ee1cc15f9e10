"""`dispatcher endpoints test`: one signed test event to an endpoint, and the whole exchange."""

from typing import Annotated, Any, Final

import typer

from dispatcher.cli.client import Api
from dispatcher.cli.completing import event_types
from dispatcher.cli.endpoint_states import EndpointArgument
from dispatcher.cli.output import Form, FormOption, show_one
from dispatcher.cli.table import paint, plain

_NOT_MET: Final = 3
_PHASES: Final = {"dns_ms": "DNS", "connect_ms": "TCP", "tls_ms": "TLS", "wait_ms": "wait"}


def try_out(
    api: Api,
    endpoint: EndpointArgument,
    event_type: Annotated[str | None, typer.Option("--type", help="Event type.", autocompletion=event_types)] = None,
    variant: Annotated[str | None, typer.Option(help="Which sample of it, like declined.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Send one real, signed test event to an endpoint and show what came of it. Exits 3 when it was not delivered.

    Example: dispatcher endpoints test we_3JqPz7LmA0
    Example: dispatcher endpoints test we_3JqPz7LmA0 --type verification.expired --dry-run
    """
    body: dict[str, Any] = {"dry_run": dry_run}
    body |= {name: value for name, value in (("type", event_type), ("variant", variant)) if value is not None}
    found = api.call("POST", f"/v1/webhook_endpoints/{endpoint}/test", body)
    if output is Form.TABLE:
        _print(found)
    else:
        show_one(found, output)
    if not (dry_run or found["delivered"]):
        raise typer.Exit(_NOT_MET)


def _print(found: dict[str, Any]) -> None:
    request = found["request"]
    typer.echo(f"POST {plain(request['url'])}")
    for name, value in request["headers"].items():
        typer.echo(f"{plain(name)}: {plain(value)}")
    typer.echo(f"\n{plain(request['body'])}\n")
    if not found["would_deliver"]:
        typer.echo(f"a real event like this would not be sent: {found['would_skip_because']}")
    if found["dry_run"]:
        return
    steps = [f"{word} {found['phases'][name]:.0f} ms" for name, word in _PHASES.items() if found["phases"][name]]
    verdict = paint("delivered") if found["delivered"] else paint("fail")
    said = found["status_code"] or found["outcome"]
    typer.echo(f"{verdict}  {said} in {found['duration_ms']} ms ({', '.join(steps)})")
    if found["error"]:
        typer.echo(f"  -> {plain(found['error'])}")
    if found["response_body"]:
        typer.echo(f"\n{plain(found['response_body'])}")
