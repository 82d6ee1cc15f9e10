"""`dispatcher hosts`: limits and pauses of the hosts that endpoints live on, straight in the database."""

from typing import Annotated, Any

import typer

from dispatcher.cli.database import with_pool
from dispatcher.cli.grammar import Noun
from dispatcher.cli.listing import collect
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, show_one, show_page
from dispatcher.model.errors import DispatcherError

app = Noun()

_COLUMNS = ("host…", "rate", "burst", "in_flight", "own_limits", "scale", "paused_seconds", "endpoints")

HostArgument = Annotated[str, typer.Argument(help="scheme://name:port, as `hosts list` shows it.")]


@app.command("list")
def list_(
    after: Annotated[str, typer.Option(help="Begin behind this host.")] = "",
    limit: LimitOption = 100,
    every: AllOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """List hosts with their limits, and who is slowed down or paused right now.

    Example: dispatcher hosts list -o json
    """
    from dispatcher.ledger.connections import Pool
    from dispatcher.ledger.hosts import HostBook, HostState

    async def work(pool: Pool) -> list[HostState]:
        book = HostBook(pool)
        return await collect(
            lambda last, n: book.page(after=after if last is None else last.authority, limit=n),
            limit=limit,
            every=every,
        )

    rows = [_shown(found) for found in with_pool(work)]
    show_page(rows, _COLUMNS, output, None if every else limit)


@app.command("show")
def show(host: HostArgument, output: FormOption = Form.TABLE) -> None:
    """Show one host.

    Example: dispatcher hosts show https://example.com:443
    """
    show_one(_shown(_found(host)), output)


@app.command("set")
def set_(
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
    import os

    from dispatcher.ledger.connections import Pool
    from dispatcher.ledger.hosts import HostBook
    from dispatcher.model.endpoint import HostLimits
    from dispatcher.policy.pacing import limits_fault
    from dispatcher.settings import load

    has_own = any(value is not None for value in (rate, burst, in_flight))
    if (has_own and defaults) or not (has_own or defaults or resume):
        message = "give --rate, --burst or --in-flight, or --defaults, or --resume"
        raise typer.BadParameter(message)
    now = _found(host).limits
    limits = HostLimits(
        now.rate if rate is None else rate,
        now.burst if burst is None else burst,
        now.in_flight if in_flight is None else in_flight,
    )
    if defaults:
        limits = load(os.environ, required=False).limits.host_limits()
    if limits.rate <= 0:
        message = "is more than 0"
        raise typer.BadParameter(message, param_hint="--rate")
    if fault := limits_fault(limits.rate, limits.burst):
        raise typer.BadParameter(fault, param_hint="--burst")

    async def work(pool: Pool) -> None:
        book = HostBook(pool)
        if has_own or defaults:
            await book.set_limits(host, limits, are_own=has_own)
        if resume:
            await book.resume(host)

    with_pool(work)
    show_one(_shown(_found(host)), output)


def _found(host: str) -> Any:
    from dispatcher.ledger.connections import Pool
    from dispatcher.ledger.hosts import HostBook, HostState

    async def work(pool: Pool) -> HostState | None:
        return await HostBook(pool).find(host)

    found = with_pool(work)
    if found is None:
        message = f"no endpoint ever had the host {host}; `dispatcher hosts list` shows those that there are"
        raise DispatcherError(message)
    return found


def _shown(state: Any) -> dict[str, Any]:
    return {
        "host": state.authority,
        "rate": state.limits.rate,
        "burst": state.limits.burst,
        "in_flight": state.limits.in_flight,
        "own_limits": state.has_own_limits,
        "scale": state.scale,
        "paused_seconds": round(state.paused_seconds, 1),
        "endpoints": state.n_endpoints,
    }
