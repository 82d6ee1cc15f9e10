"""`dispatcher migrate`: bring the database's schema forward."""

import asyncio
import os
from typing import Annotated

import typer


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 3 when migrations are missing.")] = False,
) -> None:
    """Apply the migrations that the database lacks; several processes may call this at once.

    Example: dispatcher migrate --check
    """
    from dispatcher.ledger.migrate import migrate as apply
    from dispatcher.ledger.migrate import pending
    from dispatcher.settings import load

    url = load(os.environ, required=False).database_url()
    missing = asyncio.run(pending(url) if check else apply(url))
    word = "missing" if check else "applied"
    for migration in missing:
        typer.echo(f"{word} {migration.version:04d} {migration.name}", err=True)
    if not missing:
        typer.echo("the schema is up to date", err=True)
    elif check:
        raise typer.Exit(3)
