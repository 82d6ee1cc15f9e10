"""`dispatcher bench`: how much this machine delivers, in less than half a minute and with nothing to set up."""

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dispatcher.cli.output import Form, FormOption, say, show_one
from dispatcher.cli.progress import Progress

if TYPE_CHECKING:
    from dispatcher.cli.measuring import Figures


def bench(
    events: Annotated[int, typer.Option("--events", "-n", min=100, max=100_000, help="How many to drain.")] = 20_000,
    rate: Annotated[float, typer.Option(min=1, max=1_000, help="Events per second while latency is measured.")] = 100.0,
    seconds: Annotated[float, typer.Option(min=2, max=600, help="Measure no longer than this.")] = 20.0,
    output: FormOption = Form.TABLE,
) -> None:
    """Measure an embedded dispatcher on this machine: latency at a steady rate, then a drain of all events at once.

    Includes Kafka (the embedded broker), Postgres with fsync, signing, HTTP without TLS to one sink that answers at
    once, and the writing of every result. Producer, broker, Postgres and sink share the machine's cores. Not in it:
    your network, TLS, your endpoints, your Kafka. Limits of hosts are lifted. Runs in a folder that is deleted.

    Example: dispatcher bench
    Example: dispatcher bench --events 5000 --seconds 10 -o json
    """
    from dispatcher.cli.measuring import Plan, embedded_dispatcher, measure

    with tempfile.TemporaryDirectory(prefix="dispatcher-bench-") as folder, Progress(events) as progress:
        progress.move(0, "starting PostgreSQL and a broker")
        with embedded_dispatcher(Path(folder)) as ready:
            figures = asyncio.run(measure(ready, Plan(events, rate, seconds), progress.move))
            progress.move(figures.deliveries, "stopping")
    if output is Form.TABLE:
        _print(figures)
    else:
        show_one(figures._asdict(), output)
    if not figures.is_complete:
        say(f"stopped after {seconds:g} s: {figures.deliveries} of {events} events had been delivered; see --seconds")


def _print(found: "Figures") -> None:
    cpu = found.cpu_seconds_per_1000
    spent = "" if cpu is None else f", {cpu} CPU-s of the dispatcher per 1,000"
    typer.echo(
        f"drain    {found.deliveries_per_second:,.0f} deliveries/s{spent}"
        f"  ({found.deliveries:,} of {found.event_bytes:,} bytes in {found.seconds} s)"
    )
    typer.echo(
        f"latency  p50 {found.p50_ms} ms, p99 {found.p99_ms} ms from send to request"
        f"  ({found.latency_events:,} at {found.latency_events_per_second:g} per second)"
    )
    say(
        f"\none dispatcher process on {found.cores} cores, shared with producer, broker, Postgres (fsync on) and sink; "
        "plain HTTP on loopback, no limits of hosts"
    )
