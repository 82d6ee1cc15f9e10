"""One attempt whole: what was sent as far as it can be told, and what came back."""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.logs import ATTEMPT_COLUMNS, LoggedAttempt, LoggedResponse, logged_attempt
from dispatcher.ledger.responses import load_headers


class SentTo(NamedTuple):
    """The endpoint of an attempt as it is now. `settings_at` is the version of its settings."""

    endpoint_id: int
    public_id: str
    url: str
    header_names: Sequence[str]
    settings_at: dt.datetime


class WholeAttempt(NamedTuple):
    """`body` is the event's, None past its retention. `response` is None unless an answer was kept and still is."""

    attempt: LoggedAttempt
    endpoint: SentTo
    body: bytes | None
    response: LoggedResponse | None


class AttemptLedger:
    """Reads only. Every call raises Unavailable when Postgres is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, tenant: Tenant, delivery_id: int, attempt_no: int) -> WholeAttempt | None:
        """Return an attempt of the tenant; the latest, should an interrupted one bear the same number."""
        row = await self._pool.fetchrow("whole_attempt", *tenant, delivery_id, attempt_no)
        if row is None:
            return None
        endpoint = SentTo(row["endpoint_id"], row["endpoint"], row["url"], row["header_names"], row["settings_at"])
        return WholeAttempt(logged_attempt(row[: len(ATTEMPT_COLUMNS)]), endpoint, row["event_body"], _response(row))

    async def sealed_keys(self, endpoint_id: int, key_ids: Sequence[int]) -> dict[int, bytes]:
        """Return those of an endpoint's secrets that are still there, sealed, by number."""
        rows = await self._pool.fetch("secrets_of_attempt", endpoint_id, list(key_ids))
        return {row["secret_id"]: row["sealed_key"] for row in rows}


def _response(row: asyncpg.Record) -> LoggedResponse | None:
    if row["headers"] is None:
        return None
    return LoggedResponse(row["started_at"], row["status"], load_headers(row["headers"]), row["body"], row["is_cut"])
