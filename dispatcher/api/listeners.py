"""Who listens right now, in this process: bounded in number, and sent away when the process ends."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from dispatcher.ledger.accounts import Tenant

MOST: Final = 100
"""Listeners of one process: each asks Postgres a few times a second."""

MOST_OF_TENANT: Final = 5

Leave = Callable[[], Awaitable[object]]
"""Send one listener away; it may come back elsewhere."""


class Listeners:
    """The open sessions of one process. Touched by any request, never across an await."""

    def __init__(self) -> None:
        self._open: dict[Leave, Tenant] = {}

    def has_room(self, tenant: Tenant) -> bool:
        """Tell whether one more of this tenant may listen."""
        return len(self._open) < MOST and sum(one == tenant for one in self._open.values()) < MOST_OF_TENANT

    @contextmanager
    def joined(self, tenant: Tenant, leave: Leave) -> Iterator[None]:
        """Count a session for the length of the block."""
        self._open[leave] = tenant
        try:
            yield
        finally:
            del self._open[leave]

    async def send_away(self) -> None:
        """Send all of them away; returns when they were told."""
        async with asyncio.TaskGroup() as group:
            for leave in list(self._open):
                group.create_task(_told(leave), name="listener-leaves")


async def _told(leave: Leave) -> None:
    await leave()
