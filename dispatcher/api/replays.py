"""Replays: deliveries made again, or made late, from stored events."""

from functools import partial
from typing import Any

import orjson

from dispatcher.api.call import Answer, Call
from dispatcher.api.idempotency import repeat
from dispatcher.api.numbered import list_numbered
from dispatcher.api.problems import Fault, Problem, ProblemCode, not_found, refused
from dispatcher.api.replay_models import ReplayBody
from dispatcher.api.shapes import show_instant
from dispatcher.api.subscriptions import type_faults
from dispatcher.kit import clock
from dispatcher.ledger.deeds import Action, KeptAnswer
from dispatcher.ledger.replays import NotEnabled, ReplayLedger, Running
from dispatcher.model.replay import Replay, Selection, Wanted
from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.instants import INSTANT_WORDS, read_instant


async def create_replay(call: Call) -> Answer:
    """Start a replay of an endpoint, or (dry run) only count what it would make: no answer of that is kept."""
    body: ReplayBody = call.body
    selection = _selection(body, call.services.catalogue)
    endpoint = await call.endpoints.find(call.tenant, call.path["id"])
    if endpoint is None:
        raise not_found()
    ledger = ReplayLedger(call.services.pool)
    expected = await ledger.count(endpoint.endpoint_id, selection)
    if body.dry_run:
        return Answer({"object": "replay_count", "expected": expected.n, "at_least": expected.is_minimum})
    made = await ledger.create(
        call.deed(Action.REPLAY_CREATED),
        endpoint.public_id,
        selection,
        rate=body.rate,
        expected=expected,
        show=lambda made: orjson.dumps(show_replay(made)),
        headers=_place,
    )
    match made:
        case None:
            raise not_found()
        case KeptAnswer():
            return repeat(made, call.ask)
        case NotEnabled():
            raise Problem(ProblemCode.ENDPOINT_NOT_ENABLED, f"it is {made.status}; enabling it sends what it misses")
        case Running():
            raise Problem(ProblemCode.REPLAY_RUNNING, f"wait for {made.public_id} to end, or cancel it")
        case Replay():
            return Answer(show_replay(made), 202, _place(made))


async def list_replays(call: Call) -> Answer:
    """List replays, newest first."""
    endpoint = call.query.endpoint_id
    if endpoint is not None and await call.logs.endpoint_number(call.tenant, endpoint) is None:
        raise not_found()
    read = partial(ReplayLedger(call.services.pool).page, call.tenant, endpoint=endpoint)
    return await list_numbered(call, f"replays:{endpoint or ''}", read, lambda one: one.replay_id, show_replay)


async def read_replay(call: Call) -> Answer:
    """Show how far a replay is."""
    found = await ReplayLedger(call.services.pool).find(call.tenant, call.path["id"])
    if found is None:
        raise not_found()
    return Answer(show_replay(found))


async def cancel_replay(call: Call) -> Answer:
    """End a replay and show it; the deliveries that it made go their way."""
    found = await ReplayLedger(call.services.pool).cancel(call.deed(Action.REPLAY_CANCELED), call.path["id"])
    if found is None:
        raise not_found()
    return Answer(show_replay(found))


def show_replay(replay: Replay) -> dict[str, Any]:
    """Return a job as it is read back."""
    selection = replay.selection
    return {
        "id": replay.public_id,
        "object": "replay",
        "account_id": replay.account,
        "endpoint_id": replay.endpoint,
        "environment": replay.environment,
        "kind": replay.kind,
        "what": selection.wanted,
        "since": show_instant(selection.since),
        "until": show_instant(selection.until),
        "types": selection.types,
        "rate": round(replay.rate, 3),
        "status": replay.state,
        "expected": replay.expected.n,
        "at_least": replay.expected.is_minimum,
        "scanned": replay.n_scanned,
        "made": replay.n_made,
        "skipped": replay.n_skipped,
        "created_at": show_instant(replay.created_at),
        "ended_at": show_instant(replay.ended_at),
    }


def _place(made: Replay) -> dict[str, str]:
    return {"Location": f"/v1/replays/{made.public_id}"}


def _selection(body: ReplayBody, catalogue: Catalogue) -> Selection:
    """Return what to look at, or raise Problem with everything that breaks a rule."""
    since, until = read_instant(body.since), clock.utcnow() if body.until is None else read_instant(body.until)
    faults = [
        Fault(where, "invalid_instant", INSTANT_WORDS)
        for where, instant in (("/since", since), ("/until", until))
        if instant is None
    ]
    if since is not None and until is not None and since >= until:
        faults.append(Fault("/until", "empty_range", "`until` must come after `since`"))
    faults += type_faults(body.types, catalogue, "/types/{}".format) if body.types is not None else []
    if faults or since is None or until is None:
        raise refused(faults)
    return Selection(Wanted(body.what), since, until, None if body.types is None else tuple(body.types))
