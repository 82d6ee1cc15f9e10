"""A test event's request and what it met."""

from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from dispatcher.model.outcome import Outcome


class Trial(NamedTuple):
    """`request` is head and body as sent, or (`outcome` None) as they would be, to the host `host_id`.

    `key_ids`: which secrets signed.
    """

    request: bytes
    outcome: Outcome | None
    key_ids: tuple[int, ...]
    host_id: int


class Admit(Protocol):
    """Says whether a test may be sent."""

    def __call__(self, authority: str, *, is_verified: bool) -> AbstractContextManager[None]:
        """Return a context to send in, to the host `authority`; entering it raises when this may not be."""
        ...
