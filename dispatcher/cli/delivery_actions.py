"""`dispatcher deliveries resend|retry|cancel`: what a person does about single deliveries."""

from typing import Annotated

import typer

from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.client import Api, path_to
from dispatcher.cli.output import Form, FormOption, show_rows

_COLUMNS = ("id", "status", "attempts", "next_attempt_at", "event_type…", "endpoint_id")

DeliveriesArgument = Annotated[list[str], typer.Argument(metavar="DELIVERY", help="Ids, dlv_…", show_default=False)]


def resend(api: Api, deliveries: DeliveriesArgument, output: FormOption = Form.TABLE) -> None:
    """Send finished deliveries again: at once, then by their schedule.

    Example: dispatcher deliveries resend dlv_74pqhkj2n3or4
    """
    _each(api, deliveries, "resend", output)


def retry(api: Api, deliveries: DeliveriesArgument, output: FormOption = Form.TABLE) -> None:
    """Try waiting deliveries now instead of when they are due.

    Example: dispatcher deliveries retry dlv_74pqhkj2n3or4
    """
    _each(api, deliveries, "retry", output)


def cancel(api: Api, deliveries: DeliveriesArgument, yes: YesOption = False, output: FormOption = Form.TABLE) -> None:
    """Cancel open deliveries; one that is being sent right now, as soon as that has failed.

    Example: dispatcher deliveries cancel dlv_74pqhkj2n3or4 --yes
    """
    demand(f"Cancel {', '.join(deliveries)}? What is canceled is not sent by itself any more.", yes=yes)
    _each(api, deliveries, "cancel", output)


def _each(api: Api, deliveries: list[str], deed: str, output: Form) -> None:
    """Do one after the other; the first that is refused ends it, and those before are done."""
    show_rows([api.call("POST", path_to("deliveries", one, deed)) for one in deliveries], _COLUMNS, output)
