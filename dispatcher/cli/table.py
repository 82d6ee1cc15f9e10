"""Draws tables in plain text: as wide as the terminal, or as wide as they are where nobody looks."""

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

_GAP: Final = "  "
_NARROWEST: Final = 16
"""To how many characters a column that may be cut shrinks before others are left out."""

_RESET: Final = "\x1b[0m"
_BOLD: Final = "\x1b[1m"
_GREEN, _YELLOW, _RED = "\x1b[32m", "\x1b[33m", "\x1b[31m"
_COLOURS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("delivered", "enabled", "ok", "done"), _GREEN),
    **dict.fromkeys(("retrying", "held", "paused", "warn", "failing", "retry", "skip"), _YELLOW),
    **dict.fromkeys(("exhausted", "disabled", "fail", "gone", "canceled"), _RED),
}


def has_colours() -> bool:
    """Tell whether standard output is a terminal that wants colours; `NO_COLOR` says no."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str) -> str:
    """Return a word of a closed list in its colour, anything else as it is."""
    colour = _COLOURS.get(text.strip())
    return f"{colour}{text}{_RESET}" if colour and has_colours() else text


def plain(text: str) -> str:
    """Return the text with everything that could move a cursor or colour a screen shown as an escape."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(one) else 1 + (unicodedata.east_asian_width(one) in "WF") for one in text)


def draw(names: Sequence[str], rows: Sequence[Sequence[str]], may_cut: Sequence[bool]) -> Iterator[str]:
    """Give the lines of a table. On a terminal, columns that may be cut shrink, then the last ones are left out."""
    widths = [max(width_of(row[n]) for row in [names, *rows]) for n in range(len(names))]
    if sys.stdout.isatty():
        widths = fit(widths, may_cut, shutil.get_terminal_size().columns)
    head = _line(names, widths)
    yield f"{_BOLD}{head}{_RESET}" if has_colours() else head
    for row in rows:
        yield _line(row, widths)


def fit(widths: Sequence[int], may_cut: Sequence[bool], room: int) -> list[int]:
    """Return how wide each column becomes in `room`; those at the end that do not fit are missing."""
    kept = list(widths)
    while True:
        excess = sum(kept) + len(_GAP) * (len(kept) - 1) - room
        if excess <= 0 or len(kept) == 1:
            return kept
        spare = [max(0, width - _NARROWEST) if cut else 0 for width, cut in zip(kept, may_cut, strict=False)]
        if sum(spare) >= excess:
            return _shrunk(kept, spare, excess)
        kept.pop()


def _shrunk(widths: Sequence[int], spare: Sequence[int], excess: int) -> list[int]:
    """Return the widths with `excess` taken from those that have to spare, the widest first."""
    kept = list(widths)
    for n in sorted(range(len(kept)), key=lambda n: -spare[n]):
        taken = min(spare[n], excess)
        kept[n] -= taken
        excess -= taken
    return kept


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    parts = []
    for text, width in zip(row, widths, strict=False):
        shown = _cut(text, width)
        parts.append(paint(shown) + " " * (width - width_of(shown)))
    return _GAP.join(parts).rstrip()


def _cut(text: str, width: int) -> str:
    """Return the text no wider than `width`, its middle left out: ends tell URLs apart."""
    if width_of(text) <= width:
        return text
    head, tail = text, ""
    keep_tail = (width - 1) // 3
    tail = text[len(text) - keep_tail :]
    while width_of(head) + 1 + width_of(tail) > width and head:
        head = head[:-1]
    return f"{head}…{tail}"
