"""A gate that many may hold together and one may hold alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Gate:
    """Shared and exclusive passage for the tasks of one loop; a waiting exclusive holder goes first."""

    def __init__(self) -> None:
        # Touched by any task of the loop, never across an await.
        self._shared = 0
        self._exclusive = False
        self._waiting_exclusive = 0
        self._waiters: set[asyncio.Future[None]] = set()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold the gate together with others; waits while somebody holds or awaits it alone."""
        await self._wait_until(lambda: not (self._exclusive or self._waiting_exclusive))
        self._shared += 1
        try:
            yield
        finally:
            self._shared -= 1
            self._tell()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the gate alone; waits until every shared holder has left."""
        self._waiting_exclusive += 1
        try:
            await self._wait_until(lambda: not (self._exclusive or self._shared))
            self._exclusive = True
        finally:
            self._waiting_exclusive -= 1
            # Whoever gives up waiting may have been all that others waited for.
            self._tell()
        try:
            yield
        finally:
            self._exclusive = False
            self._tell()

    async def _wait_until(self, is_free: Callable[[], bool]) -> None:
        while not is_free():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def _tell(self) -> None:
        # Never awaits: a holder that is canceled on its way out must still wake the others.
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
