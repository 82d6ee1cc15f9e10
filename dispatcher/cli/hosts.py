"""`dispatcher hosts`: limits and pauses of the hosts that endpoints live on."""

from typing import Annotated, Any

import typer

from dispatcher.cli import host_book
from dispatcher.cli.client import path_to
from dispatcher.cli.grammar import Noun
from dispatcher.cli.listing import show_list
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, show_one, show_page
from dispatcher.cli.ways import Way

app = Noun()

_COLUMNS = ("host…", "rate", "burst", "in_flight", "own_limits", "scale", "paused_seconds", "endpoints")

HostArgument = Annotated[str, typer.Argument(metavar="HOST", help="scheme://name:port, as `hosts list` shows it.")]


@app.command("list")
def list_(way: Way, limit: LimitOption = 100, every: AllOption = False, output: FormOption = Form.TABLE) -> None:
    """List hosts with their limits, and who is slowed down or paused right now.

    The scale is the share of its rate that a host gets just now; it is below 1 while it recovers from trouble.

    Example: dispatcher hosts list -o json
    """
    api = way.operator()
    if api is None:
        show_page(host_book.rows(limit, every=every), _COLUMNS, output, None if every else limit)
    else:
        show_list(api, "/v1/hosts", _COLUMNS, output, limit=limit, every=every)


@app.command("show")
def show(way: Way, host: HostArgument, output: FormOption = Form.TABLE) -> None:
    """Show one host.

    Example: dispatcher hosts show https://example.com:443
    """
    api = way.operator()
    show_one(host_book.read(host) if api is None else api.get(_path(host)), output)


@app.command("set")
def set_(
    way: Way,
    host: HostArgument,
    rate: Annotated[float | None, typer.Option(help="Requests per second, over all replicas.")] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Requests at once after a rest.")] = None,
    in_flight: Annotated[int | None, typer.Option(min=1, help="Requests under way, over all replicas.")] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Go back to the configured limits.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="End a pause and a slow start now.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Give a host limits of its own, or end its pause. Every replica follows within five seconds.

    Example: dispatcher hosts set https://example.com:443 --rate 10 --burst 20
    """
    wish = {"rate": rate, "burst": burst, "in_flight": in_flight}
    own: dict[str, Any] = {name: value for name, value in wish.items() if value is not None}
    if (own and defaults) or not (own or defaults or resume):
        message = "give --rate, --burst or --in-flight, or --defaults, or --resume"
        raise typer.BadParameter(message)
    if rate is not None and rate <= 0:
        message = "must be more than 0"
        raise typer.BadParameter(message, param_hint="--rate")
    api = way.operator()
    if api is None:
        found = host_book.change(host, own, defaults=defaults, resume=resume)
    else:
        found = api.call("PATCH", _path(host), {**own, "defaults": defaults, "resume": resume})
    show_one(found, output)


def _path(host: str) -> str:
    return path_to("hosts", host)
