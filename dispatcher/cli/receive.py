"""`dispatcher receive`: a receiver on this machine, for trying things out."""

import asyncio
import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dispatcher.cli.exchange import print_lines
from dispatcher.cli.output import Form, FormOption, write_line
from dispatcher.cli.table import plain

if TYPE_CHECKING:
    from dispatcher.cli.shelf import Shelf
    from dispatcher.embedded.trial_receiver import Behaviour, Received
    from dispatcher.receiver import Inbox

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s)?")


def receive(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes any free one.")] = 9000,
    secret: Annotated[
        list[str] | None, typer.Option(help="Check signatures with this whsec_… secret. Repeat it.")
    ] = None,
    status: Annotated[str, typer.Option(help="Statuses to answer in turn, round and round.")] = "204",
    fail_rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Answer 500 this often.")] = 0.0,
    delay: Annotated[str, typer.Option(help="Wait before answering, like 250ms or 6s.")] = "0s",
    inbox: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Remember received events in this file, and tell repetitions.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(file_okay=False, help="Write each request whole into this folder, for `verify`.")
    ] = None,
    show_body: Annotated[bool, typer.Option("--body", help="Print bodies too.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Receive webhooks on this machine and print them, failing as asked. Both JSON forms are an object per line.

    Example: dispatcher receive --port 9000 --secret whsec_… --status 500,500,204 --inbox inbox.db
    Example: dispatcher receive --save requests
    Example: dispatcher receive --body -o jsonl
    """
    from dispatcher.embedded.trial_receiver import Behaviour

    found = _DURATION.fullmatch(delay)
    if found is None:
        message = "a delay looks like 250ms or 6s"
        raise typer.BadParameter(message, param_hint="--delay")
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1)
    behaviour = Behaviour(_statuses(status), fail_rate, seconds, _secrets(secret or []))
    try:
        asyncio.run(_serve(behaviour, port, _inbox(inbox), _shelf(save), _Printer(output, show_body=show_body)))
    except KeyboardInterrupt:
        return
    except OSError as fault:
        typer.echo(f"Error: cannot listen on port {port}: {fault.strerror}; choose another with --port", err=True)
        raise typer.Exit(1) from fault


def _secrets(texts: list[str]) -> tuple[str, ...]:
    from dispatcher.receiver.verify import secret_key

    for text in texts:
        try:
            secret_key(text)
        except ValueError as fault:
            raise typer.BadParameter(str(fault), param_hint="--secret") from fault
    return tuple(texts)


def _inbox(path: Path | None) -> "Inbox | None":
    import sqlite3

    from dispatcher.receiver import SqliteInbox

    if path is None:
        return None
    try:
        return SqliteInbox(path)
    except sqlite3.Error as fault:
        message = f"{path} cannot be an inbox: {fault}"
        raise typer.BadParameter(message, param_hint="--inbox") from fault


def _statuses(text: str) -> tuple[int, ...]:
    try:
        statuses = tuple(int(part) for part in text.split(","))
    except ValueError:
        statuses = ()
    if not statuses or any(not 200 <= status <= 599 for status in statuses):
        message = "statuses look like 500,500,204, each from 200 to 599"
        raise typer.BadParameter(message, param_hint="--status")
    return statuses


def _shelf(folder: Path | None) -> "Shelf | None":
    from dispatcher.cli.shelf import Shelf

    if folder is None:
        return None
    try:
        return Shelf(folder)
    except OSError as fault:
        message = f"{folder} cannot take requests: {fault.strerror}"
        raise typer.BadParameter(message, param_hint="--save") from fault


async def _serve(
    behaviour: "Behaviour", port: int, inbox: "Inbox | None", shelf: "Shelf | None", printer: "_Printer"
) -> None:
    from dispatcher.embedded.trial_receiver import TrialReceiver

    def show(got: "Received") -> None:
        printer.show(got, None if shelf is None else shelf.put(got))

    receiver = TrialReceiver(behaviour, port=port, on_received=show, inbox=inbox)
    async with receiver:
        typer.echo(f"receiving on {receiver.url}/ (Ctrl-C ends)", err=True)
        await asyncio.Event().wait()


class _Printer:
    """Prints what came, as a line for people or an object for programs; bodies when they are asked for."""

    def __init__(self, output: Form, *, show_body: bool) -> None:
        self._output = output
        self._show_body = show_body

    def show(self, got: "Received", place: str | None) -> None:
        """Print one request; `place` is where it was saved."""
        if self._output is Form.TABLE:
            self._print(got, place)
        else:
            write_line(self._row(got, place))

    def _print(self, got: "Received", place: str | None) -> None:
        when = dt.datetime.fromtimestamp(got.at, dt.UTC).strftime("%H:%M:%S.%f")[:-3]
        signature = "signature ok" if got.is_verified else got.fault or "signature not checked"
        attempt = f"attempt {got.attempt}" if got.attempt else "-"
        repeated = "  received before" if got.is_duplicate else ""
        told = f"{got.event_type or '-':<32} {got.event_id or '-'}  {attempt}  -> {got.status}  {signature}{repeated}"
        # Anybody may send here: nothing of it moves a cursor.
        typer.echo(f"{when}  {plain(told)}")
        if self._show_body:
            print_lines(got.body.decode("utf-8", "replace"))
        if place is not None:
            typer.echo(f"{'':<14}{place}")

    def _row(self, got: "Received", place: str | None) -> dict[str, Any]:
        row = {
            "at": dt.datetime.fromtimestamp(got.at, dt.UTC),
            "path": _text(got.path),
            "event_id": _text(got.event_id),
            "type": _text(got.event_type),
            "attempt": _text(got.attempt),
            "status": got.status,
            "verified": got.is_verified,
            "fault": got.fault or None,
            "duplicate": got.is_duplicate,
            "saved": place,
            "headers": [(_text(name), _text(value)) for name, value in got.headers],
        }
        if self._show_body:
            row["body"] = got.body.decode("utf-8", "replace")
        return row


def _text(value: str) -> str:
    """Return a header's value as JSON can hold it: bytes that are no UTF-8 come as half characters."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
