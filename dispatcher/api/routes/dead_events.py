"""For operators alone: records that could not become events."""

from typing import Final

from dispatcher.api import dead_events
from dispatcher.api.call import NoBody, Route
from dispatcher.api.models import PageQuery
from dispatcher.api.problems import PAGED, ProblemCode
from dispatcher.model.access import Scope

DEAD_EVENT_ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/dead_events",
        operation_id="listDeadEvents",
        handler=dead_events.list_dead_events,
        scope=Scope.OPERATOR,
        summary="List records that could not become events, latest first; their values stay sealed",
        answer=dead_events.DeadEventList,
        query=PageQuery,
        problems=PAGED,
    ),
    Route(
        method="GET",
        path="/v1/dead_events/{place}",
        operation_id="getDeadEvent",
        handler=dead_events.read_dead_event,
        scope=Scope.OPERATOR,
        summary="Show a dead event; its place, `topic/partition/offset`, is percent-encoded in the path",
        answer=dead_events.DeadEventDetailShown,
        query=dead_events.DeadEventQuery,
    ),
    Route(
        method="POST",
        path="/v1/dead_events/{place}/redrive",
        operation_id="redriveDeadEvent",
        handler=dead_events.redrive_dead_event,
        scope=Scope.OPERATOR,
        summary="Publish a dead event's record to its topic again, once its cause is mended",
        answer=dead_events.RedrivenShown,
        status=202,
        body=NoBody,
        problems=(ProblemCode.REDRIVEN_BEFORE, ProblemCode.REDRIVE_UNDER_WAY, ProblemCode.NO_KAFKA),
    ),
    Route(
        method="DELETE",
        path="/v1/dead_events/{place}",
        operation_id="discardDeadEvent",
        handler=dead_events.discard_dead_event,
        scope=Scope.OPERATOR,
        summary="Delete a dead event for good",
        answer=None,
        status=204,
    ),
)
