"""Builders with defaults: a test names only what matters to it."""

import datetime as dt
from itertools import count
from typing import Any

from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.endpoint import EndpointStatus, SigningKey, Target
from dispatcher.model.ids import show_event_id
from dispatcher.model.news import Concerned, News, NewsKind
from dispatcher.model.outcome import Outcome, OutcomeKind, Verdict, VerdictKind

_numbers = count(1)
BORN = dt.datetime(2026, 11, 3, 9, 24, 55, 312000, dt.UTC)


def a_delivery(**changes: Any) -> Delivery:
    """Return a delivery of its own number; change what matters."""
    number = next(_numbers)
    plain = Delivery(
        delivery_id=number,
        event_id=number.to_bytes(20, "big"),
        public_event_id=show_event_id(number.to_bytes(20, "big")),
        event_day=BORN.date(),
        account_id=1,
        environment="live",
        endpoint_id=1,
        host_id=1,
        attempts=0,
        created_at=BORN,
        event_type="verification.completed",
        subject="ver_8Zk3QmT1xW5n",
        client_reference="user-4711",
        body=b'{"id":"evt"}',
        occurred_at=BORN,
        accepted_mono=0.0,
    )
    return plain._replace(**changes)


def a_target(**changes: Any) -> Target:
    """Return an enabled live endpoint on https://example.com; change what matters."""
    plain: dict[str, Any] = {
        "endpoint_id": 1,
        "public_id": "we_0000000000000001",
        "account": "acct_5hQ2vN8rTb",
        "environment": "live",
        "status": EndpointStatus.ENABLED,
        "host_id": 1,
        "scheme": "https",
        "hostname": "example.com",
        "port": 443,
        "path": "/webhooks",
        "keys": (SigningKey(7, b"k" * 36),),
        "headers": (),
        "schedule": (0.0, 5.0, 300.0),
        "is_verified": True,
    }
    return Target(**{**plain, **changes})


def an_outcome(kind: OutcomeKind = OutcomeKind.DELIVERED, **changes: Any) -> Outcome:
    """Return an outcome of 20 ms; 2xx unless said otherwise."""
    status = 200 if kind is OutcomeKind.DELIVERED else None
    return Outcome(kind, 0.02, status)._replace(**changes)


def a_settlement(delivery: Delivery | None = None, **changes: Any) -> Settlement:
    """Return the settlement of a delivered first attempt; change what matters."""
    plain = Settlement(delivery or a_delivery(), an_outcome(), Verdict(VerdictKind.DELIVERED, 1), 1, 0.0, 0.0, (7,))
    return plain._replace(**changes)


def concerned(**changes: Any) -> Concerned:
    """Return a live endpoint as news tell of it; change what matters."""
    plain = Concerned(1, "we_0000000000000001", 1, "acct_5hQ2vN8rTb", "live", None, None, 0, BORN)
    return plain._replace(**changes)


def some_news(kind: NewsKind = NewsKind.ENDPOINT_FAILING, **changes: Any) -> News:
    """Return news about an endpoint; `changes` are of the endpoint."""
    about = concerned(**changes)
    return News(kind, about, b"n" * 20, b"{}")
