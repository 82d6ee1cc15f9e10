"""`dispatcher receive`: a receiver on this machine, for trying things out."""

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
) -> None:
    """Receive webhooks on this machine and print them, failing as asked.

    Example: dispatcher receive --port 9000 --secret whsec_… --status 500,500,204 --inbox inbox.db
    Example: dispatcher receive --save requests
    """
    from dispatcher.embedded.trial_receiver import Behaviour

    found = _DURATION.fullmatch(delay)
    if found is None:
        message = "a delay looks like 250ms or 6s"
        raise typer.BadParameter(message, param_hint="--delay")
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1)
    behaviour = Behaviour(_statuses(status), fail_rate, seconds, _secrets(secret or []))
    try:
        asyncio.run(_serve(behaviour, port, _inbox(inbox), _shelf(save), show_body=show_body))
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
    behaviour: "Behaviour", port: int, inbox: "Inbox | None", shelf: "Shelf | None", *, show_body: bool
) -> None:
    from dispatcher.embedded.trial_receiver import TrialReceiver

    def show(got: "Received") -> None:
        _print(got, show_body=show_body)
        if shelf is not None:
            typer.echo(f"{'':<14}{shelf.put(got)}")

    receiver = TrialReceiver(behaviour, port=port, on_received=show, inbox=inbox)
    async with receiver:
        typer.echo(f"receiving on {receiver.url}/ (Ctrl-C ends)", err=True)
        await asyncio.Event().wait()


def _print(got: "Received", *, show_body: bool) -> None:
    import datetime as dt

    when = dt.datetime.fromtimestamp(got.at, dt.UTC).strftime("%H:%M:%S.%f")[:-3]
    signature = "signature ok" if got.is_verified else got.fault or "signature not checked"
    attempt = f"attempt {got.attempt}" if got.attempt else "-"
    repeated = "  received before" if got.is_duplicate else ""
    typer.echo(
        f"{when}  {got.event_type or '-':<32} {got.event_id or '-'}  {attempt}  -> {got.status}  {signature}{repeated}"
    )
    if show_body:
        typer.echo(got.body.decode("utf-8", "replace"))
