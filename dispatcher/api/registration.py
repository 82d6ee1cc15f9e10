"""What an owner says about an endpoint: checked against every rule, and turned into what is stored."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from dispatcher.api.call import ApiServices
from dispatcher.api.models import EndpointBody, FilterBody
from dispatcher.api.problems import Fault, pointer, refused
from dispatcher.api.shapes import MASK
from dispatcher.api.subscriptions import type_faults
from dispatcher.ledger.endpoints import EndpointSettings, StoredEndpoint
from dispatcher.model.event import Environment
from dispatcher.policy.addresses import refusal_of
from dispatcher.policy.headers import faults_of
from dispatcher.policy.retrying import check_schedule
from dispatcher.policy.schema_files import API_VERSION
from dispatcher.policy.urls import DEFAULT_PORTS, UrlFault, UrlRefusal, read_url

LOOK_UP_SECONDS: Final = 2.0
EVERY_MEMBER: Final = frozenset(EndpointBody.model_fields)


def check(body: EndpointBody, environment: str, services: ApiServices, *, members: Collection[str]) -> EndpointBody:
    """Return the body with its URL in normal form, or raise Problem with everything that breaks a rule.

    Only faults of `members` count: what is not being changed may have become forbidden since.
    """
    rules = services.url_rules
    if environment != Environment.TEST:
        rules = replace(rules, allow_http=False)
    url = read_url(body.url, rules)
    faults: list[Fault] = []
    if isinstance(url, UrlRefusal):
        faults.append(Fault("/url", url.code, url.message))
    faults += type_faults(body.events, services.catalogue, lambda n: f"/events/{n}" if body.events else "/events")
    faults += _option_faults(body)
    faults = [fault for fault in faults if fault.where.split("/")[1] in members]
    if faults:
        raise refused(faults)
    return body if isinstance(url, UrlRefusal) else body.model_copy(update={"url": url.url})


def demand_values(before: StoredEndpoint, after: EndpointBody, given: Mapping[str, str] | None) -> None:
    """Raise Problem for every header value that would go along to another host without being given anew.

    No answer shows a value. Whoever may move an endpoint could have it sent to a host of their own, and read it there.
    `given` are the headers of this change, None where it says nothing of them; `after` has a checked URL.
    """
    if authority_of(after.url) == authority_of(before.url):
        return
    kept = before.header_names if given is None else [name for name, value in given.items() if value == MASK]
    message = "stored values do not go along to another host: give this one anew, or leave the header out"
    faults = [Fault(pointer(["headers", name]), "header_value_needed", message) for name in kept]
    if faults:
        raise refused(faults)


async def look_up(url: str, services: ApiServices) -> list[str]:
    """Return warnings; raise Problem when the name stands for an address that requests may not go to.

    `url` is in normal form. A courtesy to who types a wrong name: what counts is the check at every dial.
    """
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(LOOK_UP_SECONDS):
            addresses = await services.resolve(parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])
    except PermissionError as fault:
        raise _forbidden() from fault
    except (OSError, TimeoutError):
        return ["url_unresolvable"]
    if any(refusal_of(address, services.url_rules.egress) is not None for address in addresses):
        raise _forbidden()
    return [] if addresses else ["url_unresolvable"]


def settings_of(body: EndpointBody, public_id: str, services: ApiServices) -> EndpointSettings:
    """Return what is stored of a checked body, header values sealed."""
    headers = body.headers or {}
    chosen = body.filter or FilterBody()
    return EndpointSettings(
        authority=authority_of(body.url),
        url=body.url,
        description=body.description,
        events=tuple(body.events),
        outcomes=None if chosen.outcomes is None else tuple(dict.fromkeys(chosen.outcomes)),
        workflows=None if chosen.workflows is None else tuple(dict.fromkeys(chosen.workflows)),
        api_version=body.api_version or API_VERSION,
        payload_mode=body.payload_mode,
        sealed_headers=services.vault.seal(orjson.dumps(headers), _headers_place(public_id)) if headers else None,
        header_names=tuple(headers),
        schedule=None if body.schedule is None else tuple(body.schedule),
        rate_limit=body.rate_limit,
        metadata=body.metadata or {},
    )


def body_of(stored: StoredEndpoint, sealed_headers: bytes | None, services: ApiServices) -> EndpointBody:
    """Return the body that would make the endpoint as it is stored, its header values opened.

    Raises:
        SealBroken: the header values do not open.
    """
    headers = None
    if sealed_headers is not None:
        headers = orjson.loads(services.vault.open(sealed_headers, _headers_place(stored.public_id)))
    # Not validated again: what was stored once may be stored again.
    chosen: dict[str, Any] = {"outcomes": stored.outcomes, "workflows": stored.workflows}
    members: dict[str, Any] = {
        "url": stored.url,
        "events": list(stored.events),
        "description": stored.description,
        "api_version": stored.api_version,
        "payload_mode": stored.payload_mode,
        "headers": headers,
        "filter": FilterBody.model_construct(**chosen),
        "metadata": stored.metadata,
        "schedule": stored.schedule,
        "rate_limit": stored.rate_limit,
    }
    return EndpointBody.model_construct(**members)


def authority_of(url: str) -> str:
    """Return the host of a URL in normal form as rate limits know it, `scheme://name:port`."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    host = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{host}:{parts.port or DEFAULT_PORTS[parts.scheme]}"


def _headers_place(public_id: str) -> str:
    return f"endpoint_headers:{public_id}"


def _option_faults(body: EndpointBody) -> list[Fault]:
    faults = []
    if body.api_version not in {None, API_VERSION}:
        message = f"the only version is {API_VERSION}"
        faults.append(Fault("/api_version", "unknown_api_version", message, (API_VERSION,)))
    if body.payload_mode != "thin":
        message = "full bodies are not offered here: events hold no personal data"
        faults.append(Fault("/payload_mode", "payload_mode_unavailable", message))
    for header in faults_of(list((body.headers or {}).items())):
        where = pointer(["headers"] if header.name is None else ["headers", header.name])
        faults.append(Fault(where, header.code, header.message))
    for name, value in (body.headers or {}).items():
        if value == MASK:
            message = "the mask stands for a stored value, and there is none"
            faults.append(Fault(pointer(["headers", name]), "header_value_masked", message))
    if body.schedule is not None:
        faults += [Fault("/schedule", "schedule_invalid", words) for words in check_schedule(body.schedule)]
    return faults


def _forbidden() -> Exception:
    message = "requests to the address of this host are not allowed"
    return refused([Fault("/url", UrlFault.FORBIDDEN_ADDRESS, message)])
