"""Bodies and queries that come in, objects that go out: the shapes behind the API's document.

Incoming shapes are strict: no coercion, no unknown members. Outgoing ones are not built for each answer (handlers
write plain dictionaries); tests hold every answer against them. Members marked optional in an outgoing object are
left out when they are not set.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dispatcher.api.cursors import LONGEST_CURSOR
from dispatcher.model.delivery import DeliveryState
from dispatcher.model.endpoint import EndpointStatus, HealthState
from dispatcher.model.event import Environment
from dispatcher.model.outcome import OutcomeKind, VerdictKind

MOST_METADATA = 50
LONGEST_METADATA_NAME = 64
LONGEST_METADATA_VALUE = 500
DEFAULT_PAGE = 25
LONGEST_PAGE = 100
LONGEST_WAIT_SECONDS = 8
"""Less than a whole request may take."""

Instant = Annotated[str, Field(description="RFC 3339, UTC, milliseconds", examples=["2026-11-03T09:00:00.000Z"])]
MetadataName = Annotated[str, Field(min_length=1, max_length=LONGEST_METADATA_NAME)]
MetadataValue = Annotated[str, Field(max_length=LONGEST_METADATA_VALUE)]
Workflow = Annotated[str, Field(min_length=1, max_length=255)]
Wait = Annotated[int, Field(ge=0, le=86_400, description="seconds")]
RateLimit = Annotated[float, Field(ge=0.01, le=10_000, description="requests per second")]
CaseOutcome = Literal["approved", "declined", "inconclusive"]


class Incoming(BaseModel):
    """A body or a query."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Outgoing(BaseModel):
    """An object of an answer."""

    model_config = ConfigDict(extra="forbid")


Types = Annotated[
    str,
    Field(min_length=1, max_length=1_000, examples=["verification.*"], description="a comma list of types and groups"),
]


class NoQuery(Incoming):
    """A query without parameters."""


class PageQuery(Incoming):
    """A page of a list: how many at most, and after which place."""

    limit: Annotated[int, Field(ge=1, le=LONGEST_PAGE)] = DEFAULT_PAGE
    after: Annotated[str, Field(min_length=1, max_length=LONGEST_CURSOR)] | None = None


class LogQuery(PageQuery):
    """A page of a log. All filters hold together; a page may be short or empty while `next` is not null.

    `outcome`: one of outcomes, classes (`2xx` to `5xx`) and `no_answer`.
    `since` and `until` (exclusive): RFC 3339. `subject`: a verification's id; `client_reference`: what the customer
    calls it. Of either the newest 100 events are looked at.
    `test`: only what "send test event" sent, or nothing of it.
    """

    type: Types | None = None
    outcome: Annotated[str, Field(min_length=1, max_length=300, examples=["5xx,no_answer"])] | None = None
    since: Annotated[str, Field(min_length=1, max_length=40, examples=["2026-11-03T09:00:00Z"])] | None = None
    until: Annotated[str, Field(min_length=1, max_length=40, examples=["2026-11-04T09:00:00Z"])] | None = None
    event_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    subject: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    client_reference: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    test: bool | None = None


class DeliveriesQuery(LogQuery):
    """A page of deliveries. `since` and `until` are of their creation, `outcome` of the last attempt.

    `status`: a comma list of pending, retrying, held, delivered, exhausted, canceled.
    """

    status: Annotated[str, Field(min_length=1, max_length=100, examples=["pending,retrying"])] | None = None


class EventsQuery(PageQuery):
    """A page of events. `asc` is the feed: oldest first, from `after` on; at its end it can wait for the next event."""

    wait: Annotated[int, Field(ge=0, le=LONGEST_WAIT_SECONDS, description="seconds; of the feed only")] = 0
    order: Literal["asc", "desc"] = "desc"
    type: Types | None = None


class FilterBody(Incoming):
    """Which of the subscribed events to deliver: those with one of the outcomes, of one of the workflows."""

    outcomes: Annotated[list[CaseOutcome], Field(min_length=1, max_length=3)] | None = None
    workflows: Annotated[list[Workflow], Field(min_length=1, max_length=50)] | None = None


class EndpointBody(Incoming):
    """An endpoint to be made. `schedule`: seconds before each attempt, the first usually 0.

    `rate_limit`: requests per second, below what the host gets anyway.
    """

    url: Annotated[str, Field(examples=["https://example.com/webhooks"])]
    events: Annotated[list[str], Field(max_length=40, examples=[["verification.*"]])]
    description: Annotated[str, Field(max_length=255)] | None = None
    api_version: str | None = None
    payload_mode: Literal["thin", "full"] = "thin"
    headers: dict[str, str] | None = None
    filter: FilterBody | None = None
    metadata: Annotated[dict[MetadataName, MetadataValue], Field(max_length=MOST_METADATA)] | None = None
    schedule: list[Wait] | None = None
    rate_limit: RateLimit | None = None


