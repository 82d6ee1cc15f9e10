"""Unit tests own time: the monotonic clock is the loop's, which `looptime` makes virtual."""

import asyncio
import logging
import time
from collections.abc import Iterator

import pytest
import structlog

from dispatcher.kit import clock


@pytest.fixture(autouse=True)
def _loop_owns_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def mono() -> float:
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return time.monotonic()

    monkeypatch.setattr(clock, "mono", mono)


@pytest.fixture
def own_logs() -> Iterator[None]:
    """Undo at the end what setting up the daemon's logs changes in this process."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
