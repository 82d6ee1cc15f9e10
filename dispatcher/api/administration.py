"""Handlers of keys, accounts and the audit log: who may do what, and who did."""

import datetime as dt
from functools import partial
from typing import Any

import orjson

from dispatcher.api.administration_models import KeyBody, NewAccountBody
from dispatcher.api.call import Answer, Call
from dispatcher.api.cursors import from_micros, to_micros
from dispatcher.api.idempotency import repeat
from dispatcher.api.models import PageQuery
from dispatcher.api.numbered import list_numbered
from dispatcher.api.problems import Fault, Problem, ProblemCode, not_found, pointer, refused
from dispatcher.api.shapes import show_instant
from dispatcher.kit import clock
from dispatcher.ledger.accounts import Account, AccountLedger, Tenant
from dispatcher.ledger.deeds import Action, DeedLedger, KeptAnswer, Line
from dispatcher.ledger.keys import KeyFacts, KeyLedger, KeyPlace, KeyWish, NewKey, TooManyKeys
from dispatcher.ledger.openings import open_account
from dispatcher.model.access import Scope


async def create_key(call: Call) -> Answer:
    """Make a key for the caller's own account and environment, with no more scopes than it has and no later end."""
    body: KeyBody = call.body
    held, ends_by = call.bearer.scopes, call.bearer.expires_at
    wanted = sorted(held) if body.scopes is None else body.scopes
    faults = [
        Fault(pointer(["scopes", n]), "scope_not_held", "the key that asks does not have this scope itself")
        for n, scope in enumerate(wanted)
        if scope not in held
    ]
    if _outlives(body, ends_by):
        message = "the key that asks ends earlier; without this member the new one ends with it"
        faults.append(Fault(pointer(["expires_in"]), "expires_after_asker", message))
    if faults:
        raise refused(faults)
    return await _issue(call, call.tenant, body, tuple(Scope(scope) for scope in wanted), ends_by=ends_by)


def _outlives(body: KeyBody, ends_by: dt.datetime | None) -> bool:
    """Tell whether a key is wanted for longer; what the clocks' difference lets through, the ledger cuts."""
    if body.expires_in is None or ends_by is None:
        return False
    return clock.utcnow() + dt.timedelta(seconds=body.expires_in) > ends_by


async def create_key_for_account(call: Call) -> Answer:
    """Make a key for any account: how an operator lets a customer in."""
    account = await AccountLedger(call.services.pool).find(call.path["id"])
    if account is None:
        raise not_found()
    body = call.body
    scopes = None if body.scopes is None else tuple(Scope(scope) for scope in body.scopes)
    return await _issue(call, Tenant(account.account_id, body.environment), body, scopes)


async def list_keys(call: Call) -> Answer:
    """List the keys of the caller's account and environment, live ones first; never their secret parts."""
    query: PageQuery = call.query
    cursors, after = call.cursors("api_keys"), None
    if query.after is not None:
        is_ended, micros, key_id = cursors.read(query.after, 3)
        after = KeyPlace(bool(is_ended), from_micros(micros), key_id)
    page = await KeyLedger(call.services.pool).of_tenant(call.tenant, after=after, limit=query.limit)
    following = None
    if page.next is not None:
        following = cursors.show([int(page.next.is_ended), to_micros(page.next.at), page.next.key_id])
    return Answer({"data": [_show_key(one) for one in page.keys], "next": following})


async def revoke_key(call: Call) -> Answer:
    """End a key for good; every process notices within seconds."""
    if not await KeyLedger(call.services.pool).withdraw(call.deed(Action.KEY_REVOKED), call.path["id"]):
        raise not_found()
    return Answer(None, 204)


async def create_account(call: Call) -> Answer:
    """Make an account."""
    body: NewAccountBody = call.body
    made = await open_account(
        call.services.pool,
        call.deed(Action.ACCOUNT_CREATED),
        body.id,
        body.name,
        show=lambda made: orjson.dumps(_show_account(made)),
        headers=_place,
    )
    match made:
        case None:
            raise Problem(ProblemCode.ACCOUNT_EXISTS, "choose another id, or none")
        case KeptAnswer():
            return repeat(made, call.ask)
        case Account():
            return Answer(_show_account(made), 201, _place(made))


async def list_accounts(call: Call) -> Answer:
    """List accounts, newest first."""
    read = AccountLedger(call.services.pool).page
    return await list_numbered(call, "accounts", read, lambda one: one.account_id, _show_account)


async def read_account(call: Call) -> Answer:
    """Show one account."""
    found = await AccountLedger(call.services.pool).find(call.path["id"])
    if found is None:
        raise not_found()
    return Answer(_show_account(found))


async def list_deeds(call: Call) -> Answer:
    """List what was done through the API, latest first: of the caller's account and environment, or by operators."""
    read = partial(DeedLedger(call.services.pool).page, call.tenant)
    return await list_numbered(call, "audit_log", read, lambda one: one.audit_id, _show_line)


async def _issue(
    call: Call,
    tenant: Tenant,
    body: KeyBody,
    scopes: tuple[Scope, ...] | None,
    *,
    ends_by: dt.datetime | None = None,
) -> Answer:
    made = await KeyLedger(call.services.pool).issue(
        call.deed(Action.KEY_CREATED),
        tenant,
        KeyWish(scopes, body.name, body.expires_in, ends_by),
        show=lambda made: orjson.dumps(show_new_key(made, tenant.environment, None)),
    )
    match made:
        case KeptAnswer():
            return repeat(made, call.ask)
        case TooManyKeys():
            what = "of one name" if made.is_of_name else "in one environment"
            raise Problem(ProblemCode.KEY_LIMIT, f"at most {made.limit} live keys {what}; revoke one first")
        case NewKey():
            return Answer(show_new_key(made, tenant.environment, made.text), 201)


def show_new_key(made: NewKey, environment: str, text: str | None) -> dict[str, Any]:
    """Return a key just made, this once with its `text`."""
    return {
        "id": made.key_id,
        "object": "api_key",
        "name": made.name,
        "environment": environment,
        "scopes": made.scopes,
        "key": text,
        "created_at": show_instant(made.created_at),
        "expires_at": show_instant(made.expires_at),
    }


def _show_key(facts: KeyFacts) -> dict[str, Any]:
    return {
        "id": facts.key_id,
        "object": "api_key",
        "name": facts.name,
        "user_id": facts.user_id,
        "environment": facts.environment,
        "scopes": facts.scopes,
        "created_at": show_instant(facts.created_at),
        "last_used_at": show_instant(facts.last_used_at),
        "expires_at": show_instant(facts.expires_at),
        "revoked_at": show_instant(facts.revoked_at),
    }


def _place(account: Account) -> dict[str, str]:
    return {"Location": f"/v1/accounts/{account.public_id}"}


def _show_account(account: Account) -> dict[str, Any]:
    return {
        "id": account.public_id,
        "object": "account",
        "name": account.name,
        "created_at": show_instant(account.created_at),
    }


def _show_line(line: Line) -> dict[str, Any]:
    return {
        "object": "deed",
        "at": show_instant(line.at),
        "action": line.action,
        "thing": line.thing,
        "key_id": line.actor,
        "user_id": line.user_id,
        "user_email": line.email,
        "address": line.address,
        "request_id": line.request_id,
        "before_sha256": None if line.before_sha256 is None else line.before_sha256.hex(),
        "after_sha256": None if line.after_sha256 is None else line.after_sha256.hex(),
        "facts": line.facts,
    }
