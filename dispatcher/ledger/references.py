"""Which events of a verification introduce the customer's reference to it: only they are in the index of references.

An index entry costs accept about a seventh of what an event costs, and a verification has about ten events. So a search
goes from the reference to the subject by an event that introduces it, and from there to all events by the subject.

    event                    1  2  3 │ 4  5        one verification; the bar is midnight
    in event_reference       ■       │ ■
    in event_subject         ■  ■  ■ │ ■  ■

Events of a verification lie in one Kafka partition, so one process sees nearly all of them. What it does not remember
is introduced again, which costs an entry and changes nothing else. Each day begins anew: days are dropped one by one,
and none may depend on one before it.
"""

import datetime as dt
from collections.abc import Iterable
from itertools import islice
from typing import Final

MOST: Final = 50_000
"""Introductions remembered: some minutes of a thousand events a second, about 15 MB."""

Reference = tuple[dt.date, str, str, str | None, str | None]
"""Day, account, environment and subject of an event, and the customer's reference in it, None where it has none."""


class References:
    """The introductions that are stored for sure, as far as this process remembers. Touched by one caller at a time."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._stored: dict[Reference, None] = {}

    def introduced_by(self, references: Iterable[Reference]) -> list[Reference | None]:
        """Return for each event its reference if it is the first to introduce that, None for most."""
        seen: set[Reference] = set()
        introduced: list[Reference | None] = []
        for one in references:
            if one[-1] is None or one in self._stored or one in seen:
                introduced.append(None)
            else:
                seen.add(one)
                introduced.append(one)
        return introduced

    def remember(self, introductions: Iterable[Reference | None]) -> None:
        """Take these for stored, in the place of the oldest."""
        self._stored.update(dict.fromkeys(filter(None, introductions)))
        for oldest in list(islice(self._stored, max(0, len(self._stored) - self._most))):
            del self._stored[oldest]
