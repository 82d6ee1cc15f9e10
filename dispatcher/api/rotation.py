"""Handler of signing secrets: a new one, with an overlap."""

import secrets

import orjson

from dispatcher.api.call import Answer, Call
from dispatcher.api.idempotency import repeat
from dispatcher.api.models import RotationBody
from dispatcher.api.problems import Problem, ProblemCode, not_found
from dispatcher.api.shapes import show_instant, show_rotation
from dispatcher.ledger.deeds import Action, KeptAnswer
from dispatcher.ledger.secrets import Overlapping, Rotated, Rotation, SecretLedger
from dispatcher.policy.signing import NEW_KEY_BYTES, last4, show_secret


async def rotate_secret(call: Call) -> Answer:
    """Give an endpoint a new secret and show it, this once."""
    body: RotationBody = call.body
    vault, public_id, key = call.services.vault, call.path["id"], secrets.token_bytes(NEW_KEY_BYTES)
    rotation = Rotation(
        expires_in_seconds=body.expires_in,
        is_forced=body.force,
        seal_key=lambda number: vault.seal(key, f"endpoint_secret:{public_id}:{number}"),
        last4=last4(show_secret(key)),
    )
    done = await SecretLedger(call.services.pool).rotate(
        call.deed(Action.SECRET_ROTATED), public_id, rotation, show=lambda done: orjson.dumps(show_rotation(done, None))
    )
    match done:
        case None:
            raise not_found()
        case KeptAnswer():
            return repeat(done, call.ask)
        case Overlapping():
            detail = f"the older one ends at {show_instant(done.expires_at)}; `force` ends it now"
            raise Problem(ProblemCode.ROTATION_UNDER_WAY, detail)
        case Rotated():
            call.services.on_endpoint_changed(done.endpoint_id)
            return Answer(show_rotation(done, show_secret(key)))
