"""When a consumer counts as stuck, and when making it anew is no cure. Pure: times are arguments, monotonic seconds."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How long nothing may come before the cause is looked for, and how many cures are tried in which time."""

    stuck_seconds: float = 60.0
    n_rebuilds: int = 3
    within_seconds: float = 600.0


class Watchdog:
    """Remembers progress and cures. A poll that brought records is progress, and so is finding nothing left to read."""

    def __init__(self, patience: Patience, now: float) -> None:
        self._patience = patience
        self._progress = now
        self._rebuilds: deque[float] = deque(maxlen=patience.n_rebuilds)

    def progressed(self, now: float) -> None:
        """Note progress, or a wait that was ours."""
        self._progress = now

    def look_again(self, now: float) -> None:
        """Look once more after a quarter of the patience, unless there is progress before."""
        self._progress = now - self._patience.stuck_seconds * 3 / 4

    def is_due(self, now: float) -> bool:
        """Tell whether nothing came for so long that the cause must be looked for."""
        return now - self._progress >= self._patience.stuck_seconds

    def rebuilt(self, now: float) -> None:
        """Note that the consumer is made anew because it was stuck."""
        self._rebuilds.append(now)

    def is_beyond_cure(self, now: float) -> bool:
        """Tell whether it was made anew so often, within so short a time, that only a new process is left to try."""
        is_full = len(self._rebuilds) == self._patience.n_rebuilds
        return is_full and now - self._rebuilds[0] < self._patience.within_seconds
