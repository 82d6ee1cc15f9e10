"""Accounts in Postgres."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncpg
import pytest

from dispatcher.ledger.accounts import AccountLedger
from dispatcher.ledger.connections import Pool
from dispatcher.model.errors import AccountTaken
from dispatcher.model.ids import ACCOUNT_ID
from tests.rooms.test_api_harness import ledger_template, ledger_url, pool


async def test_an_account_is_found_by_the_id_it_was_given(pool: Pool) -> None:
    accounts = AccountLedger(pool)
    made = await accounts.create("acct_5hQ2vN8rTb", name="Bank")

    assert await accounts.find("acct_5hQ2vN8rTb") == made
    assert made.name == "Bank"
    assert await accounts.find("acct_0000000000") is None


async def test_an_account_without_a_given_id_gets_one(pool: Pool) -> None:
    made = await AccountLedger(pool).create()

    assert ACCOUNT_ID.fullmatch(made.public_id)


async def test_a_taken_or_malformed_id_is_refused(pool: Pool) -> None:
    accounts = AccountLedger(pool)
    await accounts.create("acct_5hQ2vN8rTb")

    with pytest.raises(AccountTaken, match="acct_5hQ2vN8rTb exists already"):
        await accounts.create("acct_5hQ2vN8rTb")
    with pytest.raises(asyncpg.CheckViolationError):
        await accounts.create("bank")


async def test_accounts_are_listed_newest_first_page_by_page(pool: Pool) -> None:
    accounts = AccountLedger(pool)
    made = [await accounts.create() for _ in range(5)]

    first = await accounts.page(limit=2)
    rest = await accounts.page(below=first[-1].account_id, limit=9)

    assert first + rest == made[::-1]
