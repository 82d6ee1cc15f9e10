"""One HTTP/1.1 connection: one exchange at a time, under deadlines, reused only when beyond doubt.

    write(head + body)        head budget                    body budget
    |------ drained ----|---------------------- head ----|------------------ end ---|
                        ^ the clock of the head starts   ^ the status is settled

No task and no timer is made for an exchange. The one future is what the caller awaits, and a connection
keeps a single timer that is moved forward only when it fires: at thousands of exchanges a second it is
set once in five seconds.

A complete head is the answer, whatever becomes of the body: that is cut, and the connection closed.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from dispatcher.kit import clock, failpoints
from dispatcher.model.outcome import OutcomeKind
from dispatcher.sending.faults import AttemptFailed
from dispatcher.sending.response import ResponseReader
from dispatcher.sending.tls import TlsLayer

_READ_BYTES: Final = 16_384
"""What one connection takes from the kernel in one turn of the loop: a flood cannot hold it up."""

# Filled and used up within one callback of the loop, so all connections of the process share it.
_buffer: Final = memoryview(bytearray(_READ_BYTES))

_TIMER_SLACK_SECONDS: Final = 0.002
"""Loops round their clocks; without slack a timer that fires a hair early would be set again."""


@dataclass(frozen=True, slots=True)
class Budgets:
    """Seconds that each phase of an attempt may take. `connect` holds DNS, TCP and TLS together.

    A peer that does not read our request has `head` for that, and `head` again for its answer.
    """

    connect: float = 3.0
    head: float = 5.0
    body: float = 2.0
    idle: float = 15.0


DEFAULT_BUDGETS: Final = Budgets()


class Connection(asyncio.BufferedProtocol):
    """One connection, made by the dialler, owned by one attempt or by the pool.

    `key` says which requests may share it, `peer` is the address on the other end; `wait_seconds` of the last exchange
    ran from our last byte to the complete head. Touched by callbacks and by its owner, all in the loop's thread.
    """

    __slots__ = (
        "_budgets",
        "_deadline",
        "_early",
        "_head_at",
        "_is_doubtful",
        "_is_drained",
        "_is_fresh",
        "_is_silent",
        "_loop",
        "_reader",
        "_sent_at",
        "_shaking",
        "_timer",
        "_timer_at",
        "_tls",
        "_transport",
        "_waiter",
        "is_open",
        "is_reusable",
        "key",
        "on_lost",
        "peer",
        "wait_seconds",
    )

    def __init__(self, budgets: Budgets, tls: TlsLayer | None, *, key: str, peer: str) -> None:
        self.key = key
        self.peer = peer
        self.is_open = False
        self.is_reusable = False
        self.wait_seconds = 0.0
        self.on_lost: Callable[[Connection], None] | None = None
        self._budgets = budgets
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._reader = ResponseReader()
        self._transport: asyncio.Transport | None = None
        self._shaking: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[ResponseReader] | None = None
        self._is_doubtful = False
        self._is_drained = True
        self._is_fresh = True
        self._is_silent = True
        self._early = b""
        self._sent_at = 0.0
        self._head_at = 0.0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def shake(self) -> "asyncio.Future[None]":
        """Start the TLS handshake; the future ends with it, or with AttemptFailed. Has no deadline."""
        self._shaking = self._loop.create_future()
        early, self._early = self._early, b""
        self._shake(early)
        return self._shaking

    def exchange(self, request: bytes) -> "asyncio.Future[ResponseReader]":
        """Send a whole request; the future ends with the answer as far as it was read, or with AttemptFailed.

        What it ends with is good until the next exchange. The request leaves in one write. When the caller is canceled
        it must call `abort`.

        Raises:
            AttemptFailed: the connection closed before the request was written.
        """
        transport = self._transport
        if transport is None or not (self.is_open or self._early):
            raise _reset("the connection closed before the request", is_silent=True)
        self._reader.restart()
        self.is_reusable = False
        self._is_silent = True
        self._head_at = 0.0
        waiter = self._waiter = self._loop.create_future()
        if self.is_open:
            tls = self._tls
            transport.write(request if tls is None else tls.seal(request))
        self._sent_at = now = clock.mono()
        self._set_deadline(now + self._budgets.head)
        if self._is_fresh:
            self._is_fresh = False
            if self._early:
                self._loop.call_soon(self._hear_early)
        failpoints.reach(failpoints.Point.ATTEMPT_WRITTEN)
        return waiter

    def rest(self) -> None:
        """Start the time that this connection may stay idle; it closes itself at the end."""
        self._set_deadline(clock.mono() + self._budgets.idle)

    def close(self) -> None:
        """Close in good order: what is written leaves, TLS says farewell."""
        self.is_open = self.is_reusable = False
        if self._transport is not None and not self._transport.is_closing():
            if self._tls is not None and self._tls.is_established:
                self._transport.write(self._tls.farewell())
            self._transport.close()

    def abort(self) -> None:
        """Close at once, dropping what was not sent."""
        self.is_open = self.is_reusable = False
        if self._transport is not None:
            self._transport.abort()

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport and let it report any byte that the kernel does not take at once."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)
        self.is_open = True

    def pause_writing(self) -> None:
        """Note that part of the request still waits in our process."""
        self._is_drained = False

    def resume_writing(self) -> None:
        """Start the clock of the head: the last byte of the request has left."""
        self._is_drained = True
        self._sent_at = clock.mono()
        self._deadline = self._sent_at + self._budgets.head

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the transport's signature
        """Lend the shared buffer for one read."""
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Use up what one read brought."""
        tls = self._tls
        if tls is None:
            self._received(_buffer[:nbytes])
        elif tls.is_established:
            self._received_sealed(tls, _buffer[:nbytes])
        else:
            self._shake(_buffer[:nbytes])

    def eof_received(self) -> bool:
        """Take the peer's close as the end of the connection; nobody gets it any more."""
        self.is_open = self.is_reusable = False
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End whatever waits, and tell the owner."""
        self.is_open = self.is_reusable = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        what = "reset" if isinstance(exc, OSError) else "closed"
        when = "before any answer" if self._is_silent else "in the middle of the answer"
        if self._shaking is not None and not self._shaking.done():
            when = "during the TLS handshake"
        self._break(_reset(f"the connection was {what} {when}", is_silent=self._is_silent))
        if self.on_lost is not None:
            self.on_lost(self)

    # Inner life.

    def _shake(self, data: bytes | memoryview) -> None:
        tls, shaking, transport = self._tls, self._shaking, self._transport
        if tls is None or shaking is None or transport is None:
            self._keep_early(data)
            return
        try:
            tls.shake(data)
        except AttemptFailed as failure:
            transport.write(tls.pending())
            transport.close()
            self._break(failure)
            return
        transport.write(tls.pending())
        if tls.is_established and not shaking.done():
            shaking.set_result(None)
            if tls.has_unread:
                self._received_sealed(tls, _buffer[:0])

    def _keep_early(self, data: bytes | memoryview) -> None:
        """Keep bytes from before our first: an overloaded server refuses before it has read a request."""
        self._early += data
        if len(self._early) > _READ_BYTES:
            self.abort()

    def _hear_early(self) -> None:
        if self._early:
            self._received(b"")
        if not self.is_open:
            self._break(_reset("the connection closed before the request", is_silent=False))

    def _received_sealed(self, tls: TlsLayer, data: memoryview) -> None:
        try:
            plain = tls.open(data)
        except AttemptFailed as failure:
            self._break(failure)
            return
        if (unsent := tls.pending()) and self._transport is not None:
            self._transport.write(unsent)
        if plain:
            self._received(plain)
        if tls.is_ended:
            self.is_open = self.is_reusable = False
            self._break(_reset("the peer ended TLS before its answer", is_silent=self._is_silent))

    def _received(self, data: bytes | memoryview) -> None:
        waiter = self._waiter
        if self._is_fresh:
            self._keep_early(data)
            return
        if waiter is None or waiter.done():
            # Bytes that nobody asked for: the next answer on this connection could be a forged one.
            self.abort()
            return
        self._is_silent = False
        if self._early:
            data, self._early = self._early + data, b""
            self._is_doubtful = True
        reader = self._reader
        is_over = reader.feed(data)
        if reader.status and not self._head_at:
            self._head_at = clock.mono()
            if not is_over:
                self._set_deadline(self._head_at + self._budgets.body)
        if is_over:
            self._conclude(waiter)

    def _conclude(self, waiter: "asyncio.Future[ResponseReader]") -> None:
        failpoints.reach(failpoints.Point.ATTEMPT_ANSWERED)
        reader = self._reader
        self._waiter = None
        if reader.fault:
            self.abort()
            waiter.set_exception(AttemptFailed(OutcomeKind.PROTOCOL_ERROR, reader.fault))
            return
        if not (reader.is_complete and self._is_drained):
            self.abort()
        elif reader.can_continue and self.is_open and not self._is_doubtful:
            self.is_reusable = True
        else:
            self.close()
        self.wait_seconds = max(0.0, self._head_at - self._sent_at)
        waiter.set_result(reader)

    def _break(self, failure: AttemptFailed) -> None:
        """End the exchange for good; a head that was complete is still the answer."""
        self.is_open = self.is_reusable = False
        if self._shaking is not None and not self._shaking.done():
            self._shaking.set_exception(failure)
            return
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.abort()
        elif self._reader.status:
            self._reader.end()
            self._conclude(waiter)
        else:
            self._waiter = None
            self.abort()
            waiter.set_exception(failure)

    def _set_deadline(self, at: float) -> None:
        self._deadline = at
        if self._timer is None or self._timer_at > at:
            self._schedule(at)

    def _schedule(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - clock.mono()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if clock.mono() + _TIMER_SLACK_SECONDS < self._deadline:
            self._schedule(self._deadline)
        elif self._waiter is None:
            self.close()
        else:
            reason = "no response head in time"
            if not self._is_drained:
                reason = "the request was not read in time"
            self._break(AttemptFailed(OutcomeKind.TIMEOUT_RESPONSE, reason))


def _reset(reason: str, *, is_silent: bool) -> AttemptFailed:
    return AttemptFailed(OutcomeKind.CONNECTION_RESET, reason, is_silent=is_silent)
