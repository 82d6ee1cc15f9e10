"""From what came in to valid values, from our values to what goes out."""

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from dispatcher.api.problems import Fault, Problem, ProblemCode, pointer
from dispatcher.ledger.endpoints import StoredEndpoint
from dispatcher.ledger.hours import Hour, Week
from dispatcher.ledger.logs import EndpointStats, LoggedAttempt, LoggedDelivery
from dispatcher.ledger.secrets import Rotated
from dispatcher.model.ids import TEST_EVENT_BYTES, DeliveryIds, show_event_id
from dispatcher.model.outcome import OutcomeKind
from dispatcher.policy.catalogue import EventType
from dispatcher.policy.projection import show_timestamp

Model = TypeVar("Model", bound=BaseModel)

MASK: Final = "********"

_HOURS_SHOWN: Final = 24

DIGITS_ALONE: Final = "digits 0 to 9 alone"

_DIGITS: Final = re.compile(r"[0-9]+")

_CODES: Final[Mapping[str, str]] = {
    "missing": "required",
    "extra_forbidden": "unknown_field",
    "string_too_long": "too_long",
    "string_too_short": "too_short",
    "too_long": "too_long",
    "too_short": "too_short",
    "enum": "not_allowed",
    "literal_error": "not_allowed",
    "greater_than_equal": "out_of_range",
    "less_than_equal": "out_of_range",
    "bool_parsing": "wrong_type",
    "int_parsing": "wrong_type",
    "int_parsing_size": "out_of_range",
}
_WORDS: Final[Mapping[str, str]] = {"model_type": "this should be an object", "dict_type": "this should be an object"}
"""Instead of words that name our own classes."""

_NAME_MARK: Final = "[key]"
"""Stands behind the name of a mapping's member where the name is at fault; mappings are members of the body itself."""


def check_body(model: type[Model], document: object) -> Model:
    """Return the body as `model`, or raise Problem 422 with every fault of its shape."""
    try:
        return model.model_validate(document)
    except ValidationError as fault:
        faults = _faults(fault, in_body=True)
        raise Problem(ProblemCode.VALIDATION_FAILED, _sum_up(faults), faults=faults) from fault


def check_query(model: type[Model], pairs: Sequence[tuple[str, str]]) -> Model:
    """Return the query as `model`, or raise Problem 400; a parameter given twice is a fault.

    Whole numbers are digits of ASCII and nothing else, as `is_whole_number` says and the document tells.
    """
    values = dict(pairs)
    names = [name for name, _ in pairs]
    repeated = [name for name in values if names.count(name) > 1]
    faults = [Fault(name, "repeated", "this parameter is given twice") for name in repeated]
    faults += [
        Fault(name, "forbidden_character", "U+0000 is not allowed") for name, value in pairs if "\0" in name + value
    ]
    faults += [
        Fault(name, "wrong_type", DIGITS_ALONE)
        for name, value in values.items()
        if name in model.model_fields and is_whole_number(model, name) and not _DIGITS.fullmatch(value)
    ]
    if not faults:
        try:
            return model.model_validate_strings(values)
        except ValidationError as fault:
            faults = _faults(fault, in_body=False)
    raise Problem(ProblemCode.INVALID_QUERY, _sum_up(faults), faults=faults)


def is_whole_number(model: type[BaseModel], name: str) -> bool:
    """Tell whether a parameter of a query is a whole number: readers of numbers let signs, spaces and `5_0` pass."""
    annotation = model.model_fields[name].annotation
    return int in (annotation, *get_args(annotation))


@lru_cache(4_096)
def show_instant(instant: dt.datetime | None) -> str | None:
    """Return RFC 3339 in UTC with milliseconds. Those of the newest rows are asked for again and again."""
    return None if instant is None else show_timestamp(instant)


_show_event_id = lru_cache(4_096)(show_event_id)


@lru_cache(4_096)
def _show_delivery_id(ids: DeliveryIds, delivery_id: int) -> str:
    return ids.show(delivery_id)


def show_new_endpoint(endpoint: StoredEndpoint, secret: str | None) -> dict[str, Any]:
    """Return an endpoint as its maker sees it, this once with the secret."""
    return {
        **_endpoint_core(endpoint),
        "secret": secret,
        "created_at": show_instant(endpoint.created_at),
        **_endpoint_options(endpoint),
    }


