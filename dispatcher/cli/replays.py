"""`dispatcher replays`: jobs that send stored events again, and drains of what was held, through the API."""

from typing import Annotated

import typer

from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.client import Api, path_to
from dispatcher.cli.completing import endpoint_ids
from dispatcher.cli.grammar import Noun
from dispatcher.cli.listing import show_list
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, say, show_one
from dispatcher.cli.replaying import watch

app = Noun()

_COLUMNS = ("id", "status", "kind", "what", "made", "expected", "skipped", "created_at", "endpoint_id")

ReplayArgument = Annotated[str, typer.Argument(metavar="REPLAY", help="Id, rpl_…", show_default=False)]


@app.command("list")
def list_(
    api: Api,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Only this endpoint's, we_…", autocompletion=endpoint_ids)
    ] = None,
    limit: LimitOption = 25,
    every: AllOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """List replays and drains, newest first. A drain sends what an endpoint missed while it was out of service.

    Example: dispatcher replays list
    """
    show_list(api, "/v1/replays", _COLUMNS, output, limit=limit, every=every, endpoint_id=endpoint)


@app.command("show")
def show(
    api: Api,
    replay: ReplayArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Wait until it has ended.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Show how far a replay is.

    Example: dispatcher replays show rpl_5hQ2vN8rTb --follow
    """
    found = api.get(path_to("replays", replay))
    show_one(watch(api, found) if follow else found, output)


@app.command("cancel")
def cancel(api: Api, replay: ReplayArgument, yes: YesOption = False, output: FormOption = Form.TABLE) -> None:
    """End a replay; deliveries that it made go their way. With a drain, those still held are canceled.

    Example: dispatcher replays cancel rpl_5hQ2vN8rTb --yes
    """
    demand(f"End the replay {replay}? What it has not sent yet is not sent by it.", yes=yes)
    found = api.call("DELETE", path_to("replays", replay))
    show_one(found, output)
    if found["status"] == "done":
        say("\nIt was done before: there was nothing to end.")
