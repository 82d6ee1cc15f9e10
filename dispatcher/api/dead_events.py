"""Dead events for operators: records that could not become events, looked at, given to Kafka again, thrown away."""

import base64
from typing import Any, Final, Literal
from urllib.parse import unquote

from dispatcher.api.call import Answer, Call
from dispatcher.api.cursors import from_micros, to_micros
from dispatcher.api.models import Incoming, Instant, Outgoing
from dispatcher.api.problems import Problem, ProblemCode, not_found
from dispatcher.api.shapes import show_instant
from dispatcher.ledger.dead_events import (
    DeadEventLedger,
    DeadPlace,
    DeadRecordCopy,
    HasArrived,
    StoredDeadEvent,
    UnderWay,
)
from dispatcher.ledger.deeds import Action
from dispatcher.model.errors import SealBroken
from dispatcher.model.event import DeadReason
from dispatcher.model.ids import parse_dead_place

_PLACE_LENGTH: Final = 5


class DeadEventQuery(Incoming):
    """`value=true` opens the value, which may hold personal data; that is written down."""

    value: Literal["true", "false"] = "false"


class DeadEventShown(Outgoing):
    """A dead event, `topic/partition/offset`, without its value. `detail` names fields, never what is in them.

    `redriven_at`: Kafka acknowledged the record. `redrive_began_at` without it: under way, or cut off; a minute later
    it can be redriven again.
    """

    id: str
    object: Literal["dead_event"]
    reason: DeadReason
    detail: str
    key: str | None
    has_value: bool
    seen_at: Instant
    redrive_began_at: Instant | None
    redriven_at: Instant | None


class DeadHeaderShown(Outgoing):
    """One header of the record, as text."""

    name: str
    value: str | None


class DeadEventDetailShown(DeadEventShown):
    """One dead event with its headers, and its value in base64 when that was asked for and there is one."""

    headers: list[DeadHeaderShown]
    value_base64: str | None = None


class DeadEventList(Outgoing):
    """A page of dead events, latest first."""

    data: list[DeadEventShown]
    next: str | None


class RedrivenShown(Outgoing):
    """Where in its topic the record stands now."""

    id: str
    object: Literal["redriven_event"]
    partition: int
    offset: int


async def list_dead_events(call: Call) -> Answer:
    """List dead events, latest first; their values stay sealed."""
    cursors, limit = call.cursors("dead_events"), call.query.limit
    before = None
    if call.query.after is not None:
        micros, *place = cursors.read(call.query.after, _PLACE_LENGTH)
        before = from_micros(micros), DeadPlace(*place)
    found = await DeadEventLedger(call.services.pool).page(before=before, limit=limit + 1)
    page = found[:limit]
    following = cursors.show([to_micros(page[-1].seen_at), *page[-1].place]) if len(found) > limit else None
    return Answer({"data": [_show(one) for one in page], "next": following})


async def read_dead_event(call: Call) -> Answer:
    """Show one dead event; its value only when asked for, which the audit log tells."""
    ledger, place = DeadEventLedger(call.services.pool), await _place(call)
    if call.query.value == "false":
        found = await ledger.find(place)
    else:
        found = await ledger.look_inside(call.deed(Action.DEAD_EVENT_OPENED), place)
    if found is None:
        raise not_found()
    headers = [
        {"name": name, "value": None if value is None else value.decode("utf-8", "replace")}
        for name, value in found.header_pairs
    ]
    shown = {**_show(found.facts), "headers": headers}
    if call.query.value == "true":
        value = _open(call, found)
        shown["value_base64"] = None if value is None else base64.b64encode(value).decode()
    return Answer(shown)


async def redrive_dead_event(call: Call) -> Answer:
    """Publish a dead event's record to its topic again, until Kafka has acknowledged it: who comes later is told so.

    What Kafka does not acknowledge in time may be redriven again, and may have arrived all the same; so may, a minute
    later, what a process died over. The events of a record that Kafka has twice are one.
    """
    publish = call.services.publish
    if publish is None:
        raise Problem(ProblemCode.NO_KAFKA, "it knows no Kafka; ask a process that reads from it")
    place = await _place(call)
    done = await DeadEventLedger(call.services.pool).redrive(
        place,
        lambda found: publish(place.topic, _open(call, found), key=found.facts.key, headers=found.header_pairs),
        deed=call.deed(Action.DEAD_EVENT_REDRIVEN),
        put_back=call.deed(Action.DEAD_EVENT_PUT_BACK),
    )
    match done:
        case None:
            raise not_found()
        case HasArrived():
            raise Problem(ProblemCode.REDRIVEN_BEFORE, "`redriven_at` tells when")
        case UnderWay(seconds):
            detail = f"in {seconds} s another may begin, unless `redriven_at` is set by then"
            raise Problem(ProblemCode.REDRIVE_UNDER_WAY, detail, headers={"Retry-After": str(seconds)})
        case (partition, offset):
            shown = {"id": place.shown, "object": "redriven_event", "partition": partition, "offset": offset}
            return Answer(shown, 202)


async def discard_dead_event(call: Call) -> Answer:
    """Delete a dead event for good."""
    deed = call.deed(Action.DEAD_EVENT_DISCARDED)
    if not await DeadEventLedger(call.services.pool).discard(await _place(call), deed=deed):
        raise not_found()
    return Answer(None, 204)


async def _place(call: Call) -> DeadPlace:
    where = parse_dead_place(unquote(call.path["place"]))
    places = [] if where is None else await DeadEventLedger(call.services.pool).places(*where)
    if not places:
        raise not_found()
    return places[0]


def _open(call: Call, found: DeadRecordCopy) -> bytes | None:
    if found.sealed_value is None:
        return None
    try:
        return call.services.vault.open(found.sealed_value, found.facts.place.seal)
    except SealBroken as fault:
        raise Problem(ProblemCode.UNAVAILABLE, "its value cannot be opened just now") from fault


def _show(found: StoredDeadEvent) -> dict[str, Any]:
    return {
        "id": found.place.shown,
        "object": "dead_event",
        "reason": found.reason,
        "detail": found.detail,
        "key": None if found.key is None else found.key.decode("utf-8", "replace"),
        "has_value": found.has_value,
        "seen_at": show_instant(found.seen_at),
        "redrive_began_at": show_instant(found.redrive_began_at),
        "redriven_at": show_instant(found.redriven_at),
    }
