"""A line or a bar on standard error while something takes its time; nothing where nobody looks."""

import sys
from types import TracebackType
from typing import Final, Self

_WIDTH: Final = 24
_WIPED: Final = "\r\x1b[K"


class Note:
    """A line on standard error that is there while something is waited for. Enter it; leaving wipes it away."""

    def __init__(self) -> None:
        self._may_show: Final = sys.stderr.isatty()
        self._is_there = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def show(self, words: str) -> None:
        """Put these words there, in the place of those before."""
        if self._may_show:
            sys.stderr.write(f"{_WIPED}{words}")
            sys.stderr.flush()
            self._is_there = True

    def wipe(self) -> None:
        """Make place for other output."""
        if self._is_there:
            sys.stderr.write(_WIPED)
            sys.stderr.flush()
            self._is_there = False


class Progress:
    """A bar that fills up to `total`. Enter it; `move` redraws it, leaving wipes it away."""

    def __init__(self, total: int) -> None:
        self._total: Final = total
        self._note: Final = Note()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._note.wipe()

    def move(self, done: int, words: str) -> None:
        """Show how much is done, and a few words behind the bar."""
        self._note.show(f"{bar(done, self._total)}  {words}")


def bar(done: int, total: int) -> str:
    """Return the bar of `done` out of `total`; both may be zero."""
    filled = _WIDTH if done >= total else _WIDTH * done // total
    return f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {done}/{total}"
