"""Instants as people and programs write them: as RFC 3339 says, and no other way that happens to be readable."""

import datetime as dt
import re
from typing import Final

INSTANT_WORDS: Final = "an instant as in RFC 3339, with its offset, for example 2026-11-03T09:00:00Z; no leap second"
"""What to tell who wrote something else. A second 60 is refused: nothing that is compared with it has one."""

_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)

_SHOWN: Final = b"0000-00-00T00:00:00.000Z"
_DIGITS_TO_ZERO: Final = bytes.maketrans(b"123456789", b"0" * 9)


def read_shown(text: str) -> dt.datetime | None:
    """Return an instant, aware UTC, of a text in the very form in which a body shows one; None for any other form.

    Nearly every instant that comes has this form. `read_instant` reads it as well, in three times the time.
    """
    try:
        # From Python 3.13 on hour 24 is read as the next day.
        is_shown = text.encode().translate(_DIGITS_TO_ZERO) == _SHOWN and text[11:13] < "24"
        return dt.datetime.fromisoformat(text) if is_shown else None
    except ValueError:
        return None


def read_instant(text: str) -> dt.datetime | None:
    """Return an instant, aware UTC, cut to microseconds; None when the text is none, or none of the years 1 to 9999."""
    if not _RFC3339.fullmatch(text):
        return None
    try:
        return dt.datetime.fromisoformat(text.upper()).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
