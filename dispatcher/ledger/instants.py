"""Instants as the driver reads them back, which takes the calendar's first and last microsecond for infinities."""

import datetime as dt


def aware(instant: dt.datetime) -> dt.datetime:
    """Return the instant with its zone: an infinity comes without one, as the edge that it was written from.

    `0001-01-01T00:00:00Z` is what many programs write for "no time", so it does come.
    """
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=dt.UTC)
