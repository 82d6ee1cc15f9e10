"""`dispatcher events tail`: attempts as they are made, until Ctrl-C; a cut connection loses none."""

import datetime as dt
import time
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, Final

import typer

from dispatcher.cli.client import Api, path_to
from dispatcher.cli.completing import endpoint_ids, event_types
from dispatcher.cli.output import Form, FormOption, say, write_line
from dispatcher.cli.refusals import CallFailed
from dispatcher.cli.table import paint, plain
from dispatcher.cli.times import relative

_WAIT_SECONDS: Final = 8
_FIRST_SECONDS, _MOST_SECONDS = 0.25, 15.0


def tail(
    api: Api,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Only this endpoint's, we_…", autocompletion=endpoint_ids)
    ] = None,
    event_type: Annotated[
        str | None, typer.Option("--type", help="Only of this type.", autocompletion=event_types)
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="End after so many.")] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Follow attempts as they are made: time, type, endpoint, attempt, status, milliseconds. Ctrl-C ends.

    Example: dispatcher events tail
    Example: dispatcher events tail --endpoint we_3JqPz7LmA0 --type verification.completed
    Example: dispatcher events tail --limit 100 -o jsonl
    """
    if endpoint is not None:
        _demand_known(api, endpoint)
    try:
        for attempt in islice(follow(api, endpoint=endpoint, type=event_type), limit):
            _print(attempt, output)
    except KeyboardInterrupt:
        say("")


def _demand_known(api: Api, endpoint: str) -> None:
    """Refuse an endpoint that is not there: nothing of it would ever come. Asks what the feed's own scope opens.

    Raises:
        CallFailed: there is no such endpoint. Whatever else is wrong the feed will tell, or wait for.
    """
    try:
        api.call("GET", f"{path_to('webhook_endpoints', endpoint, 'attempts')}?limit=1")
    except CallFailed as fault:
        if fault.status == 404:
            message = f"there is no endpoint {plain(endpoint)} here; `dispatcher endpoints list` shows those there are"
            raise CallFailed(message, fault.status, fault.code) from fault


def follow(api: Api, **query: Any) -> Iterator[dict[str, Any]]:
    """Give attempts from now on, for ever; an API that is away is asked again from the same place on.

    Raises:
        CallFailed: it refuses, and would refuse again.
    """
    after = None
    failures = 0
    while True:
        try:
            page = api.get("/v1/attempts", order="asc", after=after, wait=_WAIT_SECONDS if after else None, **query)
        except CallFailed as fault:
            if fault.status is not None and fault.status < 500 and fault.status != 429:
                raise
            wait = min(_MOST_SECONDS, _FIRST_SECONDS * 2**failures)
            failures += 1
            first, _, _ = str(fault).partition("\n")
            say(f"{first}; again in {wait:g} s")
            time.sleep(wait)
            continue
        if after is None:
            say("following attempts (Ctrl-C ends)")
        failures = 0
        after = page["resume"]
        yield from page["data"]


def _print(attempt: dict[str, Any], output: Form) -> None:
    if output is Form.TABLE:
        typer.echo(line_of(attempt))
        return
    write_line(attempt)


def line_of(attempt: dict[str, Any]) -> str:
    """Return an attempt as one line."""
    started = _moment(attempt["started_at"]).astimezone()
    when = started.strftime("%H:%M:%S.") + f"{started.microsecond // 1_000:03d}"
    said = str(attempt["status_code"] or attempt["outcome"])
    line = (
        f"{when}  {plain(attempt['event_type']):<30} {attempt['endpoint_id']:<22} #{attempt['attempt']:<3} {said:<4}"
        f" {attempt['duration_ms']:>6} ms"
    )
    if attempt["verdict"] == "delivered":
        return line
    verdict = paint(attempt["verdict"])
    if attempt["next_at"] is None:
        return f"{line}  {verdict}"
    return f"{line}  {verdict} {relative(_moment(attempt['next_at']), started)}"


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
