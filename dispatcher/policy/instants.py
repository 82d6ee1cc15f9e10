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


def read_instant(text: str) -> dt.datetime | None:
    """Return an instant, aware UTC, cut to microseconds; None when the text is none, or none of the years 1 to 9999."""
    if not _RFC3339.fullmatch(text):
        return None
    try:
        return dt.datetime.fromisoformat(text.upper()).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
