"""API keys straight in the database: how the first one comes to be, and what the API shows to nobody."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from dispatcher.cli.database import with_pool
from dispatcher.model.errors import DispatcherError

if TYPE_CHECKING:
    from dispatcher.ledger.connections import Pool
    from dispatcher.ledger.keys import KeyFacts, NewKey


class Wish(NamedTuple):
    """A key that somebody wants. `scopes` None gives every one of its kind; without `expires_in` seconds no end."""

    scopes: Sequence[str] | None
    name: str | None
    expires_in: int | None


def create(account: str | None, environment: str | None, wish: Wish) -> dict[str, Any]:
    """Make a key of an account in an environment, an operator's for None, and return it as the API shows it.

    Raises:
        DispatcherError: there is no such account, or a scope is not for this kind of key.
    """
    from dispatcher.ledger.accounts import Tenant
    from dispatcher.ledger.keys import KeyLedger
    from dispatcher.model.access import Scope

    known = {one.value: one for one in Scope}
    if unknown := [text for text in wish.scopes or () if text not in known]:
        message = f"{', '.join(unknown)} is no scope; they are {', '.join(sorted(known))}"
        raise typer.BadParameter(message, param_hint="--scope")
    chosen = None if wish.scopes is None else [known[text] for text in wish.scopes]

    async def work(pool: "Pool") -> "NewKey":
        tenant = None if account is None else Tenant(await _number(pool, account), environment or "test")
        return await KeyLedger(pool).create(tenant, scopes=chosen, name=wish.name, expires_in_seconds=wish.expires_in)

    try:
        made = with_pool(work)
    except ValueError as fault:
        raise DispatcherError(str(fault)) from fault
    return {
        "id": made.key_id,
        "object": "api_key",
        "name": made.name,
        "environment": environment,
        "scopes": list(made.scopes),
        "key": made.text,
        "created_at": made.created_at,
        "expires_at": made.expires_at,
    }


def rows(account: str | None) -> list[dict[str, Any]]:
    """Return the keys of an account, the operators' for None, newest first, as the API shows them."""

    async def work(pool: "Pool") -> "list[KeyFacts]":
        return await _page(pool, account)

    found = []
    for facts in with_pool(work):
        row = facts._asdict()
        found.append({"id": row.pop("key_id"), "object": "api_key", **row, "scopes": list(facts.scopes)})
    return found


def revoke(account: str | None, key: str) -> bool:
    """End a key of an account, an operator's for None; tell whether it was there and live."""
    from dispatcher.ledger.keys import KeyLedger

    async def work(pool: "Pool") -> bool:
        is_theirs = any(facts.key_id == key for facts in await _page(pool, account))
        return is_theirs and await KeyLedger(pool).revoke(key)

    return with_pool(work)


async def _page(pool: "Pool", account: str | None) -> "list[KeyFacts]":
    from dispatcher.ledger.keys import KeyLedger

    return await KeyLedger(pool).page(None if account is None else await _number(pool, account))


async def _number(pool: "Pool", account: str) -> int:
    from dispatcher.ledger.accounts import AccountLedger

    found = await AccountLedger(pool).find(account)
    if found is None:
        message = f"there is no account {account}; `dispatcher accounts create --id {account}` makes it"
        raise DispatcherError(message)
    return found.account_id
