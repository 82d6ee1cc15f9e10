"""`dispatcher deliveries replay`: send an endpoint's events of a time again, or late, and watch it happen."""

import time
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.client import Api, path_to
from dispatcher.cli.completing import endpoint_ids
from dispatcher.cli.filters import TypesOption, UntilOption, instant
from dispatcher.cli.output import Form, FormOption, say, show_one
from dispatcher.cli.progress import Progress

_POLL_SECONDS: Final = 0.5
_NOT_MET: Final = 3


class Wanted(StrEnum):
    """Which events of the time: those that failed, those never sent to it, or every one."""

    FAILED = "failed"
    MISSING = "missing"
    ALL = "all"


def replay(
    api: Api,
    endpoint: Annotated[str, typer.Option("--endpoint", help="Id of the endpoint, we_…", autocompletion=endpoint_ids)],
    since: Annotated[str, typer.Option(help="Events that happened from then on: 6h, or 2026-11-03T09:00:00Z.")],
    until: UntilOption = None,
    what: Annotated[Wanted, typer.Option(help="Those that failed, those never sent to it, or all.")] = Wanted.FAILED,
    types: TypesOption = None,
    rate: Annotated[float | None, typer.Option(help="Deliveries per second; gentle by itself.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait until all are in the queue.")] = True,
    yes: YesOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Send events of a time again, or late. Counts first, shows the count and asks.

    Ctrl-C stops the watching, not the replay: `dispatcher replays cancel` ends that.

    Example: dispatcher deliveries replay --endpoint we_3JqPz7LmA0 --since 6h --dry-run
    Example: dispatcher deliveries replay --endpoint we_3JqPz7LmA0 --since 6h
    Example: dispatcher deliveries replay --endpoint we_3JqPz7LmA0 --since 30d --what missing --yes
    """
    wish = {"what": what.value, "types": types, "rate": rate, "since": instant(since, "--since")}
    if until is not None:
        wish["until"] = instant(until, "--until")
    body = {name: value for name, value in wish.items() if value is not None}
    path = path_to("webhook_endpoints", endpoint, "replay")
    counted = api.call("POST", path, {**body, "dry_run": True})
    if dry_run:
        show_one(counted, output)
        return
    amount = f"{'at least ' if counted['at_least'] else ''}{counted['expected']}"
    if counted["expected"] == 0 and not counted["at_least"]:
        say("no event fits: nothing to send")
        if output is not Form.TABLE:
            show_one(counted, output)
        return
    demand(f"Send {amount} event{'s' if amount != '1' else ''} to {endpoint}?", yes=yes)
    job = api.call("POST", path, body)
    if follow:
        say(f"{job['id']} puts {amount} into the queue, {job['rate']:g} per second; Ctrl-C stops the watching alone")
        job = watch(api, job)
    show_one(job, output)
    if follow and job["status"] != "done":
        raise typer.Exit(_NOT_MET)


def watch(api: Api, job: dict[str, Any]) -> dict[str, Any]:
    """Return the job once it has ended, or as it is when the person stops watching."""
    with Progress(max(1, job["expected"])) as progress:
        try:
            while job["status"] == "running":
                progress.move(job["made"] + job["skipped"], f"{job['made']} in the queue, {job['skipped']} skipped")
                time.sleep(_POLL_SECONDS)
                job = api.get(path_to("replays", job["id"]))
        except KeyboardInterrupt:
            say("it goes on; `dispatcher replays list` shows how far it is")
    return job
