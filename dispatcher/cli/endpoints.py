"""`dispatcher endpoints`: register, look at and remove endpoints, through the API."""

from http import HTTPStatus
from typing import Annotated, Any

import typer

from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.bars import bars
from dispatcher.cli.client import Api, path_to
from dispatcher.cli.completing import subscriptions
from dispatcher.cli.endpoint_changes import rotate_secret, update
from dispatcher.cli.endpoint_options import Members, with_members
from dispatcher.cli.endpoint_states import EndpointArgument, disable, enable, pause, resume
from dispatcher.cli.endpoint_trials import try_out
from dispatcher.cli.grammar import Noun
from dispatcher.cli.listing import show_list
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, say, show_done, show_one
from dispatcher.cli.refusals import CallFailed

app = Noun()

_COLUMNS = ("id", "status", "url…", "events…", "verified", "created_at", "description…")


@app.command("add")
@with_members
def add(
    api: Api,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to send; https always in live.")],
    events: Annotated[
        list[str],
        typer.Option(
            "--events",
            "-e",
            help="Event type, group like 'verification.*', or '*'. Repeat it.",
            autocompletion=subscriptions,
        ),
    ],
    *,
    members: Members,
    output: FormOption = Form.TABLE,
) -> None:
    """Register an endpoint and print its signing secret, this once.

    Example: dispatcher endpoints add https://example.com/webhooks -e 'verification.*'
    Example: dispatcher endpoints add https://example.com/webhooks -e verification.completed --header 'X-Team: identity'
    Example: dispatcher endpoints add https://example.com/webhooks -e '*' --rate-limit 5 --schedule 0s,5s,5m,1h
    """
    body = {"url": url, "events": events, **members}
    show_one(api.call("POST", "/v1/webhook_endpoints", body), output)
    if output is Form.TABLE:
        say("\nStore the secret now: it is not shown again.")


@app.command("list")
def list_(api: Api, limit: LimitOption = 25, every: AllOption = False, output: FormOption = Form.TABLE) -> None:
    """List endpoints, newest first.

    Example: dispatcher endpoints list -o jsonl
    """
    show_list(api, "/v1/webhook_endpoints", _COLUMNS, output, limit=limit, every=every)


@app.command("show")
def show(api: Api, endpoint: EndpointArgument, output: FormOption = Form.TABLE) -> None:
    """Show one endpoint, and with a key that may read deliveries what it met within a day and a week.

    Example: dispatcher endpoints show we_3JqPz7LmA0
    """
    found = api.get(path_to("webhook_endpoints", endpoint))
    stats = _stats(api, endpoint)
    if output is Form.TABLE and stats is not None:
        stats["hours"] = bars(stats["hours"])
    show_one(found if stats is None else {**found, "stats": stats}, output)


@app.command("delete")
def delete(api: Api, endpoint: EndpointArgument, yes: YesOption = False, output: FormOption = Form.TABLE) -> None:
    """Delete an endpoint; its waiting deliveries are canceled, its history stays.

    Example: dispatcher endpoints delete we_3JqPz7LmA0
    """
    found = api.get(path_to("webhook_endpoints", endpoint))
    demand(f"Delete {found['id']} ({found['url']})? Waiting deliveries are canceled.", yes=yes)
    api.call("DELETE", path_to("webhook_endpoints", endpoint))
    show_done({"id": found["id"], "deleted": True}, f"deleted {endpoint}", output)


def _stats(api: Api, endpoint: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = api.get(path_to("webhook_endpoints", endpoint, "stats"))
    except CallFailed as refused:
        if refused.status == HTTPStatus.FORBIDDEN:
            return None
        raise
    return {name: value for name, value in found.items() if name not in ("object", "endpoint_id")}


for _name, _command in (
    ("update", update),
    ("rotate-secret", rotate_secret),
    ("test", try_out),
    ("pause", pause),
    ("resume", resume),
    ("disable", disable),
    ("enable", enable),
):
    app.command(_name)(_command)
