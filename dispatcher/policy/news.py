"""Builds operational events: which facts, under which id.

The id is made of what happened, to whom and in which transition, so that whoever tells of one transition twice tells
the same event.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Final

from dispatcher.model.delivery import Settlement
from dispatcher.model.ids import event_id_of, show_event_id
from dispatcher.model.news import Concerned, News, NewsKind
from dispatcher.model.outcome import VerdictKind
from dispatcher.policy.projection import Envelope, build_body, show_timestamp
from dispatcher.policy.schema_files import API_VERSION, Json

SOURCE: Final = "/dispatcher"
"""`ce_source` of our own events."""

_OPERATIONAL: Final = frozenset[str](NewsKind)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def is_news(settlement: Settlement) -> bool:
    """Tell whether a settlement may have to be told: a delivery given up, or an endpoint that is gone.

    A delivery of news that was given up is no news: nothing here ever follows from itself.
    """
    kind = settlement.verdict.kind
    if kind is VerdictKind.GONE:
        return True
    return kind is VerdictKind.EXHAUSTED and settlement.delivery.event_type not in _OPERATIONAL


def endpoint_failing(about: Concerned, *, failing_since: dt.datetime, failures: int, last_error: str | None) -> News:
    """Return the news that an endpoint fails; one event for each row of failures."""
    endpoint: dict[str, Json] = {
        "id": about.public_id,
        "status": "failing",
        "failing_since": show_timestamp(failing_since),
        "consecutive_failures": failures,
        "last_error": last_error,
    }
    return _news(NewsKind.ENDPOINT_FAILING, about, about.public_id, _micros(failing_since), {"endpoint": endpoint})


def endpoint_disabled(about: Concerned) -> News:
    """Return the news that an endpoint was disabled, by what `about` says; one event for each time."""
    assert about.held_since is not None
    endpoint: dict[str, Json] = {
        "id": about.public_id,
        "status": "disabled",
        "disabled_reason": about.disabled_reason,
        "pending_events": about.n_pending,
    }
    return _news(NewsKind.ENDPOINT_DISABLED, about, about.public_id, _micros(about.held_since), {"endpoint": endpoint})


def delivery_exhausted(about: Concerned, settlement: Settlement, delivery_id: str) -> News:
    """Return the news that a delivery to `about` was given up; one event for each last attempt.

    `delivery_id` is the public one.
    """
    status = None if settlement.outcome is None else settlement.outcome.status
    delivery: dict[str, Json] = {
        "id": delivery_id,
        "endpoint_id": about.public_id,
        "event_id": settlement.delivery.public_event_id,
        "event_type": settlement.delivery.event_type,
        "attempts": settlement.attempt_no,
        "last_status_code": status,
    }
    return _news(NewsKind.DELIVERY_EXHAUSTED, about, delivery_id, settlement.attempt_no, {"delivery": delivery})


def error_of(status: int | None, outcome: str | None) -> str | None:
    """Return in one word what an attempt met: `http_503`, else its outcome; None when nothing is known."""
    return outcome if status is None else f"http_{status}"


def _news(kind: NewsKind, about: Concerned, whose: str, transition: int, data: Mapping[str, Json]) -> News:
    event_id = event_id_of(SOURCE, f"{kind}:{whose}:{transition}")
    envelope: Envelope = {
        "id": show_event_id(event_id),
        "type": kind,
        "timestamp": show_timestamp(about.at),
        "api_version": API_VERSION,
        "environment": about.environment,
        "account_id": about.account,
        "test": False,
        "data": data,
    }
    return News(kind, about, event_id, build_body(envelope))


def _micros(at: dt.datetime) -> int:
    return (at - _EPOCH) // dt.timedelta(microseconds=1)
