"""Handlers of endpoints: make, list, read, change, delete."""

import datetime as dt
import secrets
from collections.abc import Collection, Sequence
from functools import partial
from typing import Final

import orjson

from dispatcher.api.call import Answer, Call
from dispatcher.api.changes import check_replay, set_status
from dispatcher.api.idempotency import repeat
from dispatcher.api.models import EndpointBody, EndpointChangeBody
from dispatcher.api.numbered import list_numbered
from dispatcher.api.problems import Problem, ProblemCode, not_found
from dispatcher.api.registration import EVERY_MEMBER, body_of, check, demand_values, look_up, settings_of
from dispatcher.api.shapes import MASK, show_endpoint, show_instant, show_new_endpoint
from dispatcher.api.versions import mismatch, read_if_match, show_tag
from dispatcher.ledger.deeds import Action, KeptAnswer
from dispatcher.ledger.endpoints import Changed, EndpointSettings, NewEndpoint, StoredEndpoint, TooMany
from dispatcher.model.endpoint import EndpointStatus
from dispatcher.model.errors import SealBroken
from dispatcher.model.ids import new_endpoint_id
from dispatcher.policy.retrying import preview
from dispatcher.policy.signing import NEW_KEY_BYTES, last4, show_secret

MOST_ENDPOINTS: Final = 50
"""Endpoints of one account in one environment."""

_CREATED: Final = 201


async def create_endpoint(call: Call) -> Answer:
    """Make an endpoint and show its secret, this once."""
    services = call.services
    body = check(call.body, call.tenant.environment, services, members=EVERY_MEMBER)
    warnings = await look_up(body.url, services)
    public_id, signing_key = new_endpoint_id(), secrets.token_bytes(NEW_KEY_BYTES)

    def show(endpoint: StoredEndpoint, secret: str | None = None) -> dict[str, object]:
        return _with_extras(show_new_endpoint(endpoint, secret), endpoint, warnings)

    new = NewEndpoint(
        public_id=public_id,
        settings=settings_of(body, public_id, services),
        seal_key=lambda number: services.vault.seal(signing_key, f"endpoint_secret:{public_id}:{number}"),
        last4=last4(show_secret(signing_key)),
    )
    made = await call.endpoints.create(
        call.deed(Action.ENDPOINT_CREATED),
        new,
        most=MOST_ENDPOINTS,
        show=lambda made: orjson.dumps(show(made)),
        headers=_place_and_tag,
    )
    match made:
        case KeptAnswer():
            return repeat(made, call.ask)
        case TooMany():
            raise Problem(ProblemCode.ENDPOINT_LIMIT, f"at most {made.limit} in one environment; delete one first")
        case StoredEndpoint():
            services.on_endpoint_changed(made.endpoint_id)
            return Answer(show(made, show_secret(signing_key)), _CREATED, _place_and_tag(made))


async def list_endpoints(call: Call) -> Answer:
    """List the caller's endpoints, newest first."""
    read = partial(call.endpoints.page, call.tenant)
    return await list_numbered(call, "endpoints", read, lambda one: one.endpoint_id, show_endpoint)


async def read_endpoint(call: Call) -> Answer:
    """Show one endpoint, with the tag of its version."""
    found = await _find(call)
    return Answer(show_endpoint(found), headers={"ETag": show_tag(found.settings_at)})


async def change_endpoint(call: Call) -> Answer:
    """Change some members of an endpoint, all others stay. Without If-Match whichever version there is."""
    patch: EndpointChangeBody = call.body
    check_replay(call)
    versions = read_if_match(call.headers.get("If-Match"))
    before = await _find(call)
    if versions is not None and before.settings_at not in versions:
        raise mismatch()
    after, warnings = await _change_settings(call, before, versions)
    if "status" in patch.model_fields_set:
        # What else is in the body was changed under the lock already, to a version that the client cannot know.
        is_alone = len(patch.model_fields_set) == 1
        await set_status(call, EndpointStatus(patch.status), versions=versions if is_alone else None)
        after = await _find(call)
    shown = _with_extras(show_endpoint(after), after, warnings)
    return Answer(shown, headers={"ETag": show_tag(after.settings_at)})


