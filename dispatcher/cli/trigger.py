"""`dispatcher trigger`: publish a realistic event through Kafka and follow its deliveries."""

import asyncio
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dispatcher.cli.client import ApiKeyOption, ApiUrlOption, Environment, EnvironmentOption, read_ready_file
from dispatcher.model.errors import DispatcherError

if TYPE_CHECKING:
    from dispatcher.intake.consumer import KafkaSettings
    from dispatcher.policy.samples import SampleRecord


def trigger(
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="Event type, like verification.completed.")],
    outcome: Annotated[str | None, typer.Option(help="approved, declined or inconclusive.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Set a field: data.verification.revision=8. Repeat it.")
    ] = None,
    account: Annotated[str | None, typer.Option(help="acct_… it belongs to; the embedded one's by itself.")] = None,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many.")] = 1,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait and show what became of it.")] = True,
    env: EnvironmentOption = Environment.TEST,
    api_url: ApiUrlOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Publish a sample event to Kafka as a producer would, and show its deliveries.

    Example: dispatcher trigger verification.completed --outcome declined
    """
    import secrets

    from dispatcher.kit import clock
    from dispatcher.model.ids import event_id_of, show_event_id
    from dispatcher.policy.samples import SOURCE, parse_changes, sample_record

    kafka, topic, own_account = _kafka()
    account = account or own_account
    if account is None:
        message = "say which account the event belongs to"
        raise typer.BadParameter(message, param_hint="--account")
    example = _example(event_type)
    try:
        wanted = parse_changes(changes or (), outcome)
        tokens = [secrets.token_hex(8) for _ in range(count)]
        records = [
            sample_record(
                example, account=account, environment=env.value, token=token, now=clock.utcnow(), changes=wanted
            )
            for token in tokens
        ]
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--set") from fault
    asyncio.run(_send(kafka, topic, records))
    ids = [show_event_id(event_id_of(SOURCE, token)) for token in tokens]
    for one in ids[:10]:
        typer.echo(f"published {event_type} {one} to {topic}", err=True)
    if follow and count == 1:
        _follow(ids[0], event_type, env, api_url, api_key)


def _kafka() -> "tuple[KafkaSettings, str, str | None]":
    from dispatcher.intake.consumer import KafkaSettings, kafka_settings
    from dispatcher.settings import load

    if "DISPATCHER_KAFKA__BOOTSTRAP_SERVERS" not in os.environ and "DISPATCHER_CONFIG" not in os.environ:
        ready = read_ready_file()
        if ready is not None and ready["kafka_bootstrap"]:
            return (
                KafkaSettings(ready["kafka_bootstrap"], tuple(ready["topics"]), "trigger"),
                ready["topics"][0],
                ready["account_id"],
            )
    settings = load(os.environ, required=False)
    if not settings.kafka.bootstrap_servers:
        message = "no Kafka is known: start `dispatcher run --embedded`, or set DISPATCHER_KAFKA__BOOTSTRAP_SERVERS"
        raise DispatcherError(message)
    return kafka_settings(settings), settings.kafka.topics[0], None


def _example(event_type: str) -> bytes:
    from dispatcher.policy.catalogue import Catalogue
    from dispatcher.policy.schema_files import load_catalogue, load_example, schema_folder

    folder = schema_folder()
    catalogue = Catalogue.from_document(load_catalogue(folder))
    found = catalogue.find(event_type)
    if found is None:
        near = ", ".join(catalogue.nearest(event_type))
        message = f"{event_type} is no event type; did you mean {near}?" if near else f"{event_type} is no event type"
        raise typer.BadParameter(message, param_hint="TYPE")
    if catalogue.from_producer(event_type) is None:
        message = f"{event_type} is made by the dispatcher itself, never by producers"
        raise typer.BadParameter(message, param_hint="TYPE")
    return load_example(folder, event_type)


async def _send(kafka: "KafkaSettings", topic: str, records: "list[SampleRecord]") -> None:
    from dispatcher.intake.producer import Producer

    async with Producer(kafka) as producer:
        for record in records:
            await producer.send(topic, record.value, key=record.key, headers=record.headers)


def _follow(event_id: str, event_type: str, env: Environment, api_url: str | None, api_key: str | None) -> None:
    """Wait up to ten seconds for the event's deliveries and print what became of each."""
    import time

    from dispatcher.cli.client import call, collect, profile
    from dispatcher.cli.output import Form, show_rows

    who = profile(api_url, api_key, env)
    endpoints = collect(who, "/v1/webhook_endpoints", {}, 50)
    give_up = time.monotonic() + 10
    rows: list[dict[str, Any]] = []
    while time.monotonic() < give_up:
        rows = []
        for endpoint in endpoints:
            page = call(who, "GET", f"/v1/webhook_endpoints/{endpoint['id']}/deliveries?limit=25")
            rows += [{**row, "url": endpoint["url"]} for row in page["data"] if row["event_id"] == event_id]
        if rows and all(row["status"] != "pending" for row in rows):
            break
        time.sleep(0.1)
    if not rows:
        typer.echo(f"no endpoint got {event_type}: none is subscribed, or the event is still on its way", err=True)
        return
    show_rows(rows, ("id", "status", "attempts", "url", "next_attempt_at"), Form.TABLE)
