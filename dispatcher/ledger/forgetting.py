"""What may not be kept longer is deleted, a batch per statement, so that none outlasts a statement's time."""

from enum import StrEnum

import asyncpg

from dispatcher.ledger.connections import Link
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.ledger.wishes import count_of


class Old(StrEnum):
    """What grows old, by the statement that deletes some of it."""

    ANSWERS = "forget_idempotency_keys"
    DEEDS = "forget_deeds"
    SECRETS = "forget_secrets"
    DEAD_EVENTS = "forget_dead_events"
    REPLAYS = "forget_replays"
    HOURS = "forget_hours"


class Forgetting:
    """Deletes what is old. Any number of replicas may be at it: they leave each other's rows alone."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def forget(self, old: Old) -> int:
        """Delete some of what is old, a thousand rows at most, and return how many; 0 when nothing is left.

        Raises:
            Unavailable: some of it may be gone; there is nothing to mend.
        """

        async def work(connection: asyncpg.Connection) -> int:
            return count_of(await connection.execute(STATEMENTS[old]))

        return await self._link.transaction(work)
