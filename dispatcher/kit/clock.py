"""The only place that asks the machine what time it is.

Callers ask once per decision and pass the answer down, so that tests own time.
"""

import datetime as dt
import time

now = time.time
"""The wall clock as Unix seconds; for signatures and records, never for durations."""

mono = time.monotonic
"""Monotonic seconds; for durations and deadlines. The clock of asyncio's own loop."""


def utcnow() -> dt.datetime:
    """Return the wall clock as an aware UTC datetime."""
    return dt.datetime.now(dt.UTC)
