"""`dispatcher openapi`: the API's document."""

import typer


def openapi() -> None:
    """Print the OpenAPI 3.1 document of the API, with the webhooks that endpoints get.

    Example: dispatcher openapi > openapi.json
    """
    from dispatcher.policy.schema_files import load_openapi, schema_folder

    typer.echo(load_openapi(schema_folder()).decode(), nl=False)
