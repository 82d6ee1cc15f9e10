"""Dead events straight in the database, as the API shows them; nobody writes down who looked."""

import base64
import os
from typing import TYPE_CHECKING, Any

from dispatcher.cli.database import with_pool
from dispatcher.cli.listing import collect
from dispatcher.model.errors import DispatcherError
from dispatcher.model.ids import parse_dead_place

if TYPE_CHECKING:
    from dispatcher.ledger.connections import Pool
    from dispatcher.ledger.dead_events import DeadPlace, DeadRecordCopy, StoredDeadEvent


def rows(limit: int, *, every: bool) -> list[dict[str, Any]]:
    """Return dead events, latest first, one more than `limit` when there are more."""
    from dispatcher.ledger.dead_events import DeadEventLedger

    async def work(pool: "Pool") -> "list[StoredDeadEvent]":
        book = DeadEventLedger(pool)
        return await collect(
            lambda last, n: book.page(before=None if last is None else last.page_place, limit=n),
            limit=limit,
            every=every,
        )

    return [_shown(found) for found in with_pool(work)]


def read(event: str, *, value: bool) -> dict[str, Any]:
    """Return one dead event with its headers, and with its value in base64 when that is wanted.

    Raises:
        DispatcherError: there is no such dead event, or the key ring at hand does not open its value.
    """
    from dispatcher.ledger.dead_events import DeadEventLedger

    async def work(pool: "Pool") -> "DeadRecordCopy | None":
        return await DeadEventLedger(pool).find(await _place(pool, event))

    found = with_pool(work)
    if found is None:
        raise _not_there(event)
    row = _shown(found.facts)
    row["headers"] = [
        {"name": name, "value": None if text is None else text.decode("utf-8", "replace")}
        for name, text in found.header_pairs
    ]
    if value:
        opened = _open(found)
        row["value_base64"] = None if opened is None else base64.b64encode(opened).decode()
    return row


def redrive(event: str) -> dict[str, Any]:
    """Publish a dead event's record again and return where it stands now; one that fails to arrive can be redriven.

    Raises:
        DispatcherError: there is no such dead event, it was redriven before or is just now, or Kafka did not take it.
    """
    from dispatcher.ledger.dead_events import DeadEventLedger, HasArrived, UnderWay

    async def work(pool: "Pool") -> tuple[int, int] | UnderWay | HasArrived | None:
        return await DeadEventLedger(pool).redrive(await _place(pool, event), _publish)

    match with_pool(work):
        case None:
            raise _not_there(event)
        case HasArrived():
            message = f"{event} was redriven before; `dead-events show` tells when"
            raise DispatcherError(message)
        case UnderWay(seconds):
            message = (
                f"a redrive of {event} began just now: in {seconds} s another may begin, "
                "unless `dead-events show` has a redriven_at by then"
            )
            raise DispatcherError(message)
        case (partition, offset):
            return {"id": event, "object": "redriven_event", "partition": partition, "offset": offset}


def discard(event: str) -> None:
    """Delete a dead event for good. Raises DispatcherError when it is not there."""
    from dispatcher.ledger.dead_events import DeadEventLedger

    async def work(pool: "Pool") -> bool:
        return await DeadEventLedger(pool).discard(await _place(pool, event))

    if not with_pool(work):
        raise _not_there(event)


async def _place(pool: "Pool", text: str) -> "DeadPlace":
    from dispatcher.ledger.dead_events import DeadEventLedger

    where = parse_dead_place(text)
    places = [] if where is None else await DeadEventLedger(pool).places(*where)
    if not places:
        raise _not_there(text)
    return places[0]


def _not_there(event: str) -> DispatcherError:
    return DispatcherError(f"there is no dead event {event}; `dead-events list` shows them")


def _shown(found: "StoredDeadEvent") -> dict[str, Any]:
    return {
        "id": found.place.shown,
        "object": "dead_event",
        "reason": found.reason.value,
        "detail": found.detail,
        "key": None if found.key is None else found.key.decode("utf-8", "replace"),
        "has_value": found.has_value,
        "seen_at": found.seen_at,
        "redrive_began_at": found.redrive_began_at,
        "redriven_at": found.redriven_at,
    }


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
    from dispatcher.intake.producer import publish

    facts, value = found.facts, _open(found)
    return await publish(kafka_place().settings, facts.place.topic, value, key=facts.key, headers=found.header_pairs)
