"""Commands that work on the database itself: the operator's, who need no key."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from dispatcher.cli.client import read_ready_file
from dispatcher.model.errors import DispatcherError

if TYPE_CHECKING:
    from dispatcher.ledger.connections import Pool

T = TypeVar("T")


def is_known() -> bool:
    """Tell whether settings, or an embedded dispatcher of this data directory, say where Postgres is."""
    return _is_configured() or (read_ready_file() or {}).get("database_url") is not None


def _is_configured() -> bool:
    return "DISPATCHER_DATABASE__URL" in os.environ or "DISPATCHER_CONFIG" in os.environ


def database_url() -> str:
    """Return where Postgres is: as configured, else where this data directory's embedded dispatcher says.

    Raises:
        DispatcherError: neither is there.
    """
    from dispatcher.settings import load

    if not _is_configured():
        url: str | None = (read_ready_file() or {}).get("database_url")
        if url is not None:
            return url
    found = load(os.environ, required=False).database_url()
    if not found:
        message = (
            "no database is known: set DISPATCHER_DATABASE__URL, or run `dispatcher run --embedded` in this folder"
        )
        raise DispatcherError(message)
    return found


def with_pool(work: "Callable[[Pool], Awaitable[T]]") -> T:
    """Run `work` with a small pool of connections and return what it returns."""
    from dispatcher.ledger.connections import Pool

    async def run() -> T:
        pool = await Pool.open(database_url(), size=2)
        try:
            return await work(pool)
        finally:
            await pool.aclose()

    return asyncio.run(run())