class EndpointChangeBody(Incoming):
    """Members to change; what is left out stays, and null takes an optional one away.

    `events`, `headers`, `filter`, `metadata` and `schedule` are replaced as a whole. A header whose value is given as
    `********` keeps the one it has, but at another host: there all are given anew or left out (`header_value_needed`),
    and the endpoint has to answer with success again to be verified.
    While it is paused or disabled, what it misses is kept; enabling sends it. The status changes last, by itself.
    """

    url: Annotated[str, Field(examples=["https://example.com/webhooks"])] = ""
    events: Annotated[list[str], Field(max_length=40, examples=[["verification.*"]])] = []
    description: Annotated[str, Field(max_length=255)] | None = None
    api_version: str = ""
    payload_mode: Literal["thin", "full"] = "thin"
    headers: dict[str, str] | None = None
    filter: FilterBody | None = None
    metadata: Annotated[dict[MetadataName, MetadataValue], Field(max_length=MOST_METADATA)] | None = None
    schedule: list[Wait] | None = None
    rate_limit: RateLimit | None = None
    status: Literal["enabled", "paused", "disabled"] = "enabled"


class RotationBody(Incoming):
    """`expires_in`: seconds for which the present secret signs on beside the new one; 0 when it leaked.

    `force`: rotate although two secrets are in force; the older of them is destroyed.
    """

    expires_in: Annotated[int, Field(ge=0, le=604_800)] = 86_400
    force: bool = False


class RotationShown(Outgoing):
    """A new signing secret. `secret` is shown here and never again; null in a repeated answer."""

    object: Literal["secret_rotation"]
    endpoint_id: str
    secret: str | None
    secret_last4: str
    previous_secret_last4: str | None
    previous_secret_expires_at: Instant | None = Field(description="null: it signs no more")


class FilterShown(Outgoing):
    """The filter of an endpoint; a member left out lets everything pass."""

    outcomes: list[CaseOutcome] | None = None
    workflows: list[str] | None = None


class NewEndpointShown(Outgoing):
    """An endpoint just made. `secret` is shown here and never again; null in a repeated answer."""

    id: str
    object: Literal["webhook_endpoint"]
    url: str
    description: str | None
    events: list[str]
    api_version: str
    payload_mode: Literal["thin", "full"]
    environment: Environment
    status: EndpointStatus
    verified: bool
    secret: str | None
    created_at: Instant
    headers: dict[str, str] = Field(default={}, description="names with masked values")
    filter: FilterShown | None = None
    metadata: dict[str, str] = {}
    schedule: list[int] | None = None
    rate_limit: float | None = None
    schedule_preview: list[Instant] | None = Field(
        default=None, description="when each attempt would be made, had an event come in with `created_at`"
    )
    warnings: list[Literal["url_unresolvable"]] = []


class FaultShown(Outgoing):
    """One faulty member. `pointer` (RFC 6901) for one of the body, `parameter` for one of the query."""

    pointer: str | None = None
    parameter: str | None = None
    code: str
    message: str
    nearest: list[str] = Field(default=[], description="known values that look like the one sent")


class ProblemShown(Outgoing):
    """A refusal (RFC 9457). `code` is stable; `request_id` finds the request in our logs."""

    type: str
    title: str
    status: int
    code: str
    detail: str = ""
    request_id: str
    errors: list[FaultShown] = []


class HealthShown(Outgoing):
    """How an endpoint does, and what the last request to it met; null before the first.

    `failing` means three failures in a row, the first of them an hour ago or longer: `failing_since`.
    """

    state: HealthState
    failing_since: Instant | None
    consecutive_failures: int
    last_success_at: Instant | None
    last_attempt_at: Instant | None
    last_status_code: int | None
    last_outcome: OutcomeKind | None


class EndpointShown(Outgoing):
    """An endpoint. Nothing secret is ever in it: `secret_last4` tells secrets apart."""

    id: str
    object: Literal["webhook_endpoint"]
    url: str
    description: str | None
    events: list[str]
    api_version: str
    payload_mode: Literal["thin", "full"]
    environment: Environment
    status: EndpointStatus
    verified: bool
    secret_last4: str | None
    previous_secret_expires_at: Instant | None
    health: HealthShown
    created_at: Instant
    disabled_reason: str | None = None
    headers: dict[str, str] = Field(default={}, description="names with masked values")
    filter: FilterShown | None = None
    metadata: dict[str, str] = {}
    schedule: list[int] | None = None
    rate_limit: float | None = None


