"""`dispatcher doctor`: look at everything that a dispatcher needs, and say what to do."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from dispatcher.cli.client import (
    ApiKeyOption,
    ApiUrlOption,
    EnvironmentOption,
    Profile,
    ProfileOption,
    profile,
)
from dispatcher.cli.output import Form, FormOption, say, show_rows
from dispatcher.cli.table import paint, plain
from dispatcher.model.errors import DispatcherError

if TYPE_CHECKING:
    from dispatcher.cli.checks.finding import Finding

_NOT_MET = 3


class Part(StrEnum):
    """What can be looked at."""

    SETTINGS = "settings"
    DATABASE = "database"
    KAFKA = "kafka"
    API = "api"
    EGRESS = "egress"


def doctor(
    parts: Annotated[
        list[Part] | None, typer.Argument(metavar="PART", help="settings, database, kafka, api, egress; or all.")
    ] = None,
    name: Annotated[str, typer.Option("--resolve", help="A public name that should resolve.")] = "example.com",
    url: Annotated[
        list[str] | None, typer.Option("--url", help="Dial this endpoint's host, TLS too; sends nothing. Repeat it.")
    ] = None,
    api_url: ApiUrlOption = None,
    api_key: ApiKeyOption = None,
    profile_name: ProfileOption = None,
    env: EnvironmentOption = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Look at everything that a dispatcher needs: each line is ok, warn or fail, with what to do about it.

    Changes nothing. Exits 3 when something fails, or when nothing could be looked at. Looks at what the environment
    configures, else at the embedded dispatcher of this folder.

    Example: dispatcher doctor
    Example: dispatcher doctor database kafka -o json
    Example: dispatcher doctor egress --url https://example.com/webhooks
    """
    try:
        who = profile(api_url, api_key, profile_name, env)
    except DispatcherError:
        who = None
    found = asyncio.run(_look(frozenset(parts or Part), who, name, url or ()))
    if output is Form.TABLE:
        _print(found)
    else:
        show_rows([one._asdict() for one in found], (), output)
    raise typer.Exit(exit_code(found))


async def _look(parts: Collection[Part], who: Profile | None, name: str, urls: Sequence[str]) -> "list[Finding]":
    from dispatcher.cli.checks.api import look_at_api
    from dispatcher.cli.checks.database import look_at_database
    from dispatcher.cli.checks.egress import look_at_egress
    from dispatcher.cli.checks.kafka import look_at_kafka
    from dispatcher.cli.checks.places import find_places

    places = find_places()
    found = list(places.findings) if Part.SETTINGS in parts or places.database_url is None else []
    looks: dict[Part, AsyncIterator[Finding]] = {
        Part.DATABASE: look_at_database(places),
        Part.KAFKA: look_at_kafka(places),
        Part.API: look_at_api(who),
        Part.EGRESS: look_at_egress(places, name=name, urls=urls),
    }
    for part, look in looks.items():
        if part in parts:
            found += [one async for one in look]
    return found


def exit_code(found: "Sequence[Finding]") -> int:
    """Return 3 when something fails, and when nothing could be looked at: then nobody knows that all is well."""
    return _NOT_MET if any(one.level == "fail" for one in found) or _saw_nothing(found) else 0


def _saw_nothing(found: "Sequence[Finding]") -> bool:
    return all(one.level == "skip" for one in found)


def _print(found: "Sequence[Finding]") -> None:
    width = max((len(one.check) for one in found), default=0)
    for one in found:
        typer.echo(f"{paint(f'{one.level:<4}')}  {one.check:<{width}}  {plain(one.detail)}")
        if one.cure is not None:
            typer.echo(f"{'':<{width + 6}}  -> {plain(one.cure)}")
    say(f"\n{summary(found)}")


def summary(found: "Sequence[Finding]") -> str:
    """Return how it all looks, in a few words."""
    if _saw_nothing(found):
        return "nothing could be looked at"
    n_skipped = sum(one.level == "skip" for one in found)
    counts = [f"{n} {level}" for level in ("fail", "warn") if (n := sum(one.level == level for one in found))]
    if n_skipped:
        counts.append(f"{n_skipped} not looked at" if counts else f"all is well but for {n_skipped} not looked at")
    return ", ".join(counts) or "all is well"
