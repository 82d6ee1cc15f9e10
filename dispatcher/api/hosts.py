"""Hosts for operators: how fast they are sent to, who is paused, and what waits."""

from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import Field

from dispatcher.api.call import Answer, Call
from dispatcher.api.models import Incoming, Outgoing
from dispatcher.api.problems import Fault, not_found, refused
from dispatcher.ledger.deeds import Action
from dispatcher.ledger.hosts import HostBook, HostState
from dispatcher.model.endpoint import HostLimits
from dispatcher.policy.pacing import limits_fault


class HostChangeBody(Incoming):
    """Limits of its own, or with `defaults` the configured ones again; `resume` ends a pause and a slow start now."""

    rate: Annotated[float, Field(ge=0.01, le=1e6, description="requests per second")] | None = None
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    in_flight: Annotated[int, Field(ge=1, le=10_000)] | None = None
    defaults: bool = False
    resume: bool = False


class HostShown(Outgoing):
    """A host, `scheme://name:port`, over all replicas. `scale` is the share of its rate that it gets just now."""

    host: str
    object: Literal["host"]
    rate: float
    burst: int
    in_flight: int
    own_limits: bool
    scale: float
    paused_seconds: float
    endpoints: int


class HostDetailShown(HostShown):
    """One host, with the number of deliveries that wait for it, counted up to 10,000."""

    waiting: int


class HostList(Outgoing):
    """A page of hosts, by name."""

    data: list[HostShown]
    next: str | None


async def list_hosts(call: Call) -> Answer:
    """List hosts by name."""
    cursors, limit = call.cursors("hosts"), call.query.limit
    after = "" if call.query.after is None else str(cursors.read(call.query.after, 1)[0])
    found = await HostBook(call.services.pool).page(after=after, limit=limit + 1)
    page = found[:limit]
    following = cursors.show([page[-1].authority]) if len(found) > limit else None
    return Answer({"data": [_show(one) for one in page], "next": following})


async def read_host(call: Call) -> Answer:
    """Show one host."""
    return Answer(await _read(call, _authority(call)))


async def change_host(call: Call) -> Answer:
    """Change the limits of a host, or end its pause; every replica follows within five seconds."""
    body: HostChangeBody = call.body
    authority = _authority(call)
    book = HostBook(call.services.pool)
    before = await book.find(authority)
    if before is None:
        raise not_found()
    limits = _limits(body, before.limits, call.services.host_defaults)
    deed = call.deed(Action.HOST_CHANGED)
    if not await book.change(deed, authority, limits, are_own=not body.defaults, resumes=body.resume):
        raise not_found()
    return Answer(await _read(call, authority))


def _authority(call: Call) -> str:
    """Return the host that the path names; no host is named with U+0000, which Postgres takes in no text."""
    authority = unquote(call.path["host"])
    if "\0" in authority:
        raise not_found()
    return authority


def _limits(body: HostChangeBody, now: HostLimits, defaults: HostLimits) -> HostLimits | None:
    """Return the limits to set, None when they stay as they are."""
    own = (body.rate, body.burst, body.in_flight)
    has_own = any(value is not None for value in own)
    if body.defaults and has_own:
        raise refused([Fault("/defaults", "contradiction", "the defaults, or limits of its own: not both")])
    if body.defaults:
        return defaults
    if not has_own:
        return None
    rate, burst, in_flight = (
        given if given is not None else kept
        for given, kept in zip(own, (now.rate, now.burst, now.in_flight), strict=True)
    )
    if fault := limits_fault(float(rate), int(burst)):
        raise refused([Fault("/burst", "burst_too_small", fault)])
    return HostLimits(float(rate), int(burst), int(in_flight))


async def _read(call: Call, authority: str) -> dict[str, Any]:
    book = HostBook(call.services.pool)
    found = await book.find(authority)
    if found is None:
        raise not_found()
    return {**_show(found), "waiting": await book.n_waiting(authority)}


def _show(state: HostState) -> dict[str, Any]:
    return {
        "host": state.authority,
        "object": "host",
        "rate": state.limits.rate,
        "burst": state.limits.burst,
        "in_flight": state.limits.in_flight,
        "own_limits": state.has_own_limits,
        "scale": round(state.scale, 4),
        "paused_seconds": round(state.paused_seconds, 1),
        "endpoints": state.n_endpoints,
    }
