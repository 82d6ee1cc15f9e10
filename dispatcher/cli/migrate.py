"""`dispatcher migrate`: bring the database's schema forward."""

import asyncio
from typing import Annotated

import typer

from dispatcher.cli.database import database_url
from dispatcher.cli.output import Form, FormOption, say, show_rows


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 3 when migrations are missing.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Apply the migrations that the database lacks; several processes may call this at once.

    Each tells the schema of the oldest programs that may run beside it: older ones have to end before.

    Example: dispatcher migrate
    Example: dispatcher migrate --check
    """
    from dispatcher.ledger.migrate import migrate as apply
    from dispatcher.ledger.migrate import pending

    url = database_url()
    found = asyncio.run(pending(url) if check else apply(url))
    word = "missing" if check else "applied"
    if output is Form.TABLE:
        for migration in found:
            say(f"{word} {migration.version:04d} {migration.name} (bears {migration.bears:04d})")
        if not found:
            say("the schema is up to date")
    else:
        rows = [{"version": one.version, "name": one.name, "bears": one.bears, "state": word} for one in found]
        show_rows(rows, (), output)
    if check and found:
        raise typer.Exit(3)
