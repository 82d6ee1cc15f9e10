"""Patience with Postgres and Kafka: again and again until they answer, or until told to stop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from dispatcher.kit.supervise import sleep_until_set
from dispatcher.model.errors import Unavailable

T = TypeVar("T")

AGAIN_SECONDS: Final = 0.2

_log = structlog.get_logger("intake")


class Waiting:
    """How intake waits. `stopping` ends every wait."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()

    def tell(self, fault: BaseException) -> None:
        """Say what is waited for; the log leaves out what it has just said."""
        _log.warning("intake_waits", reason=f"{type(fault).__name__}: {fault}")

    async def pause(self, seconds: float = AGAIN_SECONDS) -> bool:
        """Wait before another try; true when told to stop."""
        return await sleep_until_set(self.stopping, seconds)

    async def until_available(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """Ask Postgres until it answers; None when told to stop first."""
        while True:
            try:
                return await ask()
            except Unavailable as fault:
                self.tell(fault)
                if await self.pause():
                    return None
