"""`dispatcher deliveries resend|retry|cancel`: what a person does about single deliveries."""

from typing import Annotated, Any, Final

import typer

from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.client import Api, path_to
from dispatcher.cli.output import Form, FormOption, say, show_rows
from dispatcher.cli.progress import Progress
from dispatcher.cli.refusals import CallFailed
from dispatcher.cli.table import plain

_COLUMNS = ("id", "status", "attempts", "next_attempt_at", "event_type…", "endpoint_id")
_OF_ONE: Final = frozenset({404, 409, 410})
"""Refused for this delivery's own sake: the next one may be done all the same."""

DeliveriesArgument = Annotated[list[str], typer.Argument(metavar="DELIVERY", help="Ids, dlv_…", show_default=False)]


def resend(api: Api, deliveries: DeliveriesArgument, output: FormOption = Form.TABLE) -> None:
    """Send finished deliveries again: at once, then by their schedule.

    Example: dispatcher deliveries resend dlv_74pqhkj2n3or4
    """
    _each(api, deliveries, "resend", output)


def retry(api: Api, deliveries: DeliveriesArgument, output: FormOption = Form.TABLE) -> None:
    """Try waiting deliveries now instead of when they are due; each try is one of those that the schedule allows.

    Example: dispatcher deliveries retry dlv_74pqhkj2n3or4
    Example: dispatcher deliveries retry dlv_74pqhkj2n3or4 dlv_btmo7fri74sda -o jsonl
    """
    _each(api, deliveries, "retry", output)


def cancel(api: Api, deliveries: DeliveriesArgument, yes: YesOption = False, output: FormOption = Form.TABLE) -> None:
    """Cancel open deliveries; one that is being sent right now, as soon as that has failed.

    Example: dispatcher deliveries cancel dlv_74pqhkj2n3or4 --yes
    """
    asked = ", ".join(map(plain, deliveries))
    demand(f"Cancel {asked}? What is canceled is not sent by itself any more.", yes=yes)
    for one in _each(api, deliveries, "cancel", output):
        if one["status"] != "canceled":
            say(f"{plain(one['id'])} is being sent right now: it is canceled as soon as that has failed")


def _each(api: Api, deliveries: list[str], deed: str, output: Form) -> list[dict[str, Any]]:
    """Do one after the other, show those that were done, and return them.

    Raises:
        CallFailed: one or more were refused, each is named; or the API refuses everything, which ends it: then those
            that are left are named, the first of which may be done when no answer came.
    """
    done: list[dict[str, Any]] = []
    refused: dict[str, list[str]] = {}
    left = list(dict.fromkeys(deliveries))
    try:
        with Progress(len(left)) as progress:
            while left:
                progress.move(len(done), deed)
                try:
                    done.append(api.patiently("POST", path_to("deliveries", left[0], deed)))
                except CallFailed as fault:
                    if fault.status not in _OF_ONE:
                        raise
                    refused.setdefault(str(fault), []).append(plain(left[0]))
                del left[0]
    finally:
        if done:
            show_rows(done, _COLUMNS, output)
        reasons = "\n".join(f"{', '.join(ids)}: {why}" for why, ids in refused.items())
        if left:
            named = f"{len(left)} not done: {' '.join(map(plain, left))}"
            say(f"{reasons}\n{named}" if reasons else named)
    if refused:
        raise CallFailed(reasons)
    return done
