"""Named points at which a process can be made to die, for tests: `FAILPOINT=accept.sent:17:kill`.

One environment variable, read at import, names the point, the hit that counts (1 unless given) and what then happens:
`kill` (the default) sends the own process SIGKILL, `raise` raises, `hang` blocks the whole process for as many seconds
as a fourth part says (`settle.sent:3:hang:9`; 20 unless given, longer than any lease in a test). A point that can be
parked at knows `park`, too: the task that comes there stays for ever, and the others go on. Without the variable a
point costs one comparison.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from typing import Final

VARIABLE: Final = "FAILPOINT"
HANG: Final = "hang"
HANG_SECONDS: Final = 20.0
_IN_FLIGHT_SECONDS: Final = 0.0005
"""A statement handed to the socket before this is over has left, and no answer is that fast."""


class Point(StrEnum):
    """Every point there is, in the order of an event's journey. `*.sent` means: under way, no answer yet."""

    POLL = "poll"
    PARTITIONS_REVOKED = "partitions.revoked"
    INTAKE_POLLED = "intake.polled"
    ACCEPT_SENT = "accept.sent"
    ACCEPT_ANSWERED = "accept.answered"
    KAFKA_COMMITTED = "kafka.committed"
    ATTEMPT_LOOKED_UP = "attempt.looked_up"
    ATTEMPT_CONNECTED = "attempt.connected"
    ATTEMPT_WRITTEN = "attempt.written"
    ATTEMPT_ANSWERED = "attempt.answered"
    SETTLE_SENT = "settle.sent"
    SETTLE_ANSWERED = "settle.answered"
    CLAIM_SENT = "claim.sent"
    CLAIM_ANSWERED = "claim.answered"
    REPLAY_STEPPED = "replay.stepped"
    TAKEOVER_LOCKED = "takeover.locked"
    STOPPING = "stopping"
    DRAINING = "draining"
    DAYS_SENT = "days.sent"
    DAYS_MADE = "days.made"
    DETACH_SENT = "detach.sent"
    DAY_DETACHED = "day.detached"


class FailpointReached(Exception):
    """What an armed point raises when it was told to."""


class Failpoint:
    """One armed point: acts at the `nth` time that it is hit, and never again."""

    def __init__(self, point: Point, nth: int, action: str, hang_seconds: float = HANG_SECONDS) -> None:
        self.point: Final = point
        self._left = nth
        self._action = partial(_hang, hang_seconds) if action == HANG else _ACTIONS[action]

    @classmethod
    def parse(cls, text: str) -> "Failpoint":
        """Return what `point[:nth[:action[:seconds]]]` asks for; ValueError when it is no such thing."""
        name, nth, action, seconds = (*text.split(":"), "", "", "")[:4]
        if action and action not in (*_ACTIONS, HANG):
            message = f"{VARIABLE} knows {', '.join(_ACTIONS)} and {HANG}, not {action}"
            raise ValueError(message)
        if action == "park" and Point(name) is not Point.POLL:
            message = f"nobody can be parked at {name}"
            raise ValueError(message)
        return cls(Point(name), int(nth or 1), action or "kill", float(seconds or HANG_SECONDS))

    def hit(self) -> None:
        """Count one hit; act when it is the one."""
        if self._is_the_one():
            self._action(self.point)

    def hit_soon(self) -> None:
        """Count one hit; act a moment later, when what is about to be sent is under way. `raise` acts at once."""
        if not self._is_the_one():
            return
        if self._action is _raise:
            self._action(self.point)
        asyncio.get_running_loop().call_later(_IN_FLIGHT_SECONDS, self._action, self.point)

    async def hit_parking(self) -> None:
        """Count one hit; act when it is the one, which for `park` means not to return."""
        if self._is_the_one():
            self._action(self.point)
            if self._action is _say:
                await asyncio.Event().wait()

    def _is_the_one(self) -> bool:
        self._left -= 1
        return self._left == 0


_witness: Callable[[], Mapping[str, int]] = dict


def testify(witness: Callable[[], Mapping[str, int]]) -> None:
    """Have an armed point say on standard error, as its last words, what `witness` counts at that instant."""
    global _witness  # noqa: PLW0603 - one process has one life to tell of
    _witness = witness


def reach(point: Point) -> None:
    """Pass a point."""
    if _armed is not None and _armed.point is point:
        _armed.hit()


def reach_soon(point: Point) -> None:
    """Pass a point just before something is sent; an armed one acts while it is under way."""
    if _armed is not None and _armed.point is point:
        _armed.hit_soon()


async def park(point: Point) -> None:
    """Pass a point where a task can be made to stay for ever."""
    if _armed is not None and _armed.point is point:
        await _armed.hit_parking()


def _say(point: Point) -> None:
    words = "".join(f" {name}={count}" for name, count in _witness().items())
    # Past any buffer: the next instruction may be the last.
    os.write(sys.stderr.fileno(), f"failpoint {point}{words}\n".encode())


def _kill(point: Point) -> None:
    _say(point)
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(point: Point) -> None:
    _say(point)
    raise FailpointReached(point)


def _hang(seconds: float, point: Point) -> None:
    _say(point)
    time.sleep(seconds)


_ACTIONS: Final[Mapping[str, Callable[[Point], None]]] = {"kill": _kill, "raise": _raise, "park": _say}

_armed = Failpoint.parse(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
