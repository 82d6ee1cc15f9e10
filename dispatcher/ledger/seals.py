"""Sealed values, by the key that sealed them, and their renewal under another one."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import asyncpg

from dispatcher.ledger.connections import Link
from dispatcher.ledger.statements import STATEMENTS

BATCH: Final = 100
"""Values renewed per transaction: about 10 ms, in which their rows are locked."""


DEAD_PAGE: Final = 1_000
"""Dead events looked at per statement: 20 to 30 ms, however large they are."""


class SealKind(NamedTuple):
    """One column of sealed values: how its rows are found and written, and the place that its seals name."""

    find: str
    renew: str
    place: Callable[[str, int], str]


SECRETS: Final = SealKind(
    "secrets_to_renew", "renew_secret", lambda endpoint, number: f"endpoint_secret:{endpoint}:{number}"
)
HEADERS: Final = SealKind("headers_to_renew", "renew_headers", lambda endpoint, _: f"endpoint_headers:{endpoint}")
KINDS: Final = (SECRETS, HEADERS)
"""What is renewed. Dead events are not: they are gone after fourteen days."""


class Step(NamedTuple):
    """One batch: the last number looked at (None: nothing is left), how many were renewed, how many did not open."""

    last: int | None
    n_renewed: int
    n_broken: int


class DeadSeals(NamedTuple):
    """A page of dead events: how many of them each key sealed, and where it ended. `last` None: the end of all."""

    by_key: Mapping[str, int]
    last: tuple[Any, ...] | None


class SealLedger:
    """Sealed values in Postgres. Every call raises Unavailable when Postgres is away."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def by_key(self) -> Mapping[str, int]:
        """Return how many values of endpoints each key sealed; what is no seal counts under the empty text."""
        return {row["key_id"]: row["n"] for row in await self._link.fetch("seals_by_key")}

    async def dead_by_key(self, after: tuple[Any, ...] | None) -> DeadSeals:
        """Return how many of the next dead events behind a place each key sealed, the oldest first."""
        rows = await self._link.fetch("dead_seals", *(after or (None,) * 5), DEAD_PAGE)
        last = rows[-1] if len(rows) == DEAD_PAGE else None
        return DeadSeals(
            Counter(row["key_id"] for row in rows if row["key_id"] is not None),
            None if last is None else (last["seen_at"], last["log_id"], last["topic"], last["part"], last["off"]),
        )

    async def renew(
        self, kind: SealKind, keys: Sequence[str], after: int, seal_again: Callable[[bytes, str], bytes | None]
    ) -> Step | None:
        """Renew a batch of values that one of `keys` sealed, numbered above `after`; None while another replica does.

        `seal_again` gets a value and its place; None: it does not open, and is left as it is. A death in mid-batch
        leaves the old seals, which open as before.
        """

        async def work(connection: asyncpg.Connection) -> Step | None:
            if not await connection.fetchval(STATEMENTS["lock_renewal"]):
                return None
            rows = await connection.fetch(STATEMENTS[kind.find], list(keys), after, BATCH)
            renewed = [
                (row["number"], seal_again(row["sealed"], kind.place(row["public_id"], row["number"]))) for row in rows
            ]
            for number, sealed in renewed:
                if sealed is not None:
                    await connection.execute(STATEMENTS[kind.renew], number, sealed)
            n_broken = sum(sealed is None for _, sealed in renewed)
            return Step(rows[-1]["number"] if rows else None, len(rows) - n_broken, n_broken)

        return await self._link.transaction(work)
