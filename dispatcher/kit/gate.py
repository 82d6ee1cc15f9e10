"""A gate that many may hold together and one may hold alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Shared and exclusive passage for the tasks of one loop; a waiting exclusive holder goes first."""

    def __init__(self) -> None:
        # Touched by any task of the loop, never across an await.
        self._shared = 0
        self._exclusive = False
        self._waiting_exclusive = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold the gate together with others; waits while somebody holds or awaits it alone."""
        if self._exclusive or self._waiting_exclusive:
            async with self._changed:
                await self._changed.wait_for(lambda: not (self._exclusive or self._waiting_exclusive))
        self._shared += 1
        try:
            yield
        finally:
            self._shared -= 1
            if self._waiting_exclusive and not self._shared:
                await self._tell()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the gate alone; waits until every shared holder has left."""
        self._waiting_exclusive += 1
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not (self._exclusive or self._shared))
                self._exclusive = True
        finally:
            self._waiting_exclusive -= 1
        try:
            yield
        finally:
            self._exclusive = False
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