async def delete_endpoint(call: Call) -> Answer:
    """Delete an endpoint; what waits for it is canceled, its history stays."""
    versions = read_if_match(call.headers.get("If-Match"))
    deed = call.deed(Action.ENDPOINT_DELETED)
    number = await call.endpoints.delete(deed, call.path["id"], versions=versions)
    if number is None:
        raise not_found()
    if isinstance(number, Changed):
        raise mismatch()
    call.services.on_endpoint_changed(number)
    return Answer(None, 204)


def _place_and_tag(made: StoredEndpoint) -> dict[str, str]:
    return {"Location": f"/v1/webhook_endpoints/{made.public_id}", "ETag": show_tag(made.settings_at)}


async def _find(call: Call) -> StoredEndpoint:
    found = await call.endpoints.find(call.tenant, call.path["id"])
    if found is None:
        raise not_found()
    return found


async def _change_settings(
    call: Call, before: StoredEndpoint, versions: Collection[dt.datetime] | None
) -> tuple[StoredEndpoint, Sequence[str]]:
    """Change all but the status of what there is by then, if that is one of `versions`; return it and warnings."""
    members = sorted(call.body.model_fields_set - {"status"})
    if not members:
        return before, []
    body = _checked(call, before, await call.endpoints.sealed_headers(call.tenant, before.public_id), members)
    # While nothing is locked: a name server takes its time.
    warnings = await look_up(body.url, call.services) if body.url != before.url else []

    def merge(stored: StoredEndpoint, sealed: bytes | None) -> EndpointSettings:
        return settings_of(_checked(call, stored, sealed, members), stored.public_id, call.services)

    deed = call.deed(Action.ENDPOINT_CHANGED)
    after = await call.endpoints.change(deed, before.public_id, merge, members=members, versions=versions)
    if after is None:
        raise not_found()
    if isinstance(after, Changed):
        raise mismatch()
    call.services.on_endpoint_changed(after.endpoint_id)
    return after, warnings


def _checked(call: Call, stored: StoredEndpoint, sealed: bytes | None, members: Collection[str]) -> EndpointBody:
    """Return the endpoint's body with the patch in it, or raise Problem with what is wrong with the patch."""
    changed = _changed(stored, sealed, call, members)
    body = check(changed, call.tenant.environment, call.services, members=members)
    demand_values(stored, body, (call.body.headers or {}) if "headers" in members else None)
    return body


def _changed(stored: StoredEndpoint, sealed: bytes | None, call: Call, members: Collection[str]) -> EndpointBody:
    """Return the endpoint's body with the patch in it. A header given as its mask keeps its stored value."""
    patch: EndpointChangeBody = call.body
    try:
        body = body_of(stored, sealed, call.services)
    except SealBroken as fault:
        # Only new header values can help here, or none.
        if "headers" not in members or MASK in (patch.headers or {}).values():
            raise Problem(ProblemCode.UNAVAILABLE, "the stored header values cannot be opened just now") from fault
        body = body_of(stored, None, call.services)
    news = {name: getattr(patch, name) for name in members}
    if patch.headers:
        news["headers"] = _unmasked(patch.headers, body.headers or {})
    return body.model_copy(update=news)


def _unmasked(headers: dict[str, str], stored: dict[str, str]) -> dict[str, str]:
    """Return the headers with stored values for masks; a mask that stands for none stays, and `check` refuses it."""
    return {name: stored.get(name, value) if value == MASK else value for name, value in headers.items()}


def _with_extras(shown: dict[str, object], endpoint: StoredEndpoint, warnings: Sequence[str]) -> dict[str, object]:
    if endpoint.schedule is not None:
        # From the moment of the change, so that a repeated answer shows the same.
        times = [endpoint.settings_at + dt.timedelta(seconds=wait) for wait in preview(endpoint.schedule)]
        shown["schedule_preview"] = [show_instant(instant) for instant in times]
    if warnings:
        shown["warnings"] = warnings
    return shown
