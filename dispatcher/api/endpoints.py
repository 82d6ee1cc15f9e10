"""Handlers of endpoints: make, list, read, delete."""

import asyncio
import datetime as dt
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import orjson

from dispatcher.api.call import Answer, ApiServices, Call
from dispatcher.api.models import FilterBody, NewEndpointBody
from dispatcher.api.problems import Fault, Problem, ProblemCode, not_found, pointer, refused
from dispatcher.api.shapes import show_endpoint, show_instant, show_new_endpoint
from dispatcher.ledger.endpoints import Idempotency, KeptAnswer, NewEndpoint, StoredEndpoint, TooMany
from dispatcher.model.event import Environment
from dispatcher.model.ids import new_endpoint_id
from dispatcher.policy.addresses import refusal_of
from dispatcher.policy.catalogue import FaultKind, SubscriptionFault
from dispatcher.policy.headers import faults_of
from dispatcher.policy.retrying import check_schedule, preview
from dispatcher.policy.schema_files import API_VERSION
from dispatcher.policy.signing import NEW_KEY_BYTES, last4, show_secret
from dispatcher.policy.urls import EndpointUrl, UrlFault, UrlRefusal, read_url

MOST_ENDPOINTS: Final = 50
"""Endpoints of one account in one environment."""

LOOK_UP_SECONDS: Final = 2.0

_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_CREATED: Final = 201


async def create_endpoint(call: Call) -> Answer:
    """Make an endpoint and show its secret, this once."""
    key = call.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Problem(ProblemCode.INVALID_IDEMPOTENCY_KEY, "1 to 255 visible ASCII characters")
    digest = _digest(call)
    if key is not None and (kept := await call.endpoints.kept_answer(call.tenant, key)) is not None:
        return _repeat(kept, digest)
    body: NewEndpointBody = call.body
    url = _check(body, call)
    warnings = await _look_up(url, call.services)
    signing_key = secrets.token_bytes(NEW_KEY_BYTES)

    def show(endpoint: StoredEndpoint, secret: str | None = None) -> dict[str, object]:
        return _with_extras(show_new_endpoint(endpoint, secret), endpoint, warnings)

    idempotency = None
    if key is not None:
        idempotency = Idempotency(key, digest, _CREATED, lambda made: orjson.dumps(show(made)))
    new = _new_endpoint(body, url, signing_key, call.services)
    made = await call.endpoints.create(call.tenant, new, most=MOST_ENDPOINTS, idempotency=idempotency)
    match made:
        case KeptAnswer():
            return _repeat(made, digest)
        case TooMany():
            raise Problem(ProblemCode.ENDPOINT_LIMIT, f"at most {made.limit} in one environment; delete one first")
        case StoredEndpoint():
            call.services.on_endpoint_changed(made.endpoint_id)
            return Answer(
                show(made, show_secret(signing_key)),
                _CREATED,
                {"Location": f"/v1/webhook_endpoints/{made.public_id}"},
            )


async def list_endpoints(call: Call) -> Answer:
    """List the caller's endpoints, newest first."""
    cursors = call.cursors("endpoints")
    below = None
    if call.query.after is not None:
        (below,) = cursors.read(call.query.after, 1)
    limit = call.query.limit
    found = await call.endpoints.page(call.tenant, below=below, limit=limit + 1)
    page = found[:limit]
    following = cursors.show([page[-1].endpoint_id]) if len(found) > limit else None
    return Answer({"data": [show_endpoint(one) for one in page], "next": following})


async def read_endpoint(call: Call) -> Answer:
    """Show one endpoint."""
    found = await call.endpoints.find(call.tenant, call.path["id"])
    if found is None:
        raise not_found()
    return Answer(show_endpoint(found))


async def delete_endpoint(call: Call) -> Answer:
    """Delete an endpoint; what waits for it is canceled, its history stays."""
    number = await call.endpoints.delete(call.tenant, call.path["id"])
    if number is None:
        raise not_found()
    call.services.on_endpoint_changed(number)
    return Answer(None, 204)


def _check(body: NewEndpointBody, call: Call) -> EndpointUrl:
    """Return the URL's parts, or raise Problem with everything that breaks a rule."""
    rules = call.services.url_rules
    if call.tenant.environment != Environment.TEST:
        rules = replace(rules, allow_http=False)
    url = read_url(body.url, rules)
    faults: list[Fault] = []
    if isinstance(url, UrlRefusal):
        faults.append(Fault("/url", url.code, url.message))
    faults += _subscription_faults(body.events, call.services.catalogue.check_subscription(body.events))
    faults += _option_faults(body)
    if faults or isinstance(url, UrlRefusal):
        raise refused(faults)
    return url


