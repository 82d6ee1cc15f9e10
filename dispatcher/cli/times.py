"""Times as people say and type them: `3 min ago`, `in 5 s`, `1h30m`."""

import datetime as dt
import re
from typing import Final

from dispatcher.policy.instants import read_instant

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_PIECE: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION: Final = re.compile(rf"(?:{_PIECE.pattern})+")
_STEPS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


def relative(instant: dt.datetime, now: dt.datetime) -> str:
    """Return how far `instant` is from `now`, both aware, to one unit: `now`, `3 min ago`, `in 5 s`.

    What lies ahead is rounded, so that a key made for 90 days ends `in 90 d`; what is past counts whole units.
    """
    seconds = (instant - now).total_seconds()
    for size, unit in _STEPS:
        if abs(seconds) >= size:
            return f"in {round(seconds / size)} {unit}" if seconds > 0 else f"{int(-seconds / size)} {unit} ago"
    return "now"


def parse_duration(text: str) -> float | None:
    """Return the seconds of a text like `250ms`, `90s`, `1h30m` or `2d`, None when it is no such text."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PIECE.findall(text))


def parse_moment(text: str, now: dt.datetime) -> dt.datetime | None:
    """Return an aware moment: `6h` is that long before `now`, anything else as the API reads it.

    A person may leave out the offset, or the time, too: then it is local time, and midnight. None when the text is
    none of these, or names a moment that no calendar has.
    """
    seconds = parse_duration(text)
    try:
        if seconds is not None:
            return now - dt.timedelta(seconds=seconds)
        if (moment := read_instant(text)) is not None:
            return moment
        local = read_instant(f"{text}Z") or read_instant(f"{text}T00:00:00Z")
        return None if local is None else local.replace(tzinfo=None).astimezone()
    except (ValueError, OverflowError):
        return None