class EndpointChangedShown(EndpointShown):
    """An endpoint just changed, with what there is to say about the change."""

    schedule_preview: list[Instant] | None = Field(
        default=None, description="when each attempt would be made, had an event come in at the moment of the change"
    )
    warnings: list[Literal["url_unresolvable"]] = []


class PhasesShown(Outgoing):
    """Milliseconds spent in each phase; a phase that did not happen is null."""

    dns_ms: float | None
    connect_ms: float | None
    tls_ms: float | None
    wait_ms: float | None


class HourShown(Outgoing):
    """What an endpoint met within an hour: requests, and those of them that delivered."""

    begins_at: Instant
    attempts: int
    delivered: int


class StatsShown(Outgoing):
    """What an endpoint met within 24 hours and within a week, and what waits for it; as of up to a second ago.

    `success_rate` and the durations (milliseconds, of the whole request) are over `attempts` requests since `since`,
    the newest 2,000 at most; all null without any. What waits is counted up to 10,000 in each state.
    `attempts_7d` and `success_rate_7d` are over all requests of the week before `counted_to`, `hours` are its last 24.
    """

    object: Literal["endpoint_stats"]
    endpoint_id: str
    attempts: int
    success_rate: float | None
    p50_ms: int | None
    p95_ms: int | None
    since: Instant | None
    last_attempt_at: Instant | None
    last_delivered_at: Instant | None
    pending_deliveries: int
    retrying_deliveries: int
    held_deliveries: int
    oldest_waiting_at: Instant | None
    next_attempt_at: Instant | None
    attempts_7d: int
    success_rate_7d: float | None
    hours: list[HourShown] = Field(description="the oldest first; those without a request, too")
    counted_to: Instant | None = Field(
        description="the end of the last hour counted, usually 5 to 10 minutes after it is over; null: none yet"
    )


class DeliveryShown(Outgoing):
    """One event for one endpoint. What begins with `last_` is the last attempt's; null before one and once canceled.

    `attempts_max`: attempts after which it ends, should all fail; null where it ended without a request.
    """

    id: str
    object: Literal["delivery"]
    endpoint_id: str
    event_id: str
    event_type: str | None
    subject: str | None
    client_reference: str | None
    environment: Environment
    status: DeliveryState
    attempts: int
    attempts_max: int | None
    next_attempt_at: Instant | None
    last_attempt_at: Instant | None
    last_status_code: int | None
    last_outcome: OutcomeKind | None
    last_duration_ms: int | None
    created_at: Instant
    ended_at: Instant | None


class SourceIpsShown(Outgoing):
    """Where requests come from. `changes_at`: when the list changes next; null: not planned."""

    data: list[str]
    changes_at: Instant | None


class FreeObject(BaseModel):
    """A JSON object whose shape is described elsewhere."""

    model_config = ConfigDict(extra="allow")


class AttemptShown(Outgoing):
    """One HTTP request. `reason` is in our words; `address` is what was dialled, null when it was refused.

    `asked_by`: what it was made for. A resend is by hand or of a replay, which is not recorded; null: unknown.
    """

    object: Literal["attempt"]
    delivery_id: str
    event_id: str
    event_type: str
    subject: str | None
    client_reference: str | None
    attempt: int
    asked_by: Literal["schedule", "resend", "test"] | None
    started_at: Instant
    duration_ms: int
    status_code: int | None
    outcome: OutcomeKind
    verdict: VerdictKind
    next_at: Instant | None
    phases: PhasesShown
    reused_connection: bool
    address: str | None
    reason: str | None


class EventTypeShown(Outgoing):
    """One event type of the catalogue. Operational types are never part of `*`."""

    name: str
    object: Literal["event_type"]
    group: str
    description: str
    fires: str
    default: bool
    operational: bool
    status: str | None
    final: bool | None


class EndpointList(Outgoing):
    """A page of endpoints."""

    data: list[EndpointShown]
    next: str | None


SearchedTo = Annotated[Instant | None, Field(description="how far back this page looked; null at the end")]


class DeliveryList(Outgoing):
    """A page of deliveries."""

    data: list[DeliveryShown]
    next: str | None
    searched_to: SearchedTo


class AttemptList(Outgoing):
    """A page of attempts."""

    data: list[AttemptShown]
    next: str | None
    searched_to: SearchedTo


class EventShown(BaseModel):
    """An event exactly as it is sent to endpoints: the envelope around its data."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: str
    timestamp: str
    api_version: str
    environment: Environment
    account_id: str
    test: bool
    data: dict[str, Any]


class EventList(Outgoing):
    """A page of events. With `order=asc`, `resume` is where to go on once more events came in; never null."""

    data: list[EventShown]
    next: str | None
    resume: str | None = None


class EventTypeList(Outgoing):
    """A page of the catalogue, in published order."""

    data: list[EventTypeShown]
    next: str | None
