"""Claim: deliveries that wait in Postgres come back to a process when they are due (S3, S3A)."""

from typing import Any, Final, NamedTuple

import asyncpg

from dispatcher.kit import clock
from dispatcher.ledger.connections import Link
from dispatcher.ledger.instants import aware
from dispatcher.ledger.replicas import Replica
from dispatcher.model.batch import ClaimWish
from dispatcher.model.delivery import Delivery
from dispatcher.model.errors import Fenced
from dispatcher.model.ids import show_event_id

MOVE_ROWS: Final = 5_000
"""Waiting rows put under another host per statement."""

ADOPTED_ROWS: Final = 100
"""Rows found per statement: with the largest bodies that is 25 MB, far below the statement timeout."""

FLOOR_SECONDS: Final = 10.0
"""How far back an ordinary claim looks; older rows are found by `backlog`. More than three claim periods."""


class Backlog(NamedTuple):
    """What waits in Postgres: rows due, rows held, age of the oldest due row in seconds (0 when none)."""

    due: int
    held: int
    oldest_due_seconds: float


class Burden(NamedTuple):
    """What makes claims slow: dead rows of the hot table, and the transaction that keeps them (0 s when none does)."""

    n_dead_rows: int
    oldest_transaction_seconds: float


class ClaimLedger:
    """What the due-reader needs of Postgres. One caller at a time; the link it is given serves nobody else."""

    def __init__(self, link: Link, replica: Replica) -> None:
        self._link = link
        self._replica = replica

    async def backlog(self) -> list[tuple[int, int]]:
        """Return the (host, endpoint) pairs that have rows due for longer than the floor, in order. Reads only."""
        rows = await self._link.fetch("backlog_pairs", FLOOR_SECONDS)
        return [(row["host_id"], row["endpoint_id"]) for row in rows]

    async def claim(self, wish: ClaimWish) -> list[Delivery]:
        """Take due deliveries host by host and return them, owned by this process; may be empty.

        A host's tokens are charged for each, so it may be sent within a token's life. Paused hosts and endpoints and
        hosts without tokens are left alone. Nobody waits for another replica's claim: locked rows are skipped.

        Raises:
            Fenced: this replica was taken over; nothing was taken.
            Unavailable: rows may have been taken; `adopt` finds them.
        """
        async with self._replica.gate.shared():
            rows = await self._link.fetch(
                "claim",
                self._replica.replica_id,
                wish.rows_per_host,
                wish.n_hosts,
                FLOOR_SECONDS,
                list(wish.full_hosts),
                [host for host, _ in wish.backlog],
                [endpoint for _, endpoint in wish.backlog],
                list(wish.full_endpoints),
                wish.most_bytes,
            )
            if not rows[0]["live"]:
                message = f"replica {self._replica.replica_id} was taken over"
                raise Fenced(message)
            claimed = [_delivery(row) for row in rows if row["delivery_id"] is not None]
            self._replica.hold([delivery.delivery_id for delivery in claimed])
        return claimed

    async def adopt(self) -> list[Delivery]:
        """Return some deliveries that Postgres says are ours and this process does not know; then it holds them.

        For use after an accept or a claim whose answer was lost, again and again until it returns none. Holds the gate
        alone, so no accept, claim or settlement runs meanwhile.
        """
        async with self._replica.gate.exclusive():
            rows = await self._link.fetch("owned", self._replica.replica_id, list(self._replica.held), ADOPTED_ROWS)
            found = [_delivery(row) for row in rows]
            self._replica.hold([delivery.delivery_id for delivery in found])
        return found

    async def has_strays(self) -> bool:
        """Tell whether Postgres may know deliveries of ours that this process does not; if so, `adopt` finds out.

        Holds nothing up, so what just comes or goes can look like one. Reads the whole hot table: call it seldom.
        """
        before = frozenset(self._replica.held)
        rows = await self._link.fetch("owned_ids", self._replica.replica_id)
        return not {row["delivery_id"] for row in rows} <= before | self._replica.held

    async def count_backlog(self) -> Backlog:
        """Count what waits. Reads the whole hot table: call it seldom."""
        row = await self._link.fetchrow("backlog")
        return Backlog(row["due"], row["held"], row["oldest_due_seconds"])

    async def burden(self) -> Burden:
        """Tell what makes claims slow."""
        row = await self._link.fetchrow("burden")
        return Burden(row["n_dead_rows"], row["oldest_transaction_seconds"])

    async def endpoints_by_status(self) -> dict[str, int]:
        """Count the endpoints in each status; a status without any is absent."""
        return {row["status"]: row["n"] for row in await self._link.fetch("endpoints_by_status")}

    async def move_waiting(self) -> None:
        """Put waiting deliveries of endpoints that moved lately under their new host, at most 5,000 at a time."""
        await self._link.fetch("move_waiting", MOVE_ROWS)


def _delivery(row: asyncpg.Record) -> Delivery:
    def value(name: str) -> Any:
        return row[name]

    return Delivery(
        value("delivery_id"),
        value("event_id"),
        show_event_id(value("event_id")),
        value("event_day"),
        value("account_id"),
        value("environment"),
        value("endpoint_id"),
        value("host_id"),
        value("attempts"),
        value("created_at"),
        value("event_type"),
        value("subject"),
        value("client_reference"),
        value("body"),
        aware(value("occurred_at")),
        clock.mono(),
        value("attempts_before"),
    )
