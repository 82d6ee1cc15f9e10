"""`dispatcher endpoints pause|resume|disable|enable`: what an endpoint misses meanwhile is kept."""

from typing import Annotated, Any

import typer

from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.client import Api, path_to
from dispatcher.cli.completing import endpoint_ids
from dispatcher.cli.output import Form, FormOption, say, show_one

EndpointArgument = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="Id, we_…", autocompletion=endpoint_ids, show_default=False)
]


def pause(api: Api, endpoint: EndpointArgument, output: FormOption = Form.TABLE) -> None:
    """Send nothing to an endpoint for now; its events are kept, and sent once it is resumed.

    Example: dispatcher endpoints pause we_3JqPz7LmA0
    """
    _change(api, endpoint, "paused", output)


def disable(api: Api, endpoint: EndpointArgument, output: FormOption = Form.TABLE) -> None:
    """Take an endpoint out of service; its events are kept, and sent once it is enabled.

    Example: dispatcher endpoints disable we_3JqPz7LmA0
    """
    _change(api, endpoint, "disabled", output)


def resume(api: Api, endpoint: EndpointArgument, output: FormOption = Form.TABLE) -> None:
    """End a pause; what was kept meanwhile is sent at the endpoint's own rate.

    Example: dispatcher endpoints resume we_3JqPz7LmA0
    """
    _enable(api, endpoint, output)


def enable(
    api: Api,
    endpoint: EndpointArgument,
    skip_held: Annotated[bool, typer.Option("--skip-held", help="Cancel what was kept instead of sending it.")] = False,
    yes: YesOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Put an endpoint into service again; what was kept meanwhile is sent at its own rate.

    Example: dispatcher endpoints enable we_3JqPz7LmA0
    Example: dispatcher endpoints enable we_3JqPz7LmA0 --skip-held --yes
    """
    if not skip_held:
        _enable(api, endpoint, output)
        return
    demand(f"Never send the {_held(api, endpoint)} events that {endpoint} missed?", yes=yes)
    _change(api, endpoint, "enabled", output, query="?replay=none")


def _enable(api: Api, endpoint: str, output: Form) -> None:
    held = _held(api, endpoint)
    _change(api, endpoint, "enabled", output)
    if held != "0" and output is Form.TABLE:
        were = "event was kept and is" if held == "1" else "events were kept and are"
        say(f"\n{held} {were} being sent; `dispatcher replays list` shows how far that is")


def _held(api: Api, endpoint: str) -> str:
    found = api.get(path_to("webhook_endpoints", endpoint, "held"))
    return f"{'at least ' if found['at_least'] else ''}{found['count']}"


def _change(api: Api, endpoint: str, status: str, output: Form, *, query: str = "") -> None:
    body: dict[str, Any] = {"status": status}
    show_one(api.call("PATCH", path_to("webhook_endpoints", endpoint) + query, body), output)
