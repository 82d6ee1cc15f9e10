"""Questions before anything that cannot be taken back."""

import sys
from typing import Annotated

import typer

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def demand(question: str, *, yes: bool) -> None:
    """Return when the person agrees; ends the command otherwise, also where there is no terminal to ask on."""
    if yes:
        return
    if not sys.stdin.isatty():
        message = f"there is no terminal to ask on: {question} Give --yes to do it"
        raise typer.BadParameter(message, param_hint="--yes")
    typer.confirm(question, abort=True, err=True)
