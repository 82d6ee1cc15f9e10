"""Handlers of test events: what would be sent, and what became of it."""

import secrets
import string
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Final

import orjson

from dispatcher.api.call import Answer, Call
from dispatcher.api.idempotency import repeat
from dispatcher.api.problems import Fault, Problem, ProblemCode, not_found, refused
from dispatcher.api.shapes import MASK
from dispatcher.api.trial_models import TrialBody
from dispatcher.kit import clock
from dispatcher.ledger.deeds import Action
from dispatcher.ledger.endpoints import StoredEndpoint
from dispatcher.ledger.trials import TrialLedger
from dispatcher.model.delivery import Delivery
from dispatcher.model.endpoint import EndpointStatus
from dispatcher.model.errors import SealBroken
from dispatcher.model.ids import new_test_event_id, show_event_id
from dispatcher.model.outcome import NO_PHASES, Outcome, OutcomeKind
from dispatcher.model.trial import Trial
from dispatcher.policy.samples import SampleFrame, sample_body, variants_of

_DIGITS: Final = string.ascii_letters + string.digits
_CAUSES: Final[Mapping[OutcomeKind, str]] = {
    OutcomeKind.HTTP_3XX: "the endpoint redirects, and redirects are not followed: register the final URL",
    OutcomeKind.HTTP_4XX: "the endpoint refuses the request",
    OutcomeKind.HTTP_410: "the endpoint says that it is gone; for a real event that disables it",
    OutcomeKind.HTTP_429: "the endpoint says that it gets too many requests",
    OutcomeKind.HTTP_5XX: "the endpoint's own program failed",
    OutcomeKind.TIMEOUT_CONNECT: "no connection within 3 seconds: a firewall, or a wrong port?",
    OutcomeKind.TIMEOUT_RESPONSE: "connected, but no answer within 5 seconds: answer first, work later",
    OutcomeKind.DNS_ERROR: "the host's name does not resolve: a typing error, or DNS not set up yet?",
    OutcomeKind.CONNECTION_REFUSED: "nothing listens on that port of the host",
    OutcomeKind.CONNECTION_RESET: "the host closed the connection before it answered",
    OutcomeKind.TLS_ERROR: "the certificate does not verify: expired, for another name, or its chain is not complete?",
    OutcomeKind.ADDRESS_FORBIDDEN: "requests to the address of this host are not allowed",
    OutcomeKind.PROTOCOL_ERROR: "what came back is not HTTP/1.1",
    OutcomeKind.INTERRUPTED: "we were interrupted; try again",
    OutcomeKind.INTERNAL_ERROR: "something failed on our side; try again",
}
_RAW_BODY_HINT: Final = (
    "the endpoint refuses the signature or the login: is it the right secret, and is it checked over the raw body, "
    "before anything parses it?"
)


async def send_test(call: Call) -> Answer:
    """Send one signed test event, or (dry run) show what would be sent. Paused and disabled endpoints get it, too.

    Bodies, ours and theirs, need the scope `payloads:read`.
    Two requests with one idempotency key at the same moment both send, and are answered the same.
    """
    body: TrialBody = call.body
    endpoint = await call.endpoints.find(call.tenant, call.path["id"])
    if endpoint is None:
        raise not_found()
    trials = call.services.trials
    if trials is None:
        raise Problem(ProblemCode.NOT_DELIVERING, "it has not the role `deliver`; ask a process that has it")
    delivery = await _delivery(call, endpoint, body)
    if body.dry_run:
        return Answer(_show(call, endpoint, delivery, await _made(trials.write, delivery)))
    admit = partial(call.trial_bounds.admitted, call.tenant, endpoint.public_id)
    trial = await _made(partial(trials.send, admit=admit), delivery)
    assert trial.outcome is not None
    deed = call.deed(Action.ENDPOINT_TESTED)
    shown = _show(call, endpoint, delivery, trial)
    kept = await TrialLedger(call.services.pool).record(
        deed,
        endpoint.public_id,
        delivery._replace(host_id=trial.host_id),
        trial.outcome,
        trial.key_ids,
        answer=orjson.dumps(shown),
    )
    if trial.outcome.kind is OutcomeKind.DELIVERED and endpoint.verified_at is None:
        call.services.on_endpoint_changed(endpoint.endpoint_id)
    return Answer(shown) if kept is None else repeat(kept, call.ask)


async def read_sample(call: Call) -> Answer:
    """Show a body as a test event of a type would have it."""
    example = call.services.publications.examples.get(call.path["type"])
    if example is None:
        raise not_found()
    if call.query.variant is not None and call.query.variant not in variants_of(example):
        fault = Fault("variant", "unknown_variant", _variants_told(example))
        raise Problem(ProblemCode.INVALID_QUERY, fault.message, faults=[fault])
    return Answer(
        orjson.Fragment(_sample(call, example, new_test_event_id(), "we_0000000000000000", call.query.variant))
    )


