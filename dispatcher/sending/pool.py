"""Idle connections, newest first, by the host they lead to."""

import asyncio
from typing import Final

from dispatcher.sending.wire import Connection

_CLOSING_SECONDS: Final = 1.0


class Pool:
    """Keeps idle connections; it never dials and never queues. `most` bounds them over all keys.

    The newest is handed out first, so that those not needed grow old and close themselves. Beyond
    `most` the oldest of all is closed. One loop only, never touched across an await.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._is_closed = False
        self._by_key: dict[str, list[Connection]] = {}
        # In the order of coming to rest.
        self._all: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    def take(self, key: str) -> Connection | None:
        """Return an open connection, which is the caller's from now on, or None."""
        resting = self._by_key.get(key)
        if resting is None:
            return None
        # A connection leaves the pool in the callback that tells of its end, so this one is open.
        connection = resting.pop()
        if not resting:
            del self._by_key[key]
        del self._all[connection]
        connection.on_lost = None
        return connection if connection.is_open else self.take(key)

    def put(self, connection: Connection) -> None:
        """Take back a connection after an exchange, if that left it reusable; a closed pool closes it."""
        if self._is_closed:
            connection.close()
        if not connection.is_reusable:
            return
        self._all[connection] = None
        self._by_key.setdefault(connection.key, []).append(connection)
        connection.on_lost = self._forget
        connection.rest()
        if len(self._all) > self._most:
            oldest = next(iter(self._all))
            self._forget(oldest)
            oldest.close()

    def close(self) -> None:
        """Close all idle connections, and from now on those that come back."""
        self._is_closed = True
        for connection in list(self._all):
            self._forget(connection)
            connection.close()

    async def aclose(self) -> None:
        """Close and wait until the idle connections' sockets are gone, at most a second."""
        closing = set(self._all)
        done = asyncio.Event()
        self.close()

        def lost(connection: Connection) -> None:
            closing.discard(connection)
            if not closing:
                done.set()

        for connection in closing:
            connection.on_lost = lost
        if closing:
            try:
                async with asyncio.timeout(_CLOSING_SECONDS):
                    await done.wait()
            except TimeoutError:
                for connection in closing:
                    connection.abort()

    def _forget(self, connection: Connection) -> None:
        connection.on_lost = None
        if connection not in self._all:
            return
        del self._all[connection]
        resting = self._by_key[connection.key]
        resting.remove(connection)
        if not resting:
            del self._by_key[connection.key]
