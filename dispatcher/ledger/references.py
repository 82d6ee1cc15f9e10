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
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from dispatcher.model.batch import PlacedEvent

MOST: Final = 50_000
"""Introductions remembered: some minutes of a thousand events a second, about 15 MB."""

Introduction = tuple[dt.date, str, str, str | None, str]
"""Day, account, environment, subject and reference."""


class References:
    """The introductions that are stored for sure, as far as this process remembers. Touched by one caller at a time."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._stored: dict[Introduction, None] = {}

    def introduced_by(self, events: Sequence[PlacedEvent]) -> list[Introduction | None]:
        """Return what each event is the first to introduce, None for most."""
        seen: set[Introduction] = set()
        return [self._news(placed, seen) for placed in events]

    def remember(self, introductions: Iterable[Introduction | None]) -> None:
        """Take these for stored, in the place of the oldest."""
        self._stored.update(dict.fromkeys(one for one in introductions if one is not None))
        for oldest in list(islice(self._stored, max(0, len(self._stored) - self._most))):
            del self._stored[oldest]

    def _news(self, placed: PlacedEvent, seen: set[Introduction]) -> Introduction | None:
        event = placed.event
        if event.client_reference is None:
            return None
        introduction = (placed.event_day, event.account, event.environment, event.subject, event.client_reference)
        if introduction in self._stored or introduction in seen:
            return None
        seen.add(introduction)
        return introduction
