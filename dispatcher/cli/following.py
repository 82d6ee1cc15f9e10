"""Follows events that were just published until each of their deliveries has ended.

An event and its deliveries are stored in one statement: once the API shows the event, the list of its deliveries is
whole, and an event without any has no endpoint that wants it.
"""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from dispatcher.cli.client import Api, path_to

_POLL_SECONDS: Final = (0.1, 1.0)
"""Between two looks; the wait doubles from the first to the second."""

_FEW: Final = 10
"""So many events are asked for one by one, which a key's rate permits every second; more are found in the logs."""

_ENDED: Final = frozenset({"delivered", "exhausted", "canceled"})
_RESTING: Final = _ENDED | {"held"}
"""States that do not change by themselves."""

Tell = Callable[[Mapping[str, int]], None]


class Ending(NamedTuple):
    """What became of the events. `missing` were not stored in time; `deliveries` hold the endpoint's `url`, too.

    Unless it `is_whole` there may be deliveries that were not seen: the logs are longer than there was time to read.
    """

    deliveries: list[dict[str, Any]]
    missing: frozenset[str]
    is_whole: bool = True

    @property
    def is_good(self) -> bool:
        """Tell whether everything that was to be delivered is."""
        return self.is_whole and not self.missing and all(one["status"] == "delivered" for one in self.deliveries)


class Follower:
    """Watches the deliveries of events. Make it before they are published: it remembers where each log ends."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._urls = {one["id"]: one["url"] for one in api.rows("/v1/webhook_endpoints", None)}
        self._last = {endpoint: self._newest(endpoint) for endpoint in self._urls}
        self._found: dict[str, dict[str, Any]] = {}
        self._at_rest: set[str] = set()

    def follow(self, events: Collection[str], event_type: str, *, seconds: float, tell: Tell) -> Ending:
        """Wait until every delivery of `events` rests, or `seconds` are over. `tell` is given the counts by state."""
        give_up = time.monotonic() + seconds
        missing = frozenset(events)
        wait = _POLL_SECONDS[0]
        while True:
            missing -= self._stored(missing, event_type)
            is_whole = self._look(frozenset(events), missing, give_up)
            found = list(self._found.values())
            tell(_counted(found))
            rests = is_whole and not missing and all(one["status"] in _RESTING for one in found)
            if rests or time.monotonic() + wait > give_up:
                return Ending(found, missing, is_whole)
            time.sleep(wait)
            wait = min(wait * 2, _POLL_SECONDS[1])

    def _newest(self, endpoint: str) -> str | None:
        rows = self._api.rows(path_to("webhook_endpoints", endpoint, "deliveries"), 1)
        return next((one["id"] for one in rows), None)

    def _stored(self, wanted: frozenset[str], event_type: str) -> frozenset[str]:
        if not wanted:
            return wanted
        # Others publish, too: look a little further back than our own events reach.
        newest = self._api.rows("/v1/events", 2 * len(wanted) + 100, type=event_type)
        return wanted & {one["id"] for one in newest}

    def _look(self, events: frozenset[str], missing: frozenset[str], give_up: float) -> bool:
        """Read the deliveries anew; what was seen once stays. False when time was over before the end of the logs."""
        if len(events) > _FEW:
            walks = [self._walk(endpoint, events, give_up) for endpoint in self._urls]
            return all(walks)
        for event in events - missing - self._at_rest:
            rows = list(self._api.rows("/v1/deliveries", None, event_id=event))
            self._note(rows)
            if all(one["status"] in _RESTING for one in rows):
                self._at_rest.add(event)
        return True

    def _walk(self, endpoint: str, events: frozenset[str], give_up: float) -> bool:
        """Read an endpoint's log back to where it ended when we began, whatever else came meanwhile."""
        for one in self._api.rows(path_to("webhook_endpoints", endpoint, "deliveries"), None):
            if one["id"] == self._last[endpoint]:
                break
            if one["event_id"] in events:
                self._note([one])
            elif time.monotonic() > give_up:
                return False
        return True

    def _note(self, rows: Collection[dict[str, Any]]) -> None:
        for one in rows:
            self._found[one["id"]] = {**one, "url": self._urls.get(one["endpoint_id"])}


def _counted(deliveries: Collection[Mapping[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in deliveries:
        counts[one["status"]] = counts.get(one["status"], 0) + 1
    return counts
