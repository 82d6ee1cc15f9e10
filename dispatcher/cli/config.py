"""`dispatcher config`: look at the settings, make a key ring."""

import os
from pathlib import Path
from typing import Annotated

import typer

from dispatcher.cli.grammar import Noun
from dispatcher.cli.output import Form, FormOption, show_done, show_rows
from dispatcher.model.errors import DispatcherError

app = Noun()


@app.command("check")
def check(
    embedded: Annotated[bool, typer.Option("--embedded", help="As `run --embedded` would see it.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Print the effective settings and where each comes from; every fault at once, exit 1.

    Example: dispatcher config check -o json
    """
    from dispatcher.settings import effective, load
    from dispatcher.vault import Vault

    settings = load(os.environ, embedded=embedded)
    if settings.secrets.key_file is not None:
        Vault.load(settings.secrets.key_file)
    rows = [{"key": key, "value": value, "source": source} for key, value, source in effective(settings)]
    show_rows(rows, ("key", "source", "value…"), output)


@app.command("make-key-ring")
def make_key_ring(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write; must not exist.")],
    output: FormOption = Form.TABLE,
) -> None:
    """Write a key ring with one new random key, readable by you alone. Keep a copy: without it no secret opens.

    Example: dispatcher config make-key-ring /etc/dispatcher/keys.json
    """
    from dispatcher.vault import Vault

    try:
        Vault.create_file(path)
    except OSError as fault:
        message = f"{path} cannot be written: {fault.strerror}"
        raise DispatcherError(message) from fault
    show_done({"path": str(path)}, f"wrote {path}", output)


@app.command("table", hidden=True)
def table() -> None:
    """Print the Markdown table of all settings that the README holds.

    Example: dispatcher config table
    """
    from dispatcher.settings import settings_table

    typer.echo(settings_table())
