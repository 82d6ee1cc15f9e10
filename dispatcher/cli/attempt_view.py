"""One attempt as people read it: the request as it was sent, what came of it, the answer."""

import base64
import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import typer

from dispatcher.cli.exchange import phases_of, print_body, print_head, why_no_body
from dispatcher.cli.output import say
from dispatcher.cli.table import paint, plain
from dispatcher.cli.times import relative
from dispatcher.kit import clock

_UNSIGNED: Final[Mapping[str, str]] = {
    "not_sent": "(nothing was sent)",
    "not_recorded": "(it was not recorded what signed it)",
    "secret_gone": "(the secret that signed it is gone)",
    "secret_unreadable": "(the secret that signed it cannot be opened: another key ring?)",
    "body_gone": "(the body is past its retention)",
}


def print_attempt(found: dict[str, Any]) -> None:
    """Print an attempt: a line about it, the request, the outcome with its phases, the answer."""
    started = dt.datetime.fromisoformat(found["started_at"])
    about = f"attempt {found['attempt']} of {found['delivery_id']} to {found['endpoint_id']}"
    typer.echo(f"{about}, {found['started_at']} ({relative(started, clock.utcnow())})\n")
    _print_request(found["request"])
    typer.echo(f"\n{_outcome(found, started)}")
    if found["reason"]:
        typer.echo(f"  -> {plain(found['reason'])}")
    _print_answer(found["response"], found["status_code"])
    if found["request"]["is_changed"]:
        say("\nThe endpoint was changed since: its URL and headers may have been others.")


def _print_request(request: Mapping[str, Any]) -> None:
    lost = {"webhook-signature": _UNSIGNED.get(request["unsigned_because"] or "", "")}
    headers = [
        (one["name"], lost.get(one["name"], "(not recorded)") if one["value"] is None else one["value"])
        for one in request["headers"]
    ]
    print_head(f"{request['method']} {request['url']}", headers)
    print_body(request["body"] or why_no_body(request["without_body_because"]))


def _outcome(found: Mapping[str, Any], started: dt.datetime) -> str:
    """Return a line like `retry in 5 s  503 http_5xx in 12 ms (TCP 0.3 ms, wait 11 ms) from 203.0.113.9`."""
    verdict = paint(found["verdict"])
    if found["next_at"] is not None:
        verdict += f" {relative(dt.datetime.fromisoformat(found['next_at']), started)}"
    said = " ".join(str(one) for one in (found["status_code"], found["outcome"]) if one not in (None, "delivered"))
    steps = phases_of(found["phases"])
    took = f"{found['duration_ms']} ms{steps and f' ({steps})'}"
    where = f" from {found['address']}" if found["address"] else ""
    how = " over a kept connection" if found["reused_connection"] else ""
    return f"{verdict}  {said} in {took}{where}{how}"


def _print_answer(answer: Mapping[str, Any] | None, status: int | None) -> None:
    if answer is None:
        why = "no answer came" if status is None else "the answer was an empty 2xx, or is past its retention"
        typer.echo(f"\n({why})")
        return
    typer.echo("")
    print_head(f"HTTP {answer['status_code']}", ((one["name"], one["value"]) for one in answer["headers"]))
    if answer["body"] is None:
        print_body(why_no_body(answer["without_body_because"]))
    elif answer["body_encoding"] == "base64":
        print_body(f"({len(base64.b64decode(answer['body']))} bytes that are no text; -o json has them as base64)")
    else:
        print_body(answer["body"])
    if answer["is_replaced"]:
        say("\nBytes of the answer that are no UTF-8 are shown as U+FFFD.")
    if answer["is_cut"]:
        say("\nThe answer was longer: this is what is kept of it.")
