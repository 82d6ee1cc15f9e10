"""What a person does to one delivery: send it again, cancel it, try it now."""

from collections.abc import Mapping
from typing import Final

from dispatcher.api.call import Answer, Call
from dispatcher.api.problems import Problem, ProblemCode, not_found
from dispatcher.api.shapes import show_delivery
from dispatcher.ledger.wishes import Wish, WishLedger

_REFUSALS: Final[Mapping[Wish, tuple[ProblemCode, str]]] = {
    Wish.ENDED: (ProblemCode.DELIVERY_ENDED, "send it again with `resend`"),
    Wish.HELD: (ProblemCode.DELIVERY_HELD, "enable its endpoint: then it is sent"),
    Wish.OPEN: (ProblemCode.DELIVERY_PENDING, "it is under way; try it now with `retry`"),
    Wish.NOT_ENABLED: (ProblemCode.ENDPOINT_NOT_ENABLED, "enable it first"),
    Wish.EVENT_GONE: (ProblemCode.EVENT_GONE, "events are kept for some days only"),
    Wish.TOO_OFTEN: (ProblemCode.ATTEMPTS_USED_UP, "it was sent too often"),
}


async def resend_delivery(call: Call) -> Answer:
    """Open a finished delivery once more: one attempt now, then its schedule from the second entry on."""
    number = _number(call)
    return await _answer(call, number, await WishLedger(call.services.pool).resend(call.tenant, number))


async def cancel_delivery(call: Call) -> Answer:
    """Cancel an open delivery; one that is being sent right now, as soon as that has failed."""
    number = _number(call)
    return await _answer(call, number, await WishLedger(call.services.pool).cancel(call.tenant, number))


async def retry_delivery(call: Call) -> Answer:
    """Let a waiting delivery fall due now; limits and pauses hold all the same."""
    number = _number(call)
    return await _answer(call, number, await WishLedger(call.services.pool).retry(call.tenant, number))


def _number(call: Call) -> int:
    number = call.services.delivery_ids.parse(call.path["id"])
    if number is None:
        raise not_found()
    return number


async def _answer(call: Call, number: int, wish: Wish) -> Answer:
    if wish in _REFUSALS:
        code, detail = _REFUSALS[wish]
        raise Problem(code, detail)
    found = await call.logs.delivery(call.tenant, number) if wish is Wish.GRANTED else None
    if found is None:
        raise not_found()
    return Answer(show_delivery(found, call.services.delivery_ids, call.tenant.environment), 202)
