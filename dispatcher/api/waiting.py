"""Answers that wait for what is not there yet: so few of them that nobody else's requests notice."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from dispatcher.api.problems import Problem, ProblemCode
from dispatcher.kit import clock

MOST: Final = 50
"""Requests of one process that may wait at a time: each looks three times a second."""

MOST_OF_KEY: Final = 5

_POLL_SECONDS: Final = 0.3

Page = TypeVar("Page")


class Waiters:
    """The requests of one process that wait, by key. Touched by any of them, never across an await."""

    def __init__(self) -> None:
        self._of_key: Counter[str] = Counter()

    @contextmanager
    def joined(self, key_id: str) -> Iterator[None]:
        """Count one for the length of the block. Raises Problem 429 where there is no room for it."""
        if self._of_key[key_id] >= MOST_OF_KEY or self._of_key.total() >= MOST:
            detail = f"at most {MOST_OF_KEY} requests of a key wait at a time, and {MOST} of all"
            raise Problem(ProblemCode.RATE_LIMITED, detail, headers={"Retry-After": "1"})
        self._of_key[key_id] += 1
        try:
            yield
        finally:
            self._of_key[key_id] -= 1
            # Keys come and go; what is counted is only who waits.
            self._of_key += Counter()

    async def until_there(
        self, key_id: str, look: Callable[[], Awaitable[Page]], is_there: Callable[[Page], bool], *, seconds: float
    ) -> Page:
        """Look, and again until something is there or `seconds` are over.

        Nothing is held in between: no connection, no snapshot. Raises Problem 429 instead of waiting as one too many.
        """
        give_up = clock.mono() + seconds
        page = await look()
        if is_there(page) or clock.mono() + _POLL_SECONDS > give_up:
            return page
        with self.joined(key_id):
            while not is_there(page) and clock.mono() + _POLL_SECONDS <= give_up:
                await asyncio.sleep(_POLL_SECONDS)
                page = await look()
        return page
