"""Events and their types, and what can be followed as it happens."""

from typing import Final

from dispatcher.api import listening, live, logs, trials
from dispatcher.api.call import Route
from dispatcher.api.live import LiveAttemptList, LiveQuery
from dispatcher.api.models import EventList, EventShown, EventsQuery, EventTypeList, FreeObject, PageQuery
from dispatcher.api.problems import PAGED, ProblemCode
from dispatcher.api.trial_models import SampleQuery
from dispatcher.model.access import Scope

EVENT_ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/events",
        operation_id="listEvents",
        handler=logs.list_events,
        scope=Scope.EVENTS_READ,
        summary="List events, newest first; with `order=asc` a feed; five of a key may `wait`, ten of its account",
        answer=EventList,
        query=EventsQuery,
        problems=PAGED,
    ),
    Route(
        method="GET",
        path="/v1/events/{id}",
        operation_id="getEvent",
        handler=logs.read_event,
        scope=Scope.EVENTS_READ,
        summary="Show an event as it is sent",
        answer=EventShown,
    ),
    Route(
        method="GET",
        path="/v1/event_types",
        operation_id="listEventTypes",
        handler=logs.list_event_types,
        scope=Scope.EVENTS_READ,
        summary="List the event types that exist",
        answer=EventTypeList,
        query=PageQuery,
        problems=PAGED,
    ),
    Route(
        method="GET",
        path="/v1/attempts",
        operation_id="followAttempts",
        handler=live.follow_attempts,
        scope=Scope.DELIVERIES_READ,
        summary="Follow requests to all endpoints as they are recorded; five of a key may `wait`, ten of its account",
        answer=LiveAttemptList,
        query=LiveQuery,
        problems=(*PAGED, ProblemCode.NOT_FOUND),
    ),
    Route(
        method="GET",
        path="/v1/listen",
        operation_id="listen",
        handler=listening.listen,
        scope=Scope.LISTEN,
        summary="Follow events over a WebSocket, to forward them to a program on one's own machine",
        answer=None,
        status=101,
        problems=(ProblemCode.MALFORMED_REQUEST,),
    ),
    Route(
        method="GET",
        path="/v1/event_types/{type}/schema",
        operation_id="getEventTypeSchema",
        handler=logs.read_schema,
        scope=Scope.EVENTS_READ,
        summary="Show the JSON schema (2020-12) of an event type's bodies",
        answer=FreeObject,
    ),
    Route(
        method="GET",
        path="/v1/event_types/{type}/sample",
        operation_id="getEventTypeSample",
        handler=trials.read_sample,
        scope=Scope.EVENTS_READ,
        summary="Show a body as a test event of this type has it",
        answer=EventShown,
        query=SampleQuery,
    ),
)
