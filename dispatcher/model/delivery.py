"""A delivery on its way through the lanes, and the settlement that ends one attempt of it."""

import datetime as dt
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from dispatcher.model.outcome import Outcome, Verdict


class DeliveryState(StrEnum):
    """How a delivery stands, as the API and the logs show it. Closed."""

    PENDING = "pending"
    RETRYING = "retrying"
    HELD = "held"
    DELIVERED = "delivered"
    EXHAUSTED = "exhausted"
    CANCELED = "canceled"


class Delivery(NamedTuple):
    """One event for one endpoint, owned by this process. `attempts` counts those already made.

    `event_id` is raw bytes and `public_event_id` their text, `created_at` aware UTC from the database. `accepted_mono`
    is the monotonic time at which this process got it (fresh or claimed). `attempts_before` are those of `attempts`
    that were made before it was sent again by hand or by a replay: the schedule begins after them.
    """

    delivery_id: int
    event_id: bytes
    public_event_id: str
    event_day: dt.date
    account_id: int
    environment: str
    endpoint_id: int
    host_id: int
    attempts: int
    created_at: dt.datetime
    event_type: str
    subject: str | None
    client_reference: str | None
    body: bytes
    occurred_at: dt.datetime
    accepted_mono: float
    attempts_before: int = 0

    def last_attempt(self, schedule: Sequence[float]) -> int:
        """Return the number of the last attempt that will be made, should all fail."""
        return self.attempts_before + len(schedule)


class Settlement(NamedTuple):
    """What is to be written about one delivery. `outcome` None: nothing was sent (parked, held, canceled).

    `started_mono` and `decided_mono` are monotonic; Postgres turns them into its own time by age.
    `attempt_no` is 1-based. `key_ids` names the secrets that signed, newest first; `last_attempt` is the number of the
    last attempt as the request told it, 0 when none was made.
    """

    delivery: Delivery
    outcome: Outcome | None
    verdict: Verdict
    attempt_no: int
    started_mono: float
    decided_mono: float
    key_ids: tuple[int, ...] = ()
    last_attempt: int = 0
