"""Accounts opened by operators, each once and written down."""

from collections.abc import Callable, Mapping

import asyncpg

from dispatcher.ledger.accounts import Account
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.deeds import Deed, KeptAnswer, begin, headless, keep, note
from dispatcher.model.ids import new_account_id


async def open_account(
    pool: Pool,
    deed: Deed,
    public_id: str | None,
    name: str | None,
    *,
    show: Callable[[Account], bytes],
    headers: Callable[[Account], Mapping[str, str]] = headless,
) -> Account | KeptAnswer | None:
    """Make an account, with a random public id when none is given; None when the id is taken.

    `show` and `headers` give the answer to keep under the idempotency key.

    Raises:
        Unavailable: it may have been made.
    """
    try:
        async with pool.transaction() as session:
            kept = await begin(session, deed)
            if kept is not None:
                return kept
            row = await session.fetchrow("create_account", public_id or new_account_id(), name)
            assert row is not None
            made = Account(*row)
            await note(session, deed, made.public_id, after={"name": made.name})
            await keep(session, deed, 201, show(made), headers(made))
            return made
    except asyncpg.UniqueViolationError:
        return None
