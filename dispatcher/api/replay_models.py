"""Shapes of replays: what is asked for, and how a job stands."""

from typing import Annotated, Literal

from pydantic import Field

from dispatcher.api.models import Incoming, Instant, Outgoing, PageQuery
from dispatcher.model.event import Environment
from dispatcher.model.replay import ReplayKind, ReplayState, Wanted

LONGEST_INSTANT = 40


class ReplayBody(Incoming):
    """Which events of an endpoint to send again, or late, and how fast.

    `since` and `until` (outside; now unless given) are about when events happened. `types` may hold groups, as a
    subscription may. `rate` is deliveries per second: half of what the endpoint takes unless given.
    """

    since: Annotated[str, Field(max_length=LONGEST_INSTANT)]
    until: Annotated[str, Field(max_length=LONGEST_INSTANT)] | None = None
    what: Literal["failed", "missing", "all"]
    types: Annotated[list[str], Field(min_length=1, max_length=40)] | None = None
    rate: Annotated[float, Field(ge=0.1, le=100_000.0)] | None = None
    dry_run: bool = False


class ReplaysQuery(PageQuery):
    """A page of replays, of one endpoint or of all."""

    endpoint_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class ReplayCountShown(Outgoing):
    """What a replay would make. `at_least`: counting stopped early, there may be more."""

    object: Literal["replay_count"]
    expected: int
    at_least: bool


class ReplayShown(Outgoing):
    """A job. A drain is one that enabling an endpoint made. `made` deliveries are in the queue or beyond it."""

    id: str
    object: Literal["replay"]
    account_id: str
    endpoint_id: str
    environment: Environment
    kind: ReplayKind
    what: Wanted
    since: Instant | None
    until: Instant | None
    types: list[str] | None
    rate: float
    status: ReplayState
    expected: int
    at_least: bool
    scanned: int
    made: int
    skipped: int
    created_at: Instant
    ended_at: Instant | None


class ReplayList(Outgoing):
    """A page of replays."""

    data: list[ReplayShown]
    next: str | None
