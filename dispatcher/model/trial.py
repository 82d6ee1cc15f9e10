"""A test event's request and what it met."""

from typing import NamedTuple

from dispatcher.model.outcome import Outcome


class Trial(NamedTuple):
    """`request` is head and body as sent, or (`outcome` None) as they would be, to the host `host_id`.

    `key_ids`: which secrets signed.
    """

    request: bytes
    outcome: Outcome | None
    key_ids: tuple[int, ...]
    host_id: int