async def _delivery(call: Call, endpoint: StoredEndpoint, body: TrialBody) -> Delivery:
    examples = call.services.publications.examples
    if body.type not in examples:
        nearest = call.services.catalogue.nearest(body.type)
        raise refused([Fault("/type", "unknown_event_type", "this event type does not exist", nearest)])
    example = examples[body.type]
    if body.variant is not None and body.variant not in variants_of(example):
        raise refused([Fault("/variant", "unknown_variant", _variants_told(example), variants_of(example))])
    now = clock.utcnow()
    event_id = new_test_event_id()
    sample = _sample(call, example, event_id, endpoint.public_id, body.variant)
    verification = _verification(sample)
    return Delivery(
        delivery_id=await TrialLedger(call.services.pool).new_number(),
        event_id=event_id,
        public_event_id=show_event_id(event_id),
        event_day=now.date(),
        account_id=call.tenant.account_id,
        environment=endpoint.environment,
        endpoint_id=endpoint.endpoint_id,
        host_id=0,
        attempts=0,
        created_at=now,
        event_type=body.type,
        subject=verification.get("id"),
        client_reference=verification.get("client_reference"),
        body=sample,
        occurred_at=now,
        accepted_mono=clock.mono(),
    )


async def _made(make: Any, delivery: Delivery) -> Trial:
    try:
        trial: Trial | None = await make(delivery)
    except SealBroken as fault:
        raise Problem(ProblemCode.UNAVAILABLE, "a secret of the endpoint cannot be opened just now") from fault
    if trial is None:
        raise not_found()
    return trial


def _sample(call: Call, example: bytes, event_id: bytes, endpoint_id: str, variant: str | None) -> bytes:
    frame = SampleFrame(call.bearer.account or "", call.tenant.environment, show_event_id(event_id), endpoint_id)
    token = "".join(secrets.choice(_DIGITS) for _ in range(12))
    return sample_body(example, frame, token=token, now=clock.utcnow(), variant=variant)


def _show(call: Call, endpoint: StoredEndpoint, delivery: Delivery, trial: Trial) -> dict[str, Any]:
    outcome, may_read = trial.outcome, call.may_read_payloads
    would_skip_because = _would_skip(call, endpoint, delivery)
    phases = NO_PHASES if outcome is None else outcome.phases
    return {
        "object": "test",
        "dry_run": outcome is None,
        "event_id": delivery.public_event_id,
        "event_type": delivery.event_type,
        "delivery_id": None if outcome is None else call.services.delivery_ids.show(delivery.delivery_id),
        "delivered": outcome is not None and outcome.kind is OutcomeKind.DELIVERED,
        "would_deliver": would_skip_because is None,
        "would_skip_because": would_skip_because,
        "outcome": None if outcome is None else outcome.kind,
        "status_code": None if outcome is None else outcome.status,
        "duration_ms": None if outcome is None else round(outcome.duration_seconds * 1_000),
        "phases": {
            f"{name}_ms": None if seconds is None else round(seconds * 1_000, 1)
            for name, seconds in phases._asdict().items()
        },
        "response_body": outcome.body.decode("utf-8", "replace") if outcome is not None and may_read else None,
        "without_response_body_because": None if outcome is None or may_read else "scope",
        "response_cut": outcome is not None and outcome.body_cut,
        "error": None if outcome is None else _cause(outcome),
        "request": _show_request(trial.request, endpoint, may_read=may_read),
    }


def _would_skip(call: Call, endpoint: StoredEndpoint, delivery: Delivery) -> str | None:
    """Return why a real event like this one would not be sent now, None when it would."""
    verification = _verification(delivery.body)
    if delivery.event_type not in call.services.catalogue.expand(endpoint.events):
        return "not_subscribed"
    if endpoint.outcomes is not None and verification.get("outcome") not in endpoint.outcomes:
        return "filtered_outcome"
    if endpoint.workflows is not None and verification.get("workflow_id") not in endpoint.workflows:
        return "filtered_workflow"
    return None if endpoint.status is EndpointStatus.ENABLED else "held"


def _cause(outcome: Outcome) -> str | None:
    if outcome.kind is OutcomeKind.DELIVERED:
        return None
    if outcome.status in {401, 403}:
        return _RAW_BODY_HINT
    cause = _CAUSES[outcome.kind]
    return (
        cause if not outcome.reason or outcome.kind is OutcomeKind.ADDRESS_FORBIDDEN else f"{cause} ({outcome.reason})"
    )


def _show_request(request: bytes, endpoint: StoredEndpoint, *, may_read: bool) -> dict[str, Any]:
    """Return a request taken apart; the customer's own headers keep their values to themselves."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode("ascii").split("\r\n")[1:]
    pairs = [line.partition(": ")[::2] for line in lines]
    secret_names = _lowered(endpoint.header_names)
    headers = {name: MASK if name.lower() in secret_names else value for name, value in pairs}
    shown = {"body": body.decode() if may_read else None, "without_body_because": None if may_read else "scope"}
    return {"method": "POST", "url": endpoint.url, "headers": headers, **shown}


def _lowered(names: Collection[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _verification(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(body)["data"].get("verification", {})
    return found


def _variants_told(example: bytes) -> str:
    names = variants_of(example)
    return f"one of {', '.join(names)}" if names else "this event type has no variants"
