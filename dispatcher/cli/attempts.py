"""`dispatcher attempts`: the single requests that were made, and what was answered, through the API."""

from typing import Annotated

import typer

from dispatcher.cli.attempt_view import print_attempt
from dispatcher.cli.client import Api, path_to
from dispatcher.cli.completing import endpoint_ids
from dispatcher.cli.filters import Wanted, filtered
from dispatcher.cli.grammar import Noun
from dispatcher.cli.listing import show_list
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, show_one

app = Noun()

_COLUMNS = (
    "delivery_id",
    "attempt",
    "started_at",
    "outcome",
    "status_code",
    "duration_ms",
    "verdict",
    "event_type…",
    "reason…",
)


@app.command("list")
@filtered
def list_(
    api: Api,
    wanted: Wanted,
    endpoint: Annotated[str, typer.Option("--endpoint", help="Id of the endpoint, we_…", autocompletion=endpoint_ids)],
    limit: LimitOption = 25,
    every: AllOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """List the requests made to an endpoint, newest first. `events tail` follows them as they are made.

    Example: dispatcher attempts list --endpoint we_3JqPz7LmA0
    Example: dispatcher attempts list --endpoint we_3JqPz7LmA0 --outcome 5xx --outcome no_answer --since 6h
    """
    path = path_to("webhook_endpoints", endpoint, "attempts")
    show_list(api, path, _COLUMNS, output, limit=limit, every=every, **wanted)


@app.command("show")
def show(
    api: Api,
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="Id, dlv_…", show_default=False)],
    number: Annotated[
        int, typer.Argument(metavar="N", min=1, help="Which of its attempts; the first is 1.", show_default=False)
    ],
    output: FormOption = Form.TABLE,
) -> None:
    """Show one attempt whole: the request as it was sent, how long each phase took, and the answer.

    Values of the endpoint's own headers are masked. Bodies need a key with the scope payloads:read.

    Example: dispatcher attempts show dlv_74pqhkj2n3or4 1
    """
    found = api.get(path_to("deliveries", delivery, "attempts", number))
    if output is Form.TABLE:
        print_attempt(found)
    else:
        show_one(found, output)
