"""Answers that wait for what is not there yet: so few of them that nobody else's requests notice."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, TypeVar

from dispatcher.api.problems import Problem, ProblemCode
from dispatcher.kit import clock
from dispatcher.ledger.accounts import Tenant

MOST: Final = 50
"""Requests of one process that may wait at a time: each looks three times a second."""

MOST_OF_TENANT: Final = 10
"""Keys are free to make: by keys alone one account would take all places."""

MOST_OF_KEY: Final = 5

_POLL_SECONDS: Final = 0.3

Page = TypeVar("Page")


class Asker(NamedTuple):
    """For whom an answer waits. `has_left` tells whether nobody is there any more to hear it."""

    key_id: str
    tenant: Tenant
    has_left: Callable[[], bool]


class Waiters:
    """The requests of one process that wait. Touched by any of them, never across an await."""

    def __init__(self) -> None:
        self._waiting: list[Asker] = []

    @contextmanager
    def joined(self, asker: Asker) -> Iterator[None]:
        """Count one for the length of the block. Raises Problem 429 where there is no room for it."""
        if not self._has_room(asker):
            detail = (
                f"at most {MOST_OF_KEY} requests of a key wait at a time, "
                f"{MOST_OF_TENANT} of an account's environment, and {MOST} of all"
            )
            raise Problem(ProblemCode.RATE_LIMITED, detail, headers={"Retry-After": "1"})
        self._waiting.append(asker)
        try:
            yield
        finally:
            self._waiting.remove(asker)

    def _has_room(self, asker: Asker) -> bool:
        n_of_key = sum(one.key_id == asker.key_id for one in self._waiting)
        n_of_tenant = sum(one.tenant == asker.tenant for one in self._waiting)
        return n_of_key < MOST_OF_KEY and n_of_tenant < MOST_OF_TENANT and len(self._waiting) < MOST

    async def until_there(
        self, asker: Asker, look: Callable[[], Awaitable[Page]], is_there: Callable[[Page], bool], *, seconds: float
    ) -> Page:
        """Look, and again until something is there, `seconds` are over or the asker has left.

        Nothing is held in between: no connection, no snapshot. Raises Problem 429 instead of waiting as one too many.
        """
        give_up = clock.mono() + seconds
        page = await look()
        if is_there(page) or clock.mono() + _POLL_SECONDS > give_up:
            return page
        with self.joined(asker):
            while not is_there(page) and clock.mono() + _POLL_SECONDS <= give_up:
                await asyncio.sleep(_POLL_SECONDS)
                if asker.has_left():
                    break
                page = await look()
        return page
