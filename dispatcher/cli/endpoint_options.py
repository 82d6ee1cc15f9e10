"""What `endpoints add` and `endpoints update` have in common: the members of an endpoint, as people type them.

An empty text takes a member away; a list replaces the one that was there.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, TypeAlias

import typer

from dispatcher.cli.grammar import option, with_parameters
from dispatcher.cli.times import parse_duration


class PayloadMode(StrEnum):
    """What a request holds: the event's own facts, or everything."""

    THIN = "thin"
    FULL = "full"


Members: TypeAlias = dict[str, Any]
"""Members of an endpoint as the API takes them, those that were given."""

_OPTIONS: Final = (
    option("description", Annotated[str | None, typer.Option(help="A few words for the list; empty: none.")]),
    option(
        "headers",
        Annotated[
            list[str] | None, typer.Option("--header", help="'Name: value', sent along; empty: none. Repeat it.")
        ],
    ),
    option("rate_limit", Annotated[float | None, typer.Option(help="Requests per second at most; 0: no limit.")]),
    option(
        "schedule",
        Annotated[
            str | None,
            typer.Option(help="Wait before each attempt, like 0s,5s,5m,1h; empty: as for everybody.", metavar="WAITS"),
        ],
    ),
    option(
        "outcomes",
        Annotated[
            list[str] | None,
            typer.Option("--outcome", help="Only events with this outcome, like declined; empty: any. Repeat it."),
        ],
    ),
    option(
        "workflows",
        Annotated[
            list[str] | None,
            typer.Option("--workflow", help="Only events of this workflow; empty: any. Repeat it."),
        ],
    ),
    option(
        "metadata",
        Annotated[
            list[str] | None, typer.Option("--metadata", help="'name=value', for you alone; empty: none. Repeat it.")
        ],
    ),
    option("api_version", Annotated[str | None, typer.Option(help="Version of the events, like 2026-11-01.")]),
    option("payload_mode", Annotated[PayloadMode | None, typer.Option(help="What a request holds.")]),
)


def with_members(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that makes its `members` from options: those that adding and changing an endpoint share."""
    own = [one for name, one in inspect.signature(function).parameters.items() if name != "members"]
    at = [one.name for one in own].index("output")

    @functools.wraps(function)
    def command(*first: Any, **given: Any) -> Any:
        chosen = {one.name: given.pop(one.name) for one in _OPTIONS}
        return function(*first, members=_members(**chosen), **given)

    after = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own[at:]]
    return with_parameters(command, [*own[:at], *_OPTIONS, *after])


def _members(outcomes: list[str] | None, workflows: list[str] | None, **given: Any) -> Members:
    wish = {**given, "filter": _filter(outcomes, workflows)}
    return {name: _FORMS.get(name, _as_it_is)(value) for name, value in wish.items() if value is not None}


def _filter(outcomes: list[str] | None, workflows: list[str] | None) -> dict[str, list[str]] | None:
    """Return a filter of both; an empty one lets everything through, None was not given."""
    if outcomes is None and workflows is None:
        return None
    wanted = {"outcomes": _named(outcomes), "workflows": _named(workflows)}
    return {name: values for name, values in wanted.items() if values}


def _named(values: list[str] | None) -> list[str]:
    return [value for value in values or () if value]


def _as_it_is(value: Any) -> Any:
    return value


def _or_nothing(value: Any) -> Any:
    return value or None


def _headers(lines: list[str]) -> dict[str, str]:
    return dict(_pair(line, ":", "--header", "'Name: value'") for line in lines if line)


def _metadata(texts: list[str]) -> dict[str, str]:
    return dict(_pair(text, "=", "--metadata", "'name=value'") for text in texts if text)


def _pair(text: str, sign: str, option: str, form: str) -> tuple[str, str]:
    name, found, value = text.partition(sign)
    if not found or not name.strip():
        message = f"{text!r} does not look like {form}"
        raise typer.BadParameter(message, param_hint=option)
    return name.strip(), value.strip()


def _schedule(text: str) -> list[int] | None:
    waits = [parse_duration(part.strip()) for part in text.split(",")] if text else []
    whole = [int(wait) for wait in waits if wait is not None and wait.is_integer()]
    if len(whole) != len(waits):
        message = "must look like 0s,5s,5m,1h, in whole seconds"
        raise typer.BadParameter(message, param_hint="--schedule")
    return whole or None


_FORMS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "description": _or_nothing,
    "headers": _headers,
    "rate_limit": _or_nothing,
    "schedule": _schedule,
    "filter": _or_nothing,
    "metadata": _metadata,
}
