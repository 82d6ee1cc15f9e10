"""The work of replays, one short transaction per step: the next stretch of a feed becomes deliveries, the job moves on.

The job's row is locked for the step, so any number of processes may step any number of jobs. What a step makes and
where the job then stands commit together: a process that is killed in between leaves both as they were, and another
one takes the same step.
"""

import math
from typing import Any, Final

import asyncpg

from dispatcher.kit import failpoints
from dispatcher.ledger.connections import Link
from dispatcher.ledger.holding import SETTLING_SECONDS
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.ledger.wishes import count_of
from dispatcher.model.endpoint import EndpointStatus
from dispatcher.model.replay import ReplayKind, ReplayState, Step, Work

EVENTS_PER_STEP: Final = 1_000
"""Events looked at in one step: 0.1 s on a busy machine, where each is looked up in thirty days of attempts."""

_MOST_MADE: Final = 500
_SLICE_SECONDS: Final = 0.5
"""A step makes as many deliveries as the job's rate allows in this time, then the job rests for as long."""

_MOST_DUE: Final = 2_000
"""Deliveries that may wait for a process at an endpoint: a job goes no faster than the endpoint takes them, so the hot
table stays small."""

_IDLE_SECONDS: Final = 0.5
_HELD_SECONDS: Final = 2.0
_STRAYS: Final = 100


class StepLedger:
    """What running replays needs of Postgres. One caller at a time; the link it is given serves nobody else."""

    def __init__(self, link: Link, *, settling_seconds: float = SETTLING_SECONDS) -> None:
        self._link = link
        self._settling_seconds = settling_seconds

    async def work(self) -> Work:
        """Tell what there is to do, in one cheap statement."""
        row = await self._link.fetchrow("work_waiting")
        return Work(row["has_jobs"], row["has_wishes"])

    async def step(self) -> Step | None:
        """Take one step of any job that is ready and return what it did; None when no job is.

        Raises:
            Unavailable: the step may or may not have been taken; there is nothing to mend.
        """
        return await self._link.transaction(self._step)

    async def _step(self, connection: asyncpg.Connection) -> Step | None:
        job = await connection.fetchrow(STATEMENTS["pick_replay"])
        if job is None:
            return None
        kind = ReplayKind(job["kind"])
        if job["status"] == EndpointStatus.DELETED:
            await connection.execute(STATEMENTS["end_replay"], job["replay_id"])
            return Step(job["public_id"], kind, ReplayState.CANCELED)
        if job["status"] == EndpointStatus.ENABLED:
            return await self._go_on(connection, job, kind)
        if kind is ReplayKind.DRAIN:
            await connection.execute(STATEMENTS["give_back_drain"], job["endpoint_id"])
            return Step(job["public_id"], kind, ReplayState.CANCELED)
        await connection.execute(STATEMENTS["put_off_replay"], job["replay_id"], _HELD_SECONDS)
        return Step(job["public_id"], kind, ReplayState.RUNNING)

    async def _go_on(self, connection: asyncpg.Connection, job: Any, kind: ReplayKind) -> Step:
        due: Any = await connection.fetchrow(STATEMENTS["count_due"], job["host_id"], job["endpoint_id"], _MOST_DUE)
        may_make = min(_MOST_MADE, math.ceil(job["rate"] * _SLICE_SECONDS), _MOST_DUE - due["n"])
        n_released = 0
        if kind is ReplayKind.DRAIN:
            n_released = count_of(await connection.execute(STATEMENTS["release_held"], job["endpoint_id"], may_make))
        told: Any = await connection.fetchrow(
            STATEMENTS["replay_step"],
            job["replay_id"],
            EVENTS_PER_STEP,
            may_make - n_released,
            self._settling_seconds,
            n_released,
            _IDLE_SECONDS,
        )
        failpoints.reach(failpoints.Point.REPLAY_STEPPED)
        return Step(job["public_id"], kind, ReplayState(told["state"]), told["n_made"], told["n_skipped"])

    async def release_strays(self) -> int:
        """Let held deliveries of enabled endpoints go that no drain cares for; return how many there were."""
        rows = await self._link.fetch("release_strays", _STRAYS)
        return len(rows)

    async def fulfil_wishes(self) -> int:
        """Cancel what somebody wished canceled and no process has any more; return how many deliveries."""

        async def work(connection: asyncpg.Connection) -> int:
            found = await connection.fetch(STATEMENTS["wished_canceled"])
            if found:
                await connection.execute(
                    STATEMENTS["cancel_deliveries"], [row["delivery_id"] for row in found], None, None
                )
            await connection.execute(STATEMENTS["forget_wishes"])
            return len(found)

        return await self._link.transaction(work)
