"""`dispatcher dead-events`: records that could not become events, straight in the database."""

import asyncio
import base64
import os
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.database import with_pool
from dispatcher.cli.grammar import Noun
from dispatcher.cli.listing import collect
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, show_done, show_one, show_page
from dispatcher.model.errors import DispatcherError

if TYPE_CHECKING:
    from dispatcher.ledger.connections import Pool
    from dispatcher.ledger.dead_events import DeadPlace, DeadRecordCopy, StoredDeadEvent

app = Noun()

_COLUMNS = ("id", "reason", "seen_at", "redriven_at", "detail…")

IdArgument = Annotated[str, typer.Argument(metavar="TOPIC/PARTITION/OFFSET", help="As `dead-events list` shows it.")]


@app.command("list")
def list_(
    limit: LimitOption = 50,
    every: AllOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """List dead events, latest first. Their values stay sealed.

    Example: dispatcher dead-events list -o jsonl
    """
    from dispatcher.ledger.dead_events import DeadEventLedger

    async def work(pool: "Pool") -> "list[StoredDeadEvent]":
        book = DeadEventLedger(pool)
        return await collect(
            lambda last, n: book.page(before=None if last is None else (last.seen_at, last.place), limit=n),
            limit=limit,
            every=every,
        )

    rows = [_shown(found) for found in with_pool(work)]
    show_page(rows, _COLUMNS, output, None if every else limit)


@app.command("show")
def show(
    event: IdArgument,
    value: Annotated[
        bool, typer.Option("--value", help="Open the sealed value too; it may hold personal data.")
    ] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Show one dead event with its headers.

    Example: dispatcher dead-events show verification.events.v1/3/1042 --value
    """
    from dispatcher.ledger.dead_events import DeadEventLedger

    async def work(pool: "Pool") -> "DeadRecordCopy | None":
        return await DeadEventLedger(pool).find(await _place(pool, event))

    found = with_pool(work)
    if found is None:
        raise _not_there(event)
    row = _shown(found.facts)
    row["headers"] = {name: None if text is None else text.decode("utf-8", "replace") for name, text in _headers(found)}
    if value:
        opened = _open(found)
        row["value"] = None if opened is None else opened.decode("utf-8", "replace")
    show_one(row, output)


@app.command("redrive")
def redrive(event: IdArgument, output: FormOption = Form.TABLE) -> None:
    """Publish a dead event's record to its topic again, once its cause is mended.

    Example: dispatcher dead-events redrive verification.events.v1/3/1042
    """
    from dispatcher.ledger.dead_events import DeadEventLedger

    async def work(pool: "Pool") -> tuple[int, int]:
        ledger = DeadEventLedger(pool)
        place = await _place(pool, event)
        found = await ledger.take(place)
        if found is None:
            message = f"{event} was redriven before; `dead-events show` tells when"
            raise DispatcherError(message)
        try:
            return await _publish(found)
        except BaseException:
            await asyncio.shield(ledger.put_back(place))
            raise

    partition, offset = with_pool(work)
    done = {"id": event, "redriven": True, "partition": partition, "offset": offset}
    show_done(done, f"published {event} again, as partition {partition} offset {offset}", output)


@app.command("discard")
def discard(event: IdArgument, yes: YesOption = False, output: FormOption = Form.TABLE) -> None:
    """Delete a dead event for good.

    Example: dispatcher dead-events discard verification.events.v1/3/1042
    """
    from dispatcher.ledger.dead_events import DeadEventLedger

    demand(f"Delete {event} for good?", yes=yes)

    async def work(pool: "Pool") -> bool:
        return await DeadEventLedger(pool).discard(await _place(pool, event))

    if not with_pool(work):
        raise _not_there(event)
    show_done({"id": event, "discarded": True}, f"discarded {event}", output)


async def _place(pool: "Pool", text: str) -> "DeadPlace":
    from dispatcher.ledger.dead_events import DeadEventLedger

    topic, partition, offset = ([*text.rsplit("/", 2), "", ""])[:3]
    if not (topic and partition.isdigit() and offset.isdigit()):
        message = "a dead event is named like verification.events.v1/3/1042"
        raise DispatcherError(message)
    places = await DeadEventLedger(pool).places(topic, int(partition), int(offset))
    if not places:
        raise _not_there(text)
    return places[0]


def _not_there(event: str) -> DispatcherError:
    return DispatcherError(f"there is no dead event {event}; `dead-events list` shows them")


def _shown(found: "StoredDeadEvent") -> dict[str, Any]:
    place = found.place
    return {
        "id": f"{place.topic}/{place.partition}/{place.offset}",
        "reason": found.reason.value,
        "detail": found.detail,
        "key": None if found.key is None else found.key.decode("utf-8", "replace"),
        "seen_at": found.seen_at,
        "redriven_at": found.redriven_at,
    }


def _headers(found: "DeadRecordCopy") -> list[tuple[str, bytes | None]]:
    return [(name, None if text is None else base64.b64decode(text)) for name, text in orjson.loads(found.headers)]


def _open(found: "DeadRecordCopy") -> bytes | None:
    from dispatcher.cli.client import ready_file
    from dispatcher.settings import load
    from dispatcher.vault import Vault

    if found.sealed_value is None:
        return None
    key_file = load(os.environ, required=False).secrets.key_file or ready_file().with_name("key-ring.json")
    return Vault.load(key_file).open(found.sealed_value, found.facts.place.seal)


async def _publish(found: "DeadRecordCopy") -> tuple[int, int]:
    from dispatcher.cli.kafka import kafka_place
    from dispatcher.intake.producer import Producer

    async with Producer(kafka_place().settings) as producer:
        return await producer.send(found.facts.place.topic, _open(found), key=found.facts.key, headers=_headers(found))
