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


def database_url() -> str:
    """Return where Postgres is: as configured, else where this data directory's embedded dispatcher says.

    Raises:
        DispatcherError: neither is there.
    """
    from dispatcher.settings import load

    if "DISPATCHER_DATABASE__URL" not in os.environ and "DISPATCHER_CONFIG" not in os.environ:
        ready = read_ready_file()
        if ready is not None:
            url: str = ready["database_url"]
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
