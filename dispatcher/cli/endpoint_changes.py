"""`dispatcher endpoints update|rotate-secret`: change an endpoint without losing its id, secret or history."""

from typing import Annotated, Final

import typer

from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.client import Api, path_to
from dispatcher.cli.completing import subscriptions
from dispatcher.cli.endpoint_options import Members, with_members
from dispatcher.cli.endpoint_states import EndpointArgument
from dispatcher.cli.output import Form, FormOption, say, show_one
from dispatcher.cli.times import parse_duration

_LONGEST_OVERLAP_SECONDS: Final = 604_800


@with_members
def update(
    api: Api,
    endpoint: EndpointArgument,
    *,
    members: Members,
    url: Annotated[str | None, typer.Option(help="Send there from now on; at another host say --header again.")] = None,
    events: Annotated[
        list[str] | None,
        typer.Option("--events", "-e", help="Replaces the list. Repeat it.", autocompletion=subscriptions),
    ] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Change some members of an endpoint; what is not named stays, and what is named is replaced as a whole.

    Waiting deliveries move along to a new URL. Header values do not to another host: give them again, or --header ''.

    Example: dispatcher endpoints update we_3JqPz7LmA0 --url https://example.com/hooks
    Example: dispatcher endpoints update we_3JqPz7LmA0 -e 'verification.*' -e check.completed --rate-limit 5
    Example: dispatcher endpoints update we_3JqPz7LmA0 --schedule 0s,5s,5m,1h --outcome declined --metadata team=risk
    Example: dispatcher endpoints update we_3JqPz7LmA0 --schedule '' --outcome ''
    """
    body = {**members, **({} if url is None else {"url": url}), **({"events": events} if events else {})}
    if not body:
        message = "say what to change, like --url, --events or --rate-limit; --help lists it all"
        raise typer.BadParameter(message)
    show_one(api.call("PATCH", path_to("webhook_endpoints", endpoint), body), output)


def rotate_secret(
    api: Api,
    endpoint: EndpointArgument,
    overlap: Annotated[str, typer.Option(help="The present secret signs on for so long; 0s when it leaked.")] = "24h",
    force: Annotated[bool, typer.Option("--force", help="Even if two are in force; the older one ends.")] = False,
    yes: YesOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Give an endpoint a new signing secret and print it, this once.

    Requests are signed with both while the overlap lasts. Without an overlap, or by force, it asks first.

    Example: dispatcher endpoints rotate-secret we_3JqPz7LmA0 --overlap 3d
    Example: dispatcher endpoints rotate-secret we_3JqPz7LmA0 --overlap 0s --yes
    """
    seconds = parse_duration(overlap)
    if seconds is None or seconds > _LONGEST_OVERLAP_SECONDS or seconds != int(seconds):
        message = "must look like 0s, 1h or 7d, which is the longest, in whole seconds"
        raise typer.BadParameter(message, param_hint="--overlap")
    if seconds == 0 or force:
        demand(f"End a secret of {endpoint} now? Receivers that still use it refuse what comes next.", yes=yes)
    body = {"expires_in": int(seconds), "force": force}
    show_one(api.call("POST", path_to("webhook_endpoints", endpoint, "rotate_secret"), body), output)
    if output is Form.TABLE:
        say("\nStore the secret now: it is not shown again.")
