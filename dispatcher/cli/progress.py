"""A bar on standard error while something takes its time; nothing where nobody looks."""

import sys
from types import TracebackType
from typing import Final, Self

_WIDTH: Final = 24


class Progress:
    """A bar that fills up to `total`. Enter it; `move` redraws it, leaving wipes it away."""

    def __init__(self, total: int) -> None:
        self._total: Final = total
        self._is_shown: Final = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def move(self, done: int, words: str) -> None:
        """Show how much is done, and a few words behind the bar."""
        if self._is_shown:
            sys.stderr.write(f"\r\x1b[K{bar(done, self._total)}  {words}")
            sys.stderr.flush()


def bar(done: int, total: int) -> str:
    """Return the bar of `done` out of `total`; both may be zero."""
    filled = _WIDTH if done >= total else _WIDTH * done // total
    return f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {done}/{total}"
