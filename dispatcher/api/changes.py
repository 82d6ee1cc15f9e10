"""The status of an endpoint: pause it, disable it, put it into service again, and what it holds meanwhile."""

import datetime as dt
from collections.abc import Collection
from typing import Literal

from dispatcher.api.call import Answer, Call
from dispatcher.api.models import Incoming, Outgoing
from dispatcher.api.problems import Fault, Problem, ProblemCode, not_found
from dispatcher.api.versions import mismatch
from dispatcher.ledger.deeds import Action
from dispatcher.ledger.endpoints import Changed
from dispatcher.ledger.holding import HoldingLedger
from dispatcher.model.endpoint import EndpointStatus


class ChangesQuery(Incoming):
    """`replay=none`, with `status` `enabled` alone: what is held is canceled, and what was missed is not sent."""

    replay: Literal["none"] | None = None


class HeldShown(Outgoing):
    """What is kept for an endpoint until it is enabled, or what enabling has still to send."""

    object: Literal["held"]
    endpoint_id: str
    count: int
    at_least: bool


def check_replay(call: Call) -> None:
    """Raise Problem when `?replay=none` came with anything but enabling, where it would mean nothing."""
    is_enabling = "status" in call.body.model_fields_set and call.body.status == EndpointStatus.ENABLED
    if call.query.replay is not None and not is_enabling:
        fault = Fault("replay", "not_allowed", "only with `status` `enabled`: nothing else sends what was missed")
        raise Problem(ProblemCode.INVALID_QUERY, fault.message, faults=[fault])


async def count_held(call: Call) -> Answer:
    """Count what an endpoint holds."""
    found = await call.endpoints.find(call.tenant, call.path["id"])
    if found is None:
        raise not_found()
    held = await HoldingLedger(call.services.pool).count_held(found.endpoint_id)
    return Answer({"object": "held", "endpoint_id": found.public_id, "count": held.n, "at_least": held.is_minimum})


async def set_status(call: Call, status: EndpointStatus, *, versions: Collection[dt.datetime] | None) -> None:
    """Pause, disable or enable the endpoint of the call; `?replay=none` forgets what it missed.

    Raises:
        Problem: 404; 412, it is none of `versions`.
    """
    ledger, public_id, deed = HoldingLedger(call.services.pool), call.path["id"], call.deed(Action.STATUS_CHANGED)
    if status is EndpointStatus.ENABLED:
        pays = call.query.replay is None
        number = await ledger.enable(call.tenant, public_id, pays=pays, deed=deed, versions=versions)
    else:
        number = await ledger.hold(call.tenant, public_id, status, deed=deed, versions=versions)
    if number is None:
        raise not_found()
    if isinstance(number, Changed):
        raise mismatch()
    call.services.on_endpoint_changed(number)
