"""Ends connections whose clients do not take the answers they asked for.

What the kernel does not take, the transport keeps, and says so: `pause_writing`. From then on something has to leave it
in every stretch of `seconds`, or the connection is cut: also one that is closing, which waits for its rest without end
otherwise. A connection that has nothing left over costs nothing.
"""

import asyncio
from typing import Final

_LEAST_BYTES: Final = 16_384
"""What a client takes in a stretch at least, of what is left over; a guess. Any modem does that in three seconds."""


class StallWatch:
    """Looks after what one connection has left over. Touched by its protocol alone."""

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        # Or 64 KiB could be left over and nobody would hear of it: a hundred small answers.
        transport.set_write_buffer_limits(high=0)
        self._transport = transport
        self._seconds = seconds
        self._n_left = 0
        self._looking: asyncio.TimerHandle | None = None
        self.has_session = False
        """Somebody else sees to it that this client takes what it is sent, until the connection is to close."""

    def begin(self) -> None:
        """Something is left over."""
        self._n_left = self._transport.get_write_buffer_size()
        self._looking = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def end(self) -> None:
        """Nothing is left over any more, or the connection is gone; harmless when nothing was."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _look(self) -> None:
        n_taken = self._n_left - self._transport.get_write_buffer_size()
        is_seen_to = self.has_session and not self._transport.is_closing()
        if n_taken >= _LEAST_BYTES or is_seen_to:
            self.begin()
        else:
            self._looking = None
            self._transport.abort()
