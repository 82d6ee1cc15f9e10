"""`dispatcher version`."""

from typing import Annotated

import typer

from dispatcher import __version__
from dispatcher.cli.output import Form, FormOption, show_one


def version(
    as_json: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Print the version of the program.

    Example: dispatcher version
    Example: dispatcher version -o json
    """
    if output is Form.TABLE and not as_json:
        typer.echo(f"dispatcher {__version__}")
    else:
        show_one({"version": __version__}, Form.JSON if as_json else output)
