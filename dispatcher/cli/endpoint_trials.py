"""`dispatcher endpoints test`: one signed test event to an endpoint, and the whole exchange."""

from typing import Annotated, Any, Final

import typer

from dispatcher.cli.client import Api, path_to
from dispatcher.cli.completing import event_types
from dispatcher.cli.endpoint_states import EndpointArgument
from dispatcher.cli.exchange import phases_of, print_body, print_head, why_no_body
from dispatcher.cli.output import Form, FormOption, show_one
from dispatcher.cli.table import paint, plain

_NOT_MET: Final = 3


def try_out(
    api: Api,
    endpoint: EndpointArgument,
    event_type: Annotated[str | None, typer.Option("--type", help="Event type.", autocompletion=event_types)] = None,
    variant: Annotated[str | None, typer.Option(help="Which sample of it, like declined.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Send one real, signed test event to an endpoint and show what came of it. Exits 3 when it was not delivered.

    Bodies need a key with the scope payloads:read.

    Example: dispatcher endpoints test we_3JqPz7LmA0
    Example: dispatcher endpoints test we_3JqPz7LmA0 --type verification.expired --dry-run
    """
    body: dict[str, Any] = {"dry_run": dry_run}
    body |= {name: value for name, value in (("type", event_type), ("variant", variant)) if value is not None}
    found = api.call("POST", path_to("webhook_endpoints", endpoint, "test"), body)
    if output is Form.TABLE:
        _print(found)
    else:
        show_one(found, output)
    if not (dry_run or found["delivered"]):
        raise typer.Exit(_NOT_MET)


def _print(found: dict[str, Any]) -> None:
    request = found["request"]
    print_head(f"POST {request['url']}", request["headers"].items())
    print_body(request["body"] or why_no_body(request["without_body_because"]))
    typer.echo("")
    if not found["would_deliver"]:
        typer.echo(f"a real event like this would not be sent: {plain(found['would_skip_because'])}")
    if found["dry_run"]:
        return
    verdict = paint("delivered") if found["delivered"] else paint("fail")
    said = found["status_code"] or found["outcome"]
    steps = phases_of(found["phases"])
    typer.echo(f"{verdict}  {said} in {found['duration_ms']} ms{steps and f' ({steps})'}")
    if found["error"]:
        typer.echo(f"  -> {plain(found['error'])}")
    print_body(found["response_body"] or why_no_body(found["without_response_body_because"]))
