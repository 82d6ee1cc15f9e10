"""Replays and drains; they are begun under an endpoint."""

from typing import Final

from dispatcher.api import replays
from dispatcher.api.call import Route
from dispatcher.api.problems import PAGED, ProblemCode
from dispatcher.api.replay_models import ReplayList, ReplayShown, ReplaysQuery
from dispatcher.model.access import Scope

REPLAY_ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/replays",
        operation_id="listReplays",
        handler=replays.list_replays,
        scope=Scope.DELIVERIES_READ,
        summary="List replays and drains, newest first",
        answer=ReplayList,
        opens_to_operators=True,
        query=ReplaysQuery,
        problems=(*PAGED, ProblemCode.NOT_FOUND),
    ),
    Route(
        method="GET",
        path="/v1/replays/{id}",
        operation_id="getReplay",
        handler=replays.read_replay,
        scope=Scope.DELIVERIES_READ,
        summary="Show how far a replay is",
        answer=ReplayShown,
        opens_to_operators=True,
    ),
    Route(
        method="DELETE",
        path="/v1/replays/{id}",
        operation_id="cancelReplay",
        handler=replays.cancel_replay,
        scope=Scope.DELIVERIES_WRITE,
        summary="End a replay; deliveries that it made go their way. With a drain, those still held are canceled",
        answer=ReplayShown,
        opens_to_operators=True,
    ),
)
