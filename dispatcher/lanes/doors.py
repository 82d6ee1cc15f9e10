"""What a board is given: its doors to the other rooms, and its bounds."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.endpoint import HostLimits


@dataclass(frozen=True, slots=True)
class BoardLimits:
    """What one process may hold. `queued_high` and `queued_low` open and close intake (hysteresis)."""

    in_flight: int
    memory_bytes: int
    queued_high: int = 2_000
    queued_low: int = 1_000


@dataclass(frozen=True, slots=True)
class Doors:
    """What the board is given.

    `carry` takes a delivery through one attempt and returns its settlement; when it raises, which is a bug, the
    delivery goes back to Postgres for half a minute. `settle` takes settlements. `limits_of` names a host's limits,
    `pace_of` an endpoint's own ones, below those, or None. `may_start` is asked with the monotonic time, once
    for all that start at that instant: the lease and the recorder speak through it; while it says no the board looks
    again every 50 ms.
    """

    carry: Callable[[Delivery], Awaitable[Settlement]]
    settle: Callable[[Settlement], None]
    limits_of: Callable[[int], HostLimits]
    pace_of: Callable[[int], HostLimits | None]
    may_start: Callable[[float], bool]
