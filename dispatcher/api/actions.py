"""What a person does to one delivery: send it again, cancel it, try it now."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from dispatcher.api.call import Answer, Call
from dispatcher.api.idempotency import repeat
from dispatcher.api.problems import Problem, ProblemCode, not_found
from dispatcher.api.shapes import show_delivery
from dispatcher.ledger.deeds import Action, KeptAnswer
from dispatcher.ledger.logs import LoggedDelivery
from dispatcher.ledger.wishes import DeliveryName, Fate, Wish, WishLedger

_REFUSALS: Final[Mapping[Wish, tuple[ProblemCode, str]]] = {
    Wish.ENDED: (ProblemCode.DELIVERY_ENDED, "send it again with `resend`"),
    Wish.HELD: (ProblemCode.DELIVERY_HELD, "enable its endpoint: then it is sent"),
    Wish.OPEN: (ProblemCode.DELIVERY_PENDING, "it is under way; try it now with `retry`"),
    Wish.NOT_ENABLED: (ProblemCode.ENDPOINT_NOT_ENABLED, "enable it first, unless it was deleted"),
    Wish.EVENT_GONE: (ProblemCode.EVENT_GONE, "events are kept for some days only"),
    Wish.TEST: (ProblemCode.TEST_NOT_KEPT, "send another with `test`"),
    Wish.TOO_OFTEN: (ProblemCode.ATTEMPTS_USED_UP, "it was sent too often"),
}


async def resend_delivery(call: Call) -> Answer:
    """Open a finished delivery once more: one attempt now, then its schedule from the second entry on."""
    return _answer(call, await _ledger(call).resend(call.deed(Action.DELIVERY_RESENT), _name(call)))


async def cancel_delivery(call: Call) -> Answer:
    """Cancel an open delivery; one that is being sent right now, as soon as that has failed."""
    fate = await _ledger(call).cancel(call.deed(Action.DELIVERY_CANCELED), _name(call))
    if fate is Wish.ENDED:
        raise Problem(ProblemCode.DELIVERY_ENDED, "there is nothing left to cancel")
    return _answer(call, fate)


async def retry_delivery(call: Call) -> Answer:
    """Let a waiting delivery fall due now; limits and pauses hold all the same."""
    return _answer(call, await _ledger(call).retry(call.deed(Action.DELIVERY_RETRIED), _name(call)))


def _ledger(call: Call) -> WishLedger:
    return WishLedger(call.services.pool, show=lambda delivery: orjson.dumps(_show(call, delivery)))


def _name(call: Call) -> DeliveryName:
    number = call.services.delivery_ids.parse(call.path["id"])
    if number is None:
        raise not_found()
    return DeliveryName(number, call.services.delivery_ids.show(number))


def _answer(call: Call, fate: Fate) -> Answer:
    match fate:
        case LoggedDelivery():
            return Answer(_show(call, fate), 202)
        case KeptAnswer():
            return repeat(fate, call.ask)
        case Wish() if fate in _REFUSALS:
            raise Problem(*_REFUSALS[fate])
        case Wish():
            raise not_found()


def _show(call: Call, delivery: LoggedDelivery) -> dict[str, Any]:
    return show_delivery(delivery, call.services.delivery_ids, call.tenant.environment, call.services.n_attempts)
