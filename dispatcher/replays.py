"""The replay runner: durable jobs make deliveries from stored events, step by step, in whichever process comes first.

A process that delivers looks for a job that is ready, takes one short step of it, and looks again; the ledger sees to
it that no two processes take the same step and that a killed one loses none. What a step makes waits in Postgres like
any retry, so it comes back through the due-reader, after what is fresh. The runner also fulfils wishes to cancel, and
keeps the net under the drains.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from dispatcher.kit import clock
from dispatcher.model.errors import PoisonBatch, Unavailable
from dispatcher.model.replay import ReplayState, Step, Work

_LOOK_SECONDS: Final = 0.5
_AGAIN_SECONDS: Final = 1.0
_STRAYS_SECONDS: Final = 30.0

_log = structlog.get_logger("replays")


class Jobs(Protocol):
    """What the runner needs of the ledger. Raises Unavailable."""

    async def work(self) -> Work:
        """Tell what there is to do."""
        ...

    async def step(self) -> Step | None:
        """Take one step of any job that is ready; None when none is."""
        ...

    async def fulfil_wishes(self) -> int:
        """Cancel what somebody wished canceled."""
        ...

    async def release_strays(self) -> int:
        """Let go what is held for no reason."""
        ...


class ReplayRunner:
    """Takes steps until canceled. `jitter` spreads the looks of many processes, 1.0 on average."""

    def __init__(self, jobs: Jobs, *, jitter: Callable[[], float]) -> None:
        self._jobs = jobs
        self._jitter = jitter
        self._next_strays = 0.0

    async def run(self) -> None:
        """Serve until canceled; waits out absences of Postgres. A canceled step is rolled back."""
        while True:
            try:
                await self._look()
            except Unavailable as fault:
                _log.warning("replays_unavailable", reason=str(fault))
                await asyncio.sleep(_AGAIN_SECONDS * self._jitter())
            except PoisonBatch as fault:
                # One job must not bring down every process that delivers.
                _log.error("replay_refused", reason=str(fault))
                await asyncio.sleep(_AGAIN_SECONDS * self._jitter())

    async def _look(self) -> None:
        if clock.mono() >= self._next_strays:
            self._next_strays = clock.mono() + _STRAYS_SECONDS * self._jitter()
            n_strays = await self._jobs.release_strays()
            if n_strays:
                _log.warning("strays_released", n_deliveries=n_strays)
        work = await self._jobs.work()
        if work.has_wishes:
            await self._jobs.fulfil_wishes()
        if not (work.has_jobs and await self._step()):
            await asyncio.sleep(_LOOK_SECONDS * self._jitter())

    async def _step(self) -> bool:
        """Take one step and rest for as long as it took; false when another process was faster."""
        began = clock.mono()
        step = await self._jobs.step()
        if step is not None and step.state is not ReplayState.RUNNING:
            _log.info(
                "replay_ended",
                replay_id=step.public_id,
                kind=step.kind,
                state=step.state,
                n_made=step.n_made,
                n_skipped=step.n_skipped,
            )
        # A long feed is not to cost the database more than half of one connection.
        await asyncio.sleep(clock.mono() - began)
        return step is not None
