"""`dispatcher trigger`: publish a realistic event through Kafka and follow its deliveries to the end."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dispatcher.cli.client import (
    Api,
    ApiKeyOption,
    ApiUrlOption,
    Environment,
    EnvironmentOption,
    ProfileOption,
    profile,
)
from dispatcher.cli.completing import event_types
from dispatcher.cli.kafka import KafkaPlace, kafka_place
from dispatcher.cli.output import Form, FormOption, say, show_rows
from dispatcher.cli.progress import Progress
from dispatcher.cli.times import parse_duration

if TYPE_CHECKING:
    from dispatcher.cli.following import Ending, Follower
    from dispatcher.cli.trials import Trial

_COLUMNS: Final = ("id", "status", "attempts", "url…", "next_attempt_at")
_MOST_NAMED: Final = 10
_NOT_MET: Final = 3


def trigger(
    event_type: Annotated[
        str, typer.Argument(metavar="TYPE", help="Like verification.completed.", autocompletion=event_types)
    ],
    outcome: Annotated[str | None, typer.Option(help="approved, declined or inconclusive.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Set a field: data.verification.revision=8. Repeat it.")
    ] = None,
    account: Annotated[str | None, typer.Option(help="acct_… it belongs to; the embedded one's by itself.")] = None,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many.")] = 1,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Publish so many per second; at once by itself.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait and show what became of it.")] = True,
    wait: Annotated[str, typer.Option("--wait", help="Follow no longer than this, like 90s or 10m.")] = "30s",
    env: EnvironmentOption = None,
    api_url: ApiUrlOption = None,
    api_key: ApiKeyOption = None,
    profile_name: ProfileOption = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Publish sample events to Kafka as a producer would, and follow their deliveries to the end.

    Exits 3 when a delivery ended otherwise than delivered, or had not ended when the wait was over.

    Example: dispatcher trigger verification.completed --outcome declined
    Example: dispatcher trigger verification.completed --set data.verification.client_reference=user-4711
    Example: dispatcher trigger verification.created --count 200 --rate 50 --wait 2m
    """
    from dispatcher.cli.following import Follower
    from dispatcher.cli.trials import make_trials

    seconds = parse_duration(wait)
    if seconds is None:
        message = "must look like 90s or 10m"
        raise typer.BadParameter(message, param_hint="--wait")
    place = kafka_place()
    who = profile(api_url, api_key, profile_name, env) if follow else None
    environment = env or (who and who.environment) or Environment.TEST
    owner = account or place.account
    if owner is None:
        message = "say which account the event belongs to"
        raise typer.BadParameter(message, param_hint="--account")
    trials = make_trials(event_type, changes or (), outcome, account=owner, environment=environment, n=count)
    with nullcontext() if who is None else Api(who) as api:
        follower = None if api is None else Follower(api)
        _publish(place, trials, rate)
        _tell(trials, event_type, place.topic)
        if follower is None:
            if output is not Form.TABLE:
                show_rows([{"event_id": one.event_id} for one in trials], (), output)
            return
        ending = _follow(follower, [one.event_id for one in trials], event_type, seconds)
    _show(ending, event_type, seconds, output)


def _publish(place: KafkaPlace, trials: "Sequence[Trial]", rate: float | None) -> None:
    with Progress(len(trials)) as progress:
        asyncio.run(_send(place, trials, rate, progress))


async def _send(place: KafkaPlace, trials: "Sequence[Trial]", rate: float | None, progress: Progress) -> None:
    from dispatcher.intake.producer import Producer

    async with Producer(place.settings) as producer:
        loop = asyncio.get_running_loop()
        started = loop.time()
        for n, trial in enumerate(trials):
            if rate is not None:
                await asyncio.sleep(started + n / rate - loop.time())
            record = trial.record
            await producer.send(place.topic, record.value, key=record.key, headers=record.headers)
            progress.move(n + 1, "published")


def _tell(trials: "Sequence[Trial]", event_type: str, topic: str) -> None:
    for one in trials[:_MOST_NAMED]:
        say(f"published {event_type} {one.event_id} to {topic}")
    if len(trials) > _MOST_NAMED:
        say(f"and {len(trials) - _MOST_NAMED} more")


def _follow(follower: "Follower", events: Sequence[str], event_type: str, seconds: float) -> "Ending":
    with Progress(len(events)) as progress:

        def tell(counts: Any) -> None:
            n_open = sum(n for state, n in counts.items() if state in ("pending", "retrying"))
            n_all = sum(counts.values())
            words = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
            progress.move(len(events) * (n_all - n_open) // n_all if n_all else 0, words)

        return follower.follow(events, event_type, seconds=seconds, tell=tell)


def _show(ending: "Ending", event_type: str, seconds: float, output: Form) -> None:
    rows = ending.deliveries
    if output is not Form.TABLE:
        show_rows(rows, (), output)
    elif len(rows) <= _MOST_NAMED:
        if rows:
            show_rows(rows, _COLUMNS, output)
    else:
        bad = [one for one in rows if one["status"] != "delivered"]
        say(f"{len(rows)} deliveries, {len(rows) - len(bad)} delivered")
        if bad:
            show_rows(bad[: 2 * _MOST_NAMED], _COLUMNS, output)
    if ending.missing:
        say(
            f"{len(ending.missing)} of the events were not stored within {seconds:g} s: does a process with the role "
            "ingest run, and is the account right? `dispatcher doctor kafka` looks closer"
        )
    elif not ending.is_whole:
        say(f"more was delivered meanwhile than could be read in {seconds:g} s; some may not be counted here")
    elif not rows:
        say(f"no endpoint got {event_type}: none that is enabled is subscribed to it")
    if not ending.is_good:
        raise typer.Exit(_NOT_MET)