def show_endpoint(endpoint: StoredEndpoint) -> dict[str, Any]:
    """Return an endpoint as it is read back: nothing secret in it."""
    return {
        **_endpoint_core(endpoint),
        "secret_last4": endpoint.secret_last4,
        "previous_secret_expires_at": show_instant(endpoint.previous_secret_expires_at),
        "health": {
            "state": endpoint.health,
            "failing_since": show_instant(endpoint.failing_since),
            "consecutive_failures": endpoint.failures,
            "last_success_at": show_instant(endpoint.last_success_at),
            "last_attempt_at": show_instant(endpoint.last_attempt_at),
            "last_status_code": endpoint.last_status,
            "last_outcome": endpoint.last_outcome,
        },
        "created_at": show_instant(endpoint.created_at),
        **_endpoint_options(endpoint),
    }


def show_rotation(done: Rotated, secret: str | None) -> dict[str, Any]:
    """Return what rotating did, this once with the secret."""
    return {
        "object": "secret_rotation",
        "endpoint_id": done.public_id,
        "secret": secret,
        "secret_last4": done.last4,
        "previous_secret_last4": done.previous_last4,
        "previous_secret_expires_at": show_instant(done.previous_expires_at),
    }


def show_delivery(
    delivery: LoggedDelivery, ids: DeliveryIds, environment: str, n_attempts: Mapping[str, int]
) -> dict[str, Any]:
    """Return a delivery; `n_attempts` are those of each environment's own schedule."""
    attempts_max = delivery.last_attempt
    if attempts_max is None and delivery.ended_at is None:
        attempts_max = delivery.attempts_before + n_attempts[environment]
    return {
        "id": _show_delivery_id(ids, delivery.delivery_id),
        "object": "delivery",
        "endpoint_id": delivery.endpoint,
        "event_id": _show_event_id(delivery.event_id),
        "event_type": delivery.event_type,
        "subject": delivery.subject,
        "client_reference": delivery.client_reference,
        "environment": environment,
        "status": delivery.state,
        "attempts": delivery.attempts,
        "attempts_max": attempts_max,
        "next_attempt_at": show_instant(delivery.next_at),
        "last_attempt_at": show_instant(delivery.last_at),
        "last_status_code": delivery.status,
        "last_outcome": delivery.outcome,
        "last_duration_ms": delivery.duration_ms,
        "created_at": show_instant(delivery.created_at),
        "ended_at": show_instant(delivery.ended_at),
    }


def show_attempt(attempt: LoggedAttempt, ids: DeliveryIds) -> dict[str, Any]:
    """Return an attempt. A refused target's address stays with us: it would make us a scanner."""
    told = attempt.detail.get
    is_refused = attempt.outcome is OutcomeKind.ADDRESS_FORBIDDEN
    return {
        "object": "attempt",
        "delivery_id": _show_delivery_id(ids, attempt.delivery_id),
        "event_id": _show_event_id(attempt.event_id),
        "event_type": attempt.event_type,
        "subject": attempt.subject,
        "client_reference": attempt.client_reference,
        "attempt": attempt.attempt_no,
        "asked_by": _asked_by(attempt),
        "started_at": show_instant(attempt.started_at),
        "duration_ms": attempt.duration_ms,
        "status_code": attempt.status,
        "outcome": attempt.outcome,
        "verdict": attempt.verdict,
        "next_at": show_instant(attempt.next_at),
        "phases": {
            "dns_ms": told("dns_ms"),
            "connect_ms": told("connect_ms"),
            "tls_ms": told("tls_ms"),
            "wait_ms": told("wait_ms"),
        },
        "reused_connection": bool(told("reused")),
        "address": None if is_refused else told("peer"),
        "reason": told("reason"),
    }