def _subscription_faults(events: Sequence[str], found: Sequence[SubscriptionFault]) -> list[Fault]:
    faults = []
    for fault in found:
        match fault.kind:
            case FaultKind.EMPTY:
                faults.append(Fault("/events", "no_events", "choose at least one event type"))
            case FaultKind.REPEATED:
                last = len(events) - 1 - list(reversed(events)).index(fault.name)
                faults.append(Fault(f"/events/{last}", "repeated", "this event type is given twice"))
            case FaultKind.UNKNOWN:
                message = "this event type does not exist"
                if fault.nearest:
                    message += f"; nearest: {', '.join(fault.nearest)}"
                where = f"/events/{events.index(fault.name)}"
                faults.append(Fault(where, "unknown_event_type", message, fault.nearest))
    return faults


def _option_faults(body: NewEndpointBody) -> list[Fault]:
    faults = []
    if body.api_version not in {None, API_VERSION}:
        message = f"the only version is {API_VERSION}"
        faults.append(Fault("/api_version", "unknown_api_version", message, (API_VERSION,)))
    if body.payload_mode != "thin":
        message = "full bodies are not offered here: events hold no personal data"
        faults.append(Fault("/payload_mode", "payload_mode_unavailable", message))
    for header in faults_of(list((body.headers or {}).items())):
        where = pointer(["headers", header.name] if header.name else ["headers"])
        faults.append(Fault(where, header.code, header.message))
    if body.schedule is not None:
        faults += [Fault("/schedule", "schedule_invalid", words) for words in check_schedule(body.schedule)]
    return faults


async def _look_up(url: EndpointUrl, services: ApiServices) -> list[str]:
    """Return warnings; raise Problem when the name stands for an address that requests may not go to.

    A courtesy to who types a wrong name: what counts is the check at every dial.
    """
    try:
        async with asyncio.timeout(LOOK_UP_SECONDS):
            addresses = await services.resolve(url.hostname, url.port)
    except PermissionError as fault:
        raise _forbidden() from fault
    except (OSError, UnicodeError):  # a timeout is an OSError
        return ["url_unresolvable"]
    if any(refusal_of(address, services.url_rules.egress) is not None for address in addresses):
        raise _forbidden()
    return [] if addresses else ["url_unresolvable"]


def _forbidden() -> Problem:
    message = "requests to the address of this host are not allowed"
    return refused([Fault("/url", UrlFault.FORBIDDEN_ADDRESS, message)])


def _new_endpoint(body: NewEndpointBody, url: EndpointUrl, signing_key: bytes, services: ApiServices) -> NewEndpoint:
    public_id = new_endpoint_id()
    headers = body.headers or {}
    sealed_headers = None
    if headers:
        sealed_headers = services.vault.seal(orjson.dumps(headers), f"endpoint_headers:{public_id}")
    chosen = body.filter or FilterBody()
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return NewEndpoint(
        public_id=public_id,
        authority=f"{url.scheme}://{host}:{url.port}",
        url=url.url,
        description=body.description,
        events=tuple(body.events),
        outcomes=None if chosen.outcomes is None else tuple(dict.fromkeys(chosen.outcomes)),
        workflows=None if chosen.workflows is None else tuple(dict.fromkeys(chosen.workflows)),
        api_version=API_VERSION,
        payload_mode=body.payload_mode,
        sealed_headers=sealed_headers,
        header_names=tuple(headers),
        schedule=None if body.schedule is None else tuple(body.schedule),
        metadata=body.metadata or {},
        seal_key=lambda number: services.vault.seal(signing_key, f"endpoint_secret:{public_id}:{number}"),
        last4=last4(show_secret(signing_key)),
    )


def _with_extras(shown: dict[str, object], made: StoredEndpoint, warnings: Sequence[str]) -> dict[str, object]:
    if made.schedule is not None:
        # From the moment of making, so that a repeated answer shows the same.
        times = [made.created_at + dt.timedelta(seconds=wait) for wait in preview(made.schedule)]
        shown["schedule_preview"] = [show_instant(instant) for instant in times]
    if warnings:
        shown["warnings"] = warnings
    return shown


def _digest(call: Call) -> bytes:
    written = orjson.dumps(call.raw_body, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(b"POST /v1/webhook_endpoints\n" + written).digest()


def _repeat(kept: KeptAnswer, digest: bytes) -> Answer:
    if kept.request_sha256 != digest:
        raise Problem(ProblemCode.IDEMPOTENCY_CONFLICT, "use a new key for a new request")
    return Answer(orjson.Fragment(kept.response), kept.status, {"Idempotent-Replayed": "true"})
