"""The shapes of test events: what to send, and what became of it."""

from typing import Annotated, Literal

from pydantic import Field

from dispatcher.api.models import Incoming, Outgoing, PhasesShown
from dispatcher.model.outcome import OutcomeKind

Variant = Literal["approved", "declined", "inconclusive", "non_ascii", "empty_optional", "largest"]


class TrialBody(Incoming):
    """A test to make. `dry_run`: only show what would be sent."""

    type: Annotated[str, Field(max_length=128)] = "verification.completed"
    variant: Variant | None = None
    dry_run: bool = False


class SampleQuery(Incoming):
    """Which variant of a sample."""

    variant: Variant | None = None


class RequestShown(Outgoing):
    """A request as it was sent, or would be. Values of the endpoint's own headers are masked.

    `without_body_because`: `scope` asks for a key with `payloads:read`.
    """

    method: Literal["POST"]
    url: str
    headers: dict[str, str]
    body: str | None
    without_body_because: Literal["scope"] | None


class TrialShown(Outgoing):
    """A test and what became of it; of a dry run what would be sent.

    `would_deliver`: whether a real event like this would be sent now, and if not, why. `error` is the likely cause in
    words. `response_body` is the answer's first 16 KiB as text, null without an answer, and to a key without
    `payloads:read`, which `without_response_body_because` tells.
    """

    object: Literal["test"]
    dry_run: bool
    event_id: str
    event_type: str
    delivery_id: str | None
    delivered: bool
    would_deliver: bool
    would_skip_because: Literal["not_subscribed", "filtered_outcome", "filtered_workflow", "held"] | None
    outcome: OutcomeKind | None
    status_code: int | None
    duration_ms: int | None
    phases: PhasesShown
    response_body: str | None
    without_response_body_because: Literal["scope"] | None
    response_cut: bool
    error: str | None
    request: RequestShown
