"""Handlers of people: invited, let in, removed; each with a key of their own."""

from functools import partial
from typing import Any

import orjson

from dispatcher.api.administration import show_new_key
from dispatcher.api.call import Answer, Call
from dispatcher.api.idempotency import repeat
from dispatcher.api.numbered import list_numbered
from dispatcher.api.problems import Fault, Problem, ProblemCode, not_found, refused
from dispatcher.api.shapes import show_instant
from dispatcher.api.users_models import AcceptanceBody, InviteBody, RenewalBody
from dispatcher.kit import clock
from dispatcher.ledger.deeds import Action, KeptAnswer
from dispatcher.ledger.users import MOST_USERS, Accepted, Invited, Taken, TooManyUsers, User, UserLedger
from dispatcher.model.access import Role
from dispatcher.model.errors import Unavailable
from dispatcher.policy.emails import normal_email
from dispatcher.policy.roles import lacking


async def invite_user(call: Call) -> Answer:
    """Invite a person to the caller's account and environment, to no more than the caller may do."""
    _demand_an_endless_key(call)
    body: InviteBody = call.body
    role, email = Role(body.role), normal_email(body.email)
    faults = _excess(call, role, "/role")
    if email is None:
        faults.append(Fault("/email", "invalid_email", "an address looks like ada@example.com, in ASCII"))
    if email is None or faults:
        raise refused(faults)
    made = await UserLedger(call.services.pool).invite(
        call.deed(Action.USER_INVITED),
        email,
        role,
        expires_in_seconds=body.expires_in,
        show=lambda user: orjson.dumps(_show_invited(user, None)),
    )
    match made:
        case Taken():
            raise Problem(ProblemCode.USER_EXISTS, "invite them again by POST /v1/users/{id}/invite, or remove them")
        case TooManyUsers():
            raise Problem(ProblemCode.USER_LIMIT, f"at most {MOST_USERS} in one environment; remove one first")
        case KeptAnswer():
            return repeat(made, call.ask)
        case Invited():
            return Answer(_show_invited(made.user, made.token), 201)


async def renew_invitation(call: Call) -> Answer:
    """Give a person a new invitation in the place of the one before it, or of a key that was lost."""
    _demand_an_endless_key(call)
    body: RenewalBody = call.body
    ledger = UserLedger(call.services.pool)
    user = await ledger.find(call.tenant, call.path["id"])
    if user is None:
        raise not_found()
    if faults := _excess(call, user.role, ""):
        raise refused(faults)
    made = await ledger.renew(
        call.deed(Action.USER_INVITED),
        user.public_id,
        expires_in_seconds=body.expires_in,
        show=lambda user: orjson.dumps(_show_invited(user, None)),
    )
    match made:
        case None:
            raise not_found()
        case KeptAnswer():
            return repeat(made, call.ask)
        case Invited():
            return Answer(_show_invited(made.user, made.token))


async def list_users(call: Call) -> Answer:
    """List the people of the caller's account and environment, the last invited first."""
    read = partial(UserLedger(call.services.pool).page, call.tenant)
    return await list_numbered(call, "users", read, lambda one: one.user_id, _show_user)


async def remove_user(call: Call) -> Answer:
    """Remove a person and end their keys; every process notices within seconds."""
    if not await UserLedger(call.services.pool).remove(call.deed(Action.USER_REMOVED), call.path["id"]):
        raise not_found()
    return Answer(None, 204)


async def accept_invitation(call: Call) -> Answer:
    """Turn an invitation into its person's key. Whatever is wrong with one, the answer is the same.

    Only what was refused counts against the caller's address, as a failed login does.
    """
    body: AcceptanceBody = call.body
    address, now = call.address or "", clock.mono()
    if not call.stranger_rates.take(address, now).is_allowed:
        raise Problem(ProblemCode.RATE_LIMITED, "too many invitations that are no good", headers={"Retry-After": "1"})
    try:
        made = await UserLedger(call.services.pool).accept(body.token, address=call.address, request_id=call.request_id)
    except Unavailable:
        call.stranger_rates.give_back(address, now)
        raise
    if made is None:
        raise Problem(ProblemCode.INVITATION_VOID, "mistyped, used, expired, or another has taken its place")
    call.stranger_rates.give_back(address, now)
    return Answer(_show_accepted(made), 201)


def _demand_an_endless_key(call: Call) -> None:
    """People's keys have no end, and no key lets in what outlives it. Raises Problem."""
    if call.bearer.expires_at is not None:
        raise Problem(ProblemCode.KEY_ENDS, "people's keys have no end; ask with a key that has none, as theirs")


def _excess(call: Call, role: Role, where: str) -> list[Fault]:
    """Return the fault of a role that may do what the caller may not."""
    missing = lacking(call.bearer.scopes, role)
    if not missing:
        return []
    message = f"the key that asks lacks what {role} has: {', '.join(missing)}"
    return [Fault(where, "scope_not_held", message)]


def _show_user(user: User) -> dict[str, Any]:
    return {
        "id": user.public_id,
        "object": "user",
        "email": user.email,
        "role": user.role,
        "environment": user.environment,
        "state": user.state,
        "invited_at": show_instant(user.invited_at),
        "invited_by": user.invited_by,
        "accepted_at": show_instant(user.accepted_at),
        "expires_at": show_instant(user.expires_at),
    }


def _show_invited(user: User, token: str | None) -> dict[str, Any]:
    return {**_show_user(user), "token": token}


def _show_accepted(made: Accepted) -> dict[str, Any]:
    return {
        "object": "acceptance",
        "user": _show_user(made.user),
        "api_key": show_new_key(made.key, made.user.environment, made.key.text),
    }
