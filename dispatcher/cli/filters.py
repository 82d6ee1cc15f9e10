"""The filters of the delivery and attempt logs as options, and times as the command line takes them."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeAlias

import typer

from dispatcher.cli.completing import delivery_states, outcomes, subscriptions
from dispatcher.cli.grammar import option, with_parameters
from dispatcher.cli.times import parse_moment
from dispatcher.kit import clock

TypesOption = Annotated[
    list[str] | None,
    typer.Option("--type", help="Only these types or groups. Repeat it.", autocompletion=subscriptions),
]
OutcomesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--outcome",
        help="Only these: 2xx, 3xx, 4xx, 5xx, no_answer, or a single one like http_429. Repeat it.",
        autocompletion=outcomes,
    ),
]
StatesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--status",
        help="pending, retrying, held, delivered, exhausted or canceled. Repeat it.",
        autocompletion=delivery_states,
    ),
]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="From then on: an age like 6h, or 2026-11-03T09:00:00Z.")
]
UntilOption = Annotated[str | None, typer.Option("--until", help="And before then, written like --since.")]
Wanted: TypeAlias = dict[str, Any]
"""The filters of a log as the API takes them."""

_OPTIONS: Final = (
    option("types", TypesOption),
    option("outcomes", OutcomesOption),
    option("since", SinceOption),
    option("until", UntilOption),
    option("event", Annotated[str | None, typer.Option("--event", help="Only of this event, evt_…")]),
    option("subject", Annotated[str | None, typer.Option("--subject", help="Only of this verification, by its id.")]),
    option(
        "client_reference",
        Annotated[
            str | None, typer.Option("--client-reference", help="Only of verifications that the customer calls so.")
        ],
    ),
    option(
        "test",
        Annotated[
            bool | None, typer.Option("--test/--no-test", help="Only what `endpoints test` sent, or nothing of it.")
        ],
    ),
)


def filtered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that makes its `wanted` from options: the filters that the delivery and attempt logs share."""
    own = [one for name, one in inspect.signature(function).parameters.items() if name != "wanted"]
    at = [one.name for one in own].index("limit")

    @functools.wraps(function)
    def command(*first: Any, **given: Any) -> Any:
        chosen = {one.name: given.pop(one.name) for one in _OPTIONS}
        return function(*first, wanted=_query(**chosen), **given)

    after = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own[at:]]
    return with_parameters(command, [*own[:at], *_OPTIONS, *after])


def _query(
    *,
    types: Sequence[str] | None,
    outcomes: Sequence[str] | None,
    since: str | None,
    until: str | None,
    event: str | None,
    subject: str | None,
    client_reference: str | None,
    test: bool | None,
) -> Wanted:
    return {
        "type": comma_list(types),
        "outcome": comma_list(outcomes),
        "since": None if since is None else instant(since, "--since"),
        "until": None if until is None else instant(until, "--until"),
        "event_id": event,
        "subject": subject,
        "client_reference": client_reference,
        "test": None if test is None else str(test).lower(),
    }


def comma_list(words: Sequence[str] | None) -> str | None:
    """Return an option that was repeated as the API takes a list; None when it was not given."""
    return ",".join(words) if words else None


def instant(text: str, option: str) -> str:
    """Return a moment as the API takes it; a usage error of that option when it is none."""
    moment = parse_moment(text, clock.utcnow())
    if moment is None:
        message = "must look like 6h or 2026-11-03T09:00:00Z"
        raise typer.BadParameter(message, param_hint=option)
    return moment.isoformat(timespec="milliseconds")
