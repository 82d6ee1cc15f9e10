"""`dispatcher openapi`: the API's document."""

from pathlib import Path
from typing import Annotated

import typer

from dispatcher.cli.output import say
from dispatcher.model.errors import DispatcherError


def openapi(
    file: Annotated[Path | None, typer.Option("--file", dir_okay=False, help="Write it there instead.")] = None,
) -> None:
    """Print the OpenAPI 3.1 document of the API, with the webhooks that endpoints get.

    Example: dispatcher openapi > openapi.json
    Example: dispatcher openapi --file openapi.json
    """
    from dispatcher.policy.schema_files import load_openapi, schema_folder

    document = load_openapi(schema_folder())
    if file is None:
        typer.echo(document.decode(), nl=False)
        return
    try:
        file.write_bytes(document)
    except OSError as fault:
        message = f"{file} cannot be written: {fault.strerror}"
        raise DispatcherError(message) from fault
    say(f"wrote {file}")
