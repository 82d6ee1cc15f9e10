"""Deliveries made again, or made late, from stored events: what may be asked for, and how a job stands."""

import datetime as dt
from enum import StrEnum
from typing import NamedTuple


class Wanted(StrEnum):
    """Which events of an endpoint's feed a replay makes deliveries for. Closed."""

    FAILED = "failed"
    """Those whose delivery ended without success and was not sent again since."""
    MISSING = "missing"
    """Those that match the subscription and never got a delivery."""
    ALL = "all"


class ReplayKind(StrEnum):
    """Why a job is there: asked for, or made by putting an endpoint into service again. Closed."""

    REPLAY = "replay"
    DRAIN = "drain"


class ReplayState(StrEnum):
    """How a job stands. Closed."""

    RUNNING = "running"
    DONE = "done"
    CANCELED = "canceled"


class Selection(NamedTuple):
    """The events that a replay looks at: by when they happened (`until` is outside), and by subscription names."""

    wanted: Wanted
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    types: tuple[str, ...] | None = None


class Tally(NamedTuple):
    """A count that may have stopped early: then there are at least so many."""

    n: int
    is_minimum: bool


class Replay(NamedTuple):
    """A durable job. `rate` is deliveries per second; `n_skipped` matched, but had nothing to be made for them."""

    replay_id: int
    public_id: str
    account: str
    endpoint: str
    environment: str
    kind: ReplayKind
    selection: Selection
    rate: float
    state: ReplayState
    expected: Tally
    n_scanned: int
    n_made: int
    n_skipped: int
    created_at: dt.datetime
    ended_at: dt.datetime | None


class Work(NamedTuple):
    """What waits for a runner: jobs that are ready, wishes to cancel."""

    has_jobs: bool
    has_wishes: bool


class Step(NamedTuple):
    """What one step of a job did, with the job's totals after it. `state` is running when there is more to do."""

    public_id: str
    kind: ReplayKind
    state: ReplayState
    n_made: int = 0
    n_skipped: int = 0
