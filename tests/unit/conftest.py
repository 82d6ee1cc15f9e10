"""Unit tests own time: the monotonic clock is the loop's, which `looptime` makes virtual."""

import asyncio
import time

import pytest

from dispatcher.kit import clock


@pytest.fixture(autouse=True)
def _loop_owns_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def mono() -> float:
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return time.monotonic()

    monkeypatch.setattr(clock, "mono", mono)
