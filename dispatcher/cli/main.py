"""The `dispatcher` command: one sub-command or group per module of this package.

Heavy imports live inside the commands, so that `--help` answers at once. Exit codes: 0 ok, 1 error, 2 usage,
3 condition not met.
"""

import sys
from typing import Annotated

import typer

from dispatcher import __version__
from dispatcher.cli import (
    accounts,
    config,
    dead_events,
    deliveries,
    endpoints,
    events,
    hosts,
    keys,
    migrate,
    receive,
    run,
    trigger,
    verify,
)
from dispatcher.model.errors import ConfigurationError, DispatcherError

app = typer.Typer(
    name="dispatcher",
    help="Deliver verification events from Kafka to customers' endpoints as signed webhooks.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("run")(run.run)
app.command("migrate")(migrate.migrate)
app.command("trigger")(trigger.trigger)
app.command("receive")(receive.receive)
app.command("verify")(verify.verify)
app.add_typer(config.app, name="config", help="Look at the settings.")
app.add_typer(accounts.app, name="accounts", help="Customers of the verification product.")
app.add_typer(keys.app, name="keys", help="API keys.")
app.add_typer(endpoints.app, name="endpoints", help="Where events are delivered to.")
app.add_typer(deliveries.app, name="deliveries", help="What was sent, what waits, what failed.")
app.add_typer(events.app, name="events", help="Events as they came in.")
app.add_typer(hosts.app, name="hosts", help="How fast the hosts of endpoints are sent to.")
app.add_typer(dead_events.app, name="dead-events", help="Records that could not become events.")


@app.command("version")
def version(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the version of the program.

    Example: dispatcher version
    """
    typer.echo(f'{{"version":"{__version__}"}}' if as_json else f"dispatcher {__version__}")


def main() -> None:
    """Run the command line; known errors become one readable message and exit code 1."""
    try:
        app()
    except ConfigurationError as fault:
        typer.echo("The configuration has faults:", err=True)
        for line in fault.faults:
            typer.echo(f"  - {line}", err=True)
        sys.exit(1)
    except DispatcherError as fault:
        typer.echo(f"Error: {fault}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(0)
