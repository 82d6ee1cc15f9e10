"""`dispatcher deliveries`: what was sent, what waits, what failed, through the API."""

from typing import Annotated

import typer

from dispatcher.cli.client import Api
from dispatcher.cli.completing import endpoint_ids
from dispatcher.cli.delivery_actions import cancel, resend, retry
from dispatcher.cli.grammar import Noun
from dispatcher.cli.listing import show_list
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, say, show_one, show_rows
from dispatcher.cli.replaying import replay

app = Noun()

_COLUMNS = ("id", "status", "attempts", "next_attempt_at", "event_type…", "created_at", "event_id")
_ATTEMPTS = ("attempt", "started_at", "outcome", "status_code", "duration_ms", "verdict", "next_at", "reason…")

DeliveryArgument = Annotated[str, typer.Argument(metavar="DELIVERY", help="Id, dlv_…", show_default=False)]


@app.command("list")
def list_(
    api: Api,
    endpoint: Annotated[str, typer.Option("--endpoint", help="Id of the endpoint, we_…", autocompletion=endpoint_ids)],
    status: Annotated[str | None, typer.Option(help="pending, retrying, held, delivered, exhausted, canceled.")] = None,
    limit: LimitOption = 25,
    every: AllOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """List the deliveries of an endpoint, newest first.

    Example: dispatcher deliveries list --endpoint we_3JqPz7LmA0 --status exhausted
    Example: dispatcher deliveries list --endpoint we_3JqPz7LmA0 --all -o jsonl
    """
    path = f"/v1/webhook_endpoints/{endpoint}/deliveries"
    show_list(api, path, _COLUMNS, output, limit=limit, every=every, status=status)


@app.command("show")
def show(api: Api, delivery: DeliveryArgument, output: FormOption = Form.TABLE) -> None:
    """Show one delivery and the timeline of its attempts.

    Example: dispatcher deliveries show dlv_74pqhkj2n3or4
    """
    found = api.get(f"/v1/deliveries/{delivery}")
    attempts = list(api.rows(f"/v1/deliveries/{delivery}/attempts", None))
    if output is not Form.TABLE:
        show_one({**found, "attempt_log": attempts}, output)
        return
    show_one(found, output)
    if not attempts:
        say("\nno attempt was made yet")
        return
    typer.echo("")
    show_rows(attempts, _ATTEMPTS, output)


for _name, _command in (("resend", resend), ("retry", retry), ("cancel", cancel), ("replay", replay)):
    app.command(_name)(_command)
