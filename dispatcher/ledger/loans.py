"""Connections that are lent out and come back: a few, opened when needed, one borrower at a time each.

The driver's own pool makes a task and a timer of every loan, which together take twice as long as a small statement.
Here a loan that need not wait is a pop from a list.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg

from dispatcher.model.errors import Unavailable


async def take_turn(turns: asyncio.Semaphore, *, seconds: float) -> None:
    """Acquire a turn, in the order of asking; a timer is made only by who has to wait. Raises TimeoutError."""
    if turns.locked():
        async with asyncio.timeout(seconds):
            await turns.acquire()
    else:
        await turns.acquire()


class Loans:
    """Up to `most` connections from `open_one`. Who waits for one comes in turn. Own it with `close`."""

    def __init__(self, open_one: Callable[[], Awaitable[Any]], *, most: int) -> None:
        self._open_one: Final = open_one
        self._turns: Final = asyncio.Semaphore(most)
        # The last used at the end, so that few of them know many plans. Touched between awaits only.
        self._idle: list[Any] = []
        self._lent: set[Any] = set()
        self._outdated: set[Any] = set()
        self._is_closed = False

    async def borrow(self, *, seconds: float) -> Any:
        """Return a connection, for the borrower alone until `give_back`.

        Raises:
            TimeoutError: all of them were lent for so long.
            Unavailable: none can be opened, or this was closed.
        """
        self._check_open()
        await take_turn(self._turns, seconds=seconds)
        try:
            connection = self._kept() or await self._open_one()
        except BaseException:
            self._turns.release()
            raise
        self._lent.add(connection)
        if self._is_closed:
            self.give_back(connection, is_sound=False)
            self._check_open()
        return connection

    def give_back(self, connection: Any, *, is_sound: bool) -> None:
        """Let the next one have it; what is not sound, was closed, or is within a transaction, ends here."""
        self._lent.discard(connection)
        is_over = connection in self._outdated or connection.is_closed() or connection.is_in_transaction()
        if is_sound and not (is_over or self._is_closed):
            self._idle.append(connection)
        else:
            self._outdated.discard(connection)
            connection.terminate()
        self._turns.release()

    def forget(self) -> None:
        """End every connection: those that are lent when they come back."""
        self._outdated |= self._lent
        while self._idle:
            self._idle.pop().terminate()

    def close(self) -> None:
        """End all of them at once; borrowers' statements fail."""
        self._is_closed = True
        self.forget()
        for connection in self._lent:
            connection.terminate()

    def _check_open(self) -> None:
        if self._is_closed:
            message = "the connections to Postgres were closed"
            raise Unavailable(message)

    def _kept(self) -> Any | None:
        while self._idle:
            connection: asyncpg.Connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None
