"""`dispatcher run`: the daemon itself, on configured servers or on embedded ones, in one process or several."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dispatcher.cli.output import say
from dispatcher.model.errors import ConfigurationError

if TYPE_CHECKING:
    from dispatcher.cli.daemon import Course
    from dispatcher.settings import Role, Settings


def run(
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Start PostgreSQL and a Kafka-compatible broker as child processes.")
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="With --embedded: a receiver, two endpoints and sample events.")
    ] = False,
    roles: Annotated[
        str,
        typer.Option(
            "--roles",
            help="What this process does, comma list: ingest reads Kafka, deliver sends requests, api serves HTTP.",
        ),
    ] = "ingest,deliver,api",
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            min=1,
            max=64,
            help="Run as so many processes, one for each core; the first serves the API, the metrics ports count up.",
        ),
    ] = 1,
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", help="Write a JSON file once everything serves.")
    ] = None,
    loop: Annotated[str, typer.Option("--loop", help="uvloop or asyncio; uvloop where it is installed.")] = "uvloop",
    child: Annotated[int | None, typer.Option("--child", hidden=True, help="Number of this child process.")] = None,
    report_to: Annotated[int | None, typer.Option("--report-to", hidden=True, help="Its pipe to the parent.")] = None,
) -> None:
    """Consume events and deliver them until SIGTERM or Ctrl-C; a second one does not wait for requests under way.

    Example: dispatcher run --embedded --demo
    Example: dispatcher run --processes 4 --roles ingest,deliver
    """
    _refuse_contradictions(embedded=embedded, demo=demo, processes=processes, loop=loop)
    wanted = _roles(roles, processes)
    from dispatcher.cli.daemon import Course
    from dispatcher.telemetry.logs import set_up_logs

    settings = _settings(wanted, embedded=embedded, demo=demo)
    logs = set_up_logs(settings.log.level, settings.log.format)
    course = Course(wanted, processes, loop, ready_file, lambda: logs.dropped)
    try:
        if child is not None and report_to is not None:
            code = _run_child(settings, course, child, report_to, embedded=embedded)
        elif embedded:
            code = _run_embedded(settings, course, demo=demo)
        else:
            code = _run_configured(settings, course)
    finally:
        logs.flush()
    sys.exit(code)


def _refuse_contradictions(*, embedded: bool, demo: bool, processes: int, loop: str) -> None:
    if demo and not embedded:
        message = "needs --embedded"
        raise typer.BadParameter(message, param_hint="--demo")
    if demo and processes > 1:
        message = "shows one process; leave out --processes"
        raise typer.BadParameter(message, param_hint="--demo")
    if loop not in ("uvloop", "asyncio"):
        message = "must be uvloop or asyncio"
        raise typer.BadParameter(message, param_hint="--loop")


def _settings(roles: "frozenset[Role]", *, embedded: bool, demo: bool) -> "Settings":
    from dispatcher.settings import PREFIX, load

    try:
        settings = load(os.environ, embedded=embedded, roles=roles)
    except ConfigurationError:
        if not any(name.startswith(PREFIX) for name in os.environ):
            say(
                "Nothing is configured. To look around, `dispatcher run --embedded --demo` brings servers of its own.\n"
            )
        raise
    if not demo:
        return settings
    # It prints a line for each attempt itself.
    quiet = settings.log.model_copy(update={"level": "warning", "attempts": "none"})
    return settings.model_copy(update={"log": quiet})


def _roles(text: str, n_processes: int) -> "frozenset[Role]":
    from dispatcher.settings import Role

    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in set(Role)]
    if unknown or not names:
        told = f"{', '.join(unknown)} is no role; " if unknown else ""
        message = f"{told}give one or more of {', '.join(Role)}"
        raise typer.BadParameter(message, param_hint="--roles")
    roles = frozenset(Role(name) for name in names)
    if n_processes > 1 and roles == {Role.API}:
        message = "only the first of several processes serves the API: the others would have nothing to do"
        raise typer.BadParameter(message, param_hint="--processes")
    return roles


def _run_child(settings: "Settings", course: "Course", number: int, report_to: int, *, embedded: bool) -> int:
    from dispatcher.cli.supervisor import run_child

    run_child(settings, course, number, report_to, embedded=embedded)
    return 0


def _run_embedded(settings: "Settings", course: "Course", *, demo: bool) -> int:
    from dispatcher.cli.standalone import run_standalone

    return run_standalone(settings, course, demo=demo)


def _run_configured(settings: "Settings", course: "Course") -> int:
    import asyncio

    from dispatcher.cli.daemon import describe, loop_factory, serve, write_ready_file

    if course.n_processes > 1:
        from dispatcher.cli.supervisor import supervise_configured

        return asyncio.run(supervise_configured(settings, course))
    with asyncio.Runner(loop_factory=loop_factory(course.loop)) as runner:
        runner.run(
            serve(
                settings,
                course,
                on_ready=lambda daemon: write_ready_file(course.ready_file, describe(settings, course.roles, daemon)),
            )
        )
    return 0
