"""The `dispatcher` command: one sub-command or group per module of this package, loaded when it is named.

Exit codes: 0 ok, 1 error, 2 usage, 3 condition not met.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

import typer

from dispatcher.cli.lazy import Entry, LazyGroup
from dispatcher.model.errors import ConfigurationError, DispatcherError


class Commands(LazyGroup):
    """Every command, in the order of a first acquaintance."""

    entries: ClassVar[Mapping[str, Entry]] = {
        "run": Entry("dispatcher.cli.run:run", "Consume events and deliver them until SIGTERM or Ctrl-C."),
        "doctor": Entry("dispatcher.cli.doctor:doctor", "Look at everything a dispatcher needs, and say what to do."),
        "trigger": Entry("dispatcher.cli.trigger:trigger", "Publish a sample event and follow its deliveries."),
        "listen": Entry("dispatcher.cli.listen:listen", "Forward events to this machine, without a tunnel."),
        "receive": Entry("dispatcher.cli.receive:receive", "Receive webhooks on this machine, failing as asked."),
        "verify": Entry("dispatcher.cli.verify:verify", "Tell which rule of the signature a request breaks."),
        "endpoints": Entry("dispatcher.cli.endpoints:app", "Where events are delivered to."),
        "deliveries": Entry("dispatcher.cli.deliveries:app", "What was sent, what waits, what failed."),
        "attempts": Entry("dispatcher.cli.attempts:app", "Single requests as they were sent, and their answers."),
        "replays": Entry("dispatcher.cli.replays:app", "Events sent again or late, and how far that is."),
        "events": Entry("dispatcher.cli.events:app", "Events as they came in, and attempts as they are made."),
        "accounts": Entry("dispatcher.cli.accounts:app", "Customers of the verification product."),
        "keys": Entry("dispatcher.cli.keys:app", "API keys."),
        "users": Entry("dispatcher.cli.users:app", "People, each with a key of their own."),
        "hosts": Entry("dispatcher.cli.hosts:app", "How fast the hosts of endpoints are sent to."),
        "dead-events": Entry("dispatcher.cli.dead_events:app", "Records that could not become events."),
        "login": Entry("dispatcher.cli.login:login", "Keep the address and key of a dispatcher under a name."),
        "profile": Entry("dispatcher.cli.profiles:app", "Kept addresses and keys: list, use, remove."),
        "bench": Entry("dispatcher.cli.bench:bench", "Measure what this machine delivers, on servers of its own."),
        "openapi": Entry("dispatcher.cli.openapi:openapi", "Print the OpenAPI document of the API."),
        "config": Entry("dispatcher.cli.config:app", "Look at the settings, make a key ring."),
        "migrate": Entry("dispatcher.cli.migrate:migrate", "Apply the migrations that the database lacks."),
        "version": Entry("dispatcher.cli.version:version", "Print the version of the program."),
    }


app = typer.Typer(
    name="dispatcher",
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`dispatcher COMMAND --help` tells more, with examples.",
)


@app.callback()
def dispatcher() -> None:
    """Deliver verification events from Kafka to customers' endpoints as signed webhooks."""


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line, `words` or the process's own; known errors become one readable message and exit code 1."""
    try:
        app(words, prog_name="dispatcher")
    except ConfigurationError as fault:
        typer.echo("The configuration has faults:", err=True)
        for line in fault.faults:
            typer.echo(f"  - {line}", err=True)
        sys.exit(1)
    except DispatcherError as fault:
        typer.echo(f"Error: {fault}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as fault:
        # A file that was named and cannot be used is the caller's to mend; anything else is a bug of ours.
        if fault.filename is None:
            raise
        typer.echo(f"Error: {fault.filename}: {fault.strerror}", err=True)
        sys.exit(1)
