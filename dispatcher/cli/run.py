"""`dispatcher run`: the daemon itself, on configured servers or on embedded ones."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from dispatcher.settings import Settings


def run(
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Start PostgreSQL and a Kafka-compatible broker as child processes.")
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="With --embedded: a receiver, two endpoints and sample events.")
    ] = False,
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", help="Write a JSON file once everything serves.")
    ] = None,
    loop: Annotated[str, typer.Option("--loop", help="uvloop or asyncio; uvloop where it is installed.")] = "uvloop",
) -> None:
    """Consume events and deliver them until SIGTERM or Ctrl-C; a second one does not wait for requests under way.

    Example: dispatcher run --embedded --demo
    """
    if demo and not embedded:
        message = "needs --embedded"
        raise typer.BadParameter(message, param_hint="--demo")
    if loop not in ("uvloop", "asyncio"):
        message = "is uvloop or asyncio"
        raise typer.BadParameter(message, param_hint="--loop")
    from dispatcher.settings import load
    from dispatcher.telemetry.logs import set_up_logs

    settings = load(os.environ, embedded=embedded)
    logs = set_up_logs(settings.log.level if not demo else "warning", settings.log.format)
    try:
        if embedded:
            from dispatcher.cli.standalone import run_standalone

            run_standalone(settings, demo=demo, ready_file=ready_file, loop=loop, n_dropped_lines=lambda: logs.dropped)
        else:
            _run_configured(settings, ready_file=ready_file, loop=loop, n_dropped_lines=lambda: logs.dropped)
    finally:
        logs.flush()
    sys.exit(0)


def _run_configured(
    settings: "Settings", *, ready_file: Path | None, loop: str, n_dropped_lines: "Callable[[], int]"
) -> None:
    import asyncio

    from dispatcher.cli.daemon import describe, loop_factory, serve, write_ready_file

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(
            serve(
                settings,
                on_ready=lambda daemon: write_ready_file(ready_file, describe(settings, daemon)),
                n_dropped_lines=n_dropped_lines,
            )
        )
