"""Accounts, and whose rows a statement may see."""

import datetime as dt
from typing import NamedTuple

import asyncpg

from dispatcher.ledger.connections import Pool
from dispatcher.model.errors import AccountTaken
from dispatcher.model.ids import new_account_id


class Tenant(NamedTuple):
    """One account in one environment: every statement of the API is bound to it."""

    account_id: int
    environment: str


class Account(NamedTuple):
    """One customer of the verification product. `name` is the operator's own word for it."""

    account_id: int
    public_id: str
    name: str | None
    created_at: dt.datetime


class AccountLedger:
    """Accounts in Postgres; for the command line and the operator."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(self, public_id: str | None = None, *, name: str | None = None) -> Account:
        """Make an account, with a random public id when none is given.

        Raises:
            AccountTaken: the public id belongs to one already.
            asyncpg.CheckViolationError: the public id is malformed.
            Unavailable: it may have been made.
        """
        try:
            row = await self._pool.fetchrow("create_account", public_id or new_account_id(), name)
        except asyncpg.UniqueViolationError as fault:
            message = f"the account {public_id} exists already"
            raise AccountTaken(message) from fault
        assert row is not None
        return _account(row)

    async def find(self, public_id: str) -> Account | None:
        """Return an account, None when it does not exist. Raises Unavailable."""
        row = await self._pool.fetchrow("find_account", public_id)
        return None if row is None else _account(row)

    async def page(self, *, below: int | None = None, limit: int) -> list[Account]:
        """Return up to `limit` accounts, newest first, with numbers below `below`. Raises Unavailable."""
        return [_account(row) for row in await self._pool.fetch("list_accounts", below, limit)]


def _account(row: asyncpg.Record) -> Account:
    return Account(row["account_id"], row["public_id"], row["name"], row["created_at"])
