"""Changing an endpoint: pause it, disable it, put it into service again."""

from typing import Literal

from dispatcher.api.call import Answer, Call
from dispatcher.api.models import Incoming, Outgoing
from dispatcher.api.problems import not_found
from dispatcher.api.shapes import show_endpoint
from dispatcher.ledger.holding import HoldingLedger
from dispatcher.model.endpoint import EndpointStatus


class ChangesQuery(Incoming):
    """`replay=none` with enabling: what is held is canceled, and what was missed is not sent."""

    replay: Literal["none"] | None = None


class ChangesBody(Incoming):
    """What to change; what is left out stays as it is."""

    status: Literal["enabled", "paused", "disabled"] | None = None


class HeldShown(Outgoing):
    """What is kept for an endpoint until it is enabled, or what enabling has still to send."""

    object: Literal["held"]
    endpoint_id: str
    count: int
    at_least: bool


async def change_endpoint(call: Call) -> Answer:
    """Change an endpoint and show it as it is then."""
    body: ChangesBody = call.body
    if body.status is not None:
        number = await _set_status(call, EndpointStatus(body.status))
        if number is None:
            raise not_found()
        call.services.on_endpoint_changed(number)
    found = await call.endpoints.find(call.tenant, call.path["id"])
    if found is None:
        raise not_found()
    return Answer(show_endpoint(found))


async def count_held(call: Call) -> Answer:
    """Count what an endpoint holds."""
    found = await call.endpoints.find(call.tenant, call.path["id"])
    if found is None:
        raise not_found()
    held = await HoldingLedger(call.services.pool).count_held(found.endpoint_id)
    return Answer({"object": "held", "endpoint_id": found.public_id, "count": held.n, "at_least": held.is_minimum})


async def _set_status(call: Call, status: EndpointStatus) -> int | None:
    ledger, public_id = HoldingLedger(call.services.pool), call.path["id"]
    if status is EndpointStatus.ENABLED:
        return await ledger.enable(call.tenant, public_id, pays=call.query.replay is None)
    return await ledger.hold(call.tenant, public_id, status)