def show_stats(endpoint: str, stats: EndpointStats, week: Week) -> dict[str, Any]:
    """Return the statistics of an endpoint."""
    n_attempts = sum(hour.n_attempts for hour in week.hours)
    n_delivered = sum(hour.n_delivered for hour in week.hours)
    return {
        "object": "endpoint_stats",
        "endpoint_id": endpoint,
        "attempts": stats.n_attempts,
        "success_rate": _rate(stats.n_delivered, stats.n_attempts),
        "p50_ms": stats.p50_ms,
        "p95_ms": stats.p95_ms,
        "since": show_instant(stats.since),
        "last_attempt_at": show_instant(stats.last_attempt_at),
        "last_delivered_at": show_instant(stats.last_delivered_at),
        "pending_deliveries": stats.n_pending,
        "retrying_deliveries": stats.n_retrying,
        "held_deliveries": stats.n_held,
        "oldest_waiting_at": show_instant(stats.oldest_waiting_at),
        "next_attempt_at": show_instant(stats.next_attempt_at),
        "attempts_7d": n_attempts,
        "success_rate_7d": _rate(n_delivered, n_attempts),
        "hours": _last_day(week),
        "counted_to": show_instant(week.counted_to),
    }


def _rate(n_delivered: int, n_attempts: int) -> float | None:
    return round(n_delivered / n_attempts, 4) if n_attempts else None


def _last_day(week: Week) -> list[dict[str, Any]]:
    """Return the last hours that were counted, those without a request, too; the oldest first."""
    if week.counted_to is None:
        return []
    met = {hour.begins_at: hour for hour in week.hours}
    begins = [week.counted_to - dt.timedelta(hours=ago) for ago in range(_HOURS_SHOWN, 0, -1)]
    hours = [met.get(at, Hour(at, 0, 0)) for at in begins]
    return [
        {"begins_at": show_instant(one.begins_at), "attempts": one.n_attempts, "delivered": one.n_delivered}
        for one in hours
    ]


def show_event_type(event_type: EventType) -> dict[str, Any]:
    """Return a type of the catalogue."""
    return {
        "name": event_type.name,
        "object": "event_type",
        "group": event_type.group,
        "description": event_type.description,
        "fires": event_type.fires,
        "default": event_type.default,
        "operational": event_type.operational,
        "status": event_type.status,
        "final": event_type.final,
    }


def _asked_by(attempt: LoggedAttempt) -> str | None:
    if len(attempt.event_id) == TEST_EVENT_BYTES:
        return "test"
    before = attempt.detail.get("before", 0)
    if before:
        return "resend" if attempt.attempt_no == before + 1 else "schedule"
    return "schedule" if "of" in attempt.detail else None


def _endpoint_core(endpoint: StoredEndpoint) -> dict[str, Any]:
    return {
        "id": endpoint.public_id,
        "object": "webhook_endpoint",
        "url": endpoint.url,
        "description": endpoint.description,
        "events": endpoint.events,
        "api_version": endpoint.api_version,
        "payload_mode": endpoint.payload_mode,
        "environment": endpoint.environment,
        "status": endpoint.status,
        "verified": endpoint.verified_at is not None,
    }


def _endpoint_options(endpoint: StoredEndpoint) -> dict[str, Any]:
    """Return the members that are there only when they are set."""
    filtered = {"outcomes": endpoint.outcomes, "workflows": endpoint.workflows}
    options: dict[str, Any] = {
        "disabled_reason": endpoint.disabled_reason,
        "headers": dict.fromkeys(endpoint.header_names, MASK),
        "filter": {name: values for name, values in filtered.items() if values is not None},
        "metadata": endpoint.metadata,
        "schedule": endpoint.schedule,
        "rate_limit": endpoint.rate_limit,
    }
    return {name: value for name, value in options.items() if value}


def _faults(fault: ValidationError, *, in_body: bool) -> list[Fault]:
    faults = []
    for error in fault.errors(include_url=False, include_input=False, include_context=False):
        kind = error["type"]
        code = _CODES.get(kind) or ("wrong_type" if kind.endswith("_type") else "invalid")
        path = error["loc"]
        if path[2:] == (_NAME_MARK,):
            path = path[:2]
        where = pointer(path) if in_body else ".".join(map(str, path))
        faults.append(Fault(where, code, _WORDS.get(kind, error["msg"])))
    return faults


def _sum_up(faults: Sequence[Fault]) -> str:
    return "; ".join(f"{fault.where or 'the body'}: {fault.message}" for fault in faults[:3])
