"""`dispatcher deliveries`: what was sent, what waits, what failed, through the API."""

from typing import Annotated

import typer

from dispatcher.cli.client import Api, path_to
from dispatcher.cli.completing import endpoint_ids
from dispatcher.cli.delivery_actions import cancel, resend, retry
from dispatcher.cli.filters import StatesOption, Wanted, comma_list, filtered
from dispatcher.cli.grammar import Noun
from dispatcher.cli.listing import show_list
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, say, show_one, show_rows
from dispatcher.cli.replaying import replay

app = Noun()

_COLUMNS = ("id", "status", "attempts", "last_outcome", "next_attempt_at", "event_type…", "created_at", "event_id")
_COLUMNS_OF_ALL = (*_COLUMNS[:-1], "endpoint_id", "event_id")
_ATTEMPTS = ("attempt", "started_at", "outcome", "status_code", "duration_ms", "verdict", "next_at", "reason…")

DeliveryArgument = Annotated[str, typer.Argument(metavar="DELIVERY", help="Id, dlv_…", show_default=False)]


@app.command("list")
@filtered
def list_(
    api: Api,
    wanted: Wanted,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Only this endpoint's, we_…", autocompletion=endpoint_ids)
    ] = None,
    states: StatesOption = None,
    limit: LimitOption = 25,
    every: AllOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """List deliveries, newest first. Times are of their creation, outcomes of the last attempt.

    Example: dispatcher deliveries list --status retrying --status held
    Example: dispatcher deliveries list --endpoint we_3JqPz7LmA0 --status exhausted --outcome 5xx --since 6h
    Example: dispatcher deliveries list --subject ver_8Zk3QmT1xW5n --no-test --all -o jsonl
    """
    is_of_all = endpoint is None
    path = "/v1/deliveries" if is_of_all else path_to("webhook_endpoints", endpoint, "deliveries")
    columns = _COLUMNS_OF_ALL if is_of_all else _COLUMNS
    show_list(api, path, columns, output, limit=limit, every=every, **wanted, status=comma_list(states))


@app.command("show")
def show(api: Api, delivery: DeliveryArgument, output: FormOption = Form.TABLE) -> None:
    """Show one delivery and the timeline of its attempts.

    Example: dispatcher deliveries show dlv_74pqhkj2n3or4
    """
    found = api.get(path_to("deliveries", delivery))
    attempts = list(api.rows(path_to("deliveries", delivery, "attempts"), None))
    if output is not Form.TABLE:
        show_one({**found, "attempt_log": attempts}, output)
        return
    show_one(found, output)
    if not attempts:
        say("\nno attempt was made yet")
        return
    typer.echo("")
    show_rows(attempts, _ATTEMPTS, output)
    say(f"\n`dispatcher attempts show {found['id']} {attempts[0]['attempt']}` shows the last one whole")


for _name, _command in (("resend", resend), ("retry", retry), ("cancel", cancel), ("replay", replay)):
    app.command(_name)(_command)
