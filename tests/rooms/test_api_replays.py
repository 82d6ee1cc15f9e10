"""Pausing, enabling, replaying, and single deliveries by hand, over HTTP."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher.model.ids import new_endpoint_id
from tests.rooms.test_api_harness import Api, Reply, Seeds, api, ledger_template, ledger_url, pool, shared_api, vault
from tests.rooms.test_api_logs import Logged

LONG_AGO = "2026-01-01T00:00:00Z"


@pytest.fixture
async def logged(api: Api) -> AsyncIterator[Logged]:
    async with api.sql() as sql:
        seeds = Seeds(sql, api.tenant)
        public_id = new_endpoint_id()
        yield Logged(api, seeds, await seeds.endpoint(public_id), public_id)


async def set_status(logged: Logged, status: str, *, query: str = "") -> Reply:
    return await logged.api.call("PATCH", logged.path + query, {"status": status})


async def replay(logged: Logged, **changes: Any) -> Reply:
    return await logged.api.call("POST", f"{logged.path}/replay", {"since": LONG_AGO, "what": "all", **changes})


async def test_an_endpoint_is_paused_disabled_and_enabled(logged: Logged) -> None:
    paused = await set_status(logged, "paused")
    disabled = await set_status(logged, "disabled")
    enabled = await set_status(logged, "enabled")

    assert [reply.status for reply in (paused, disabled, enabled)] == [200, 200, 200]
    assert [reply.body["status"] for reply in (paused, disabled, enabled)] == ["paused", "disabled", "enabled"]
    assert [reply.body.get("disabled_reason") for reply in (paused, disabled, enabled)] == [None, "by_user", None]
    assert logged.api.changed == [logged.number] * 3


async def test_a_change_of_nothing_shows_the_endpoint(logged: Logged) -> None:
    reply = await logged.api.call("PATCH", logged.path, {})

    assert (reply.status, reply.body["id"], logged.api.changed) == (200, logged.public_id, [])


@pytest.mark.parametrize(
    ("body", "query", "code"),
    [
        ({"status": "deleted"}, "", "not_allowed"),
        ({"status": "paused", "x": 1}, "", "unknown_field"),
        ({"status": None}, "", "not_allowed"),
        ({"status": "enabled"}, "?replay=all", "not_allowed"),
    ],
)
async def test_a_change_that_makes_no_sense_is_refused(logged: Logged, body: Any, query: str, code: str) -> None:
    reply = await logged.api.call("PATCH", logged.path + query, body)

    assert reply.status in (400, 422)
    assert [fault["code"] for fault in reply.body["errors"]] == [code]


async def test_what_is_held_is_counted_and_enabling_makes_a_drain_of_it(logged: Logged) -> None:
    await logged.seeds.delivery(logged.number)
    await set_status(logged, "paused")
    for _ in range(3):
        await logged.seeds.event()

    held = await logged.api.get(f"{logged.path}/held")
    await set_status(logged, "enabled")
    listed = await logged.api.get(f"/v1/replays?endpoint_id={logged.public_id}")
    left = await logged.api.get(f"{logged.path}/held")

    assert held.body == {"object": "held", "endpoint_id": logged.public_id, "count": 4, "at_least": False}
    (drain,) = listed.body["data"]
    assert (drain["kind"], drain["what"], drain["status"], drain["expected"]) == ("drain", "missing", "running", 4)
    assert left.body["count"] == 4


async def test_enabling_without_replay_cancels_what_is_held(logged: Logged) -> None:
    number = await logged.seeds.delivery(logged.number)
    await set_status(logged, "paused")

    await set_status(logged, "enabled", query="?replay=none")

    delivery = await logged.api.get(f"/v1/deliveries/{logged.shown(number)}")
    assert delivery.body["status"] == "canceled"
    assert (await logged.api.get("/v1/replays")).body["data"] == []


async def test_a_replay_is_counted_made_read_listed_and_canceled(logged: Logged) -> None:
    for _ in range(2):
        await logged.seeds.event()
    await logged.seeds.event("check.completed")

    dry = await replay(logged, types=["verification.*"], dry_run=True)
    made = await replay(logged, types=["verification.*"], rate=3)
    again = await replay(logged)
    path = f"/v1/replays/{made.body['id']}"
    shown = await logged.api.get(path)
    canceled = await logged.api.call("DELETE", path)
    listed = await logged.api.get("/v1/replays")

    assert (dry.status, dry.body) == (200, {"object": "replay_count", "expected": 2, "at_least": False})
    assert (made.status, made.headers["Location"]) == (202, path)
    expected = {
        "object": "replay",
        "endpoint_id": logged.public_id,
        "kind": "replay",
        "what": "all",
        "since": "2026-01-01T00:00:00.000Z",
        "types": ["verification.*"],
        "status": "running",
        "expected": 2,
        "at_least": False,
        "made": 0,
        "ended_at": None,
    }
    assert expected.items() <= made.body.items()
    assert shown.body == made.body
    assert (again.status, again.code) == (409, "replay_running")
    assert made.body["id"] in again.body["detail"]
    assert (canceled.body["status"], canceled.body["ended_at"] is None) == ("canceled", False)
    assert listed.body["data"] == [canceled.body]


async def test_a_replay_may_reach_from_edge_to_edge_of_the_calendar(logged: Logged) -> None:
    edges = {"since": "0001-01-01T00:00:00.000Z", "until": "9999-12-31T23:59:59.999999Z"}

    made = await replay(logged, **edges)
    shown = await logged.api.get(f"/v1/replays/{made.body['id']}")

    assert (made.status, shown.status) == (202, 200)
    assert (shown.body["since"], shown.body["until"]) == (edges["since"], "9999-12-31T23:59:59.999Z")


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"since": "yesterday"}, {"/since": "invalid_instant"}),
        ({"since": "2026-01-01"}, {"/since": "invalid_instant"}),
        ({"since": "0001-01-01T00:00:00+14:00"}, {"/since": "invalid_instant"}),
        ({"since": "2026-W48-5T00:00:00Z"}, {"/since": "invalid_instant"}),
        ({"until": LONG_AGO}, {"/until": "empty_range"}),
        ({"since": "2999-01-01T00:00:00Z"}, {"/until": "empty_range"}),
        ({"types": ["verification.complete"]}, {"/types/0": "unknown_event_type"}),
        ({"types": ["*", "*"]}, {"/types/1": "repeated"}),
        ({"types": []}, {"/types": "too_short"}),
        ({"what": "some"}, {"/what": "not_allowed"}),
        ({"rate": 0}, {"/rate": "out_of_range"}),
    ],
)
async def test_a_replay_that_makes_no_sense_is_refused(
    logged: Logged, changes: dict[str, Any], pointers: dict[str, str]
) -> None:
    reply = await replay(logged, **changes)

    assert (reply.status, reply.pointers) == (422, pointers)
    assert (await logged.api.get("/v1/replays")).body["data"] == []


async def test_a_held_endpoint_is_replayed_by_enabling_it(logged: Logged) -> None:
    await set_status(logged, "paused")

    refused, counted = await replay(logged), await replay(logged, dry_run=True)

    assert (refused.status, refused.code, counted.status) == (409, "endpoint_not_enabled", 200)


async def test_pages_of_replays_go_on_where_they_ended(logged: Logged) -> None:
    made = []
    for _ in range(3):
        made.append((await replay(logged)).body["id"])
        await logged.api.call("DELETE", f"/v1/replays/{made[-1]}")

    first = await logged.api.get("/v1/replays?limit=2")
    second = await logged.api.get(f"/v1/replays?limit=2&after={first.body['next']}")

    assert [one["id"] for page in (first, second) for one in page.body["data"]] == made[::-1]
    assert second.body["next"] is None


async def test_a_finished_delivery_is_sent_again_once(logged: Logged) -> None:
    event_id = await logged.seeds.event()
    number = await logged.seeds.ended(logged.number, "exhausted", number=4, event_id=event_id)
    path = f"/v1/deliveries/{logged.shown(number)}"

    first = await logged.api.call("POST", f"{path}/resend")
    second = await logged.api.call("POST", f"{path}/resend")

    assert (first.status, first.body["status"], first.body["attempts"]) == (202, "retrying", 4)
    assert (second.status, second.code) == (409, "delivery_pending")
    everything = await logged.api.get(f"{logged.path}/deliveries")
    assert [one["status"] for one in everything.body["data"]] == ["retrying"]


async def test_nothing_is_sent_again_when_its_event_is_gone_or_its_endpoint_is_held(logged: Logged) -> None:
    number = await logged.seeds.ended(logged.number, "exhausted")
    path = f"/v1/deliveries/{logged.shown(number)}/resend"

    gone = await logged.api.call("POST", path)
    await set_status(logged, "paused")
    held = await logged.api.call("POST", path)

    assert [(reply.status, reply.code) for reply in (gone, held)] == [
        (410, "event_gone"),
        (409, "endpoint_not_enabled"),
    ]


async def test_an_open_delivery_is_canceled_at_once_or_when_it_comes_back(logged: Logged) -> None:
    waiting = await logged.seeds.delivery(logged.number, attempts=1)
    owned = await logged.seeds.delivery(logged.number, owner=7)

    replies = [await logged.api.call("POST", f"/v1/deliveries/{logged.shown(n)}/cancel") for n in (waiting, owned)]
    again = await logged.api.call("POST", f"/v1/deliveries/{logged.shown(waiting)}/cancel")

    assert [(reply.status, reply.body["status"]) for reply in replies] == [(202, "canceled"), (202, "pending")]
    assert (again.status, again.code) == (409, "delivery_ended")


async def test_a_waiting_delivery_is_tried_now(logged: Logged) -> None:
    waiting = await logged.seeds.delivery(logged.number, attempts=1)
    held = await logged.seeds.delivery(logged.number, held=True)
    ended = await logged.seeds.ended(logged.number)

    replies = [await logged.api.call("POST", f"/v1/deliveries/{logged.shown(n)}/retry") for n in (waiting, held, ended)]

    assert [reply.status for reply in replies] == [202, 409, 409]
    assert [reply.code for reply in replies[1:]] == ["delivery_held", "delivery_ended"]
    assert await logged.seeds.sql.fetchval("SELECT due_at <= now() FROM delivery WHERE delivery_id = $1", waiting)


@pytest.mark.parametrize("what", ["resend", "cancel", "retry"])
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"data": b"x" * 300_000}, 413, "body_too_large"),
        ({"data": b"{}", "headers": {"Content-Type": "text/html"}}, 415, "unsupported_media_type"),
        ({"data": b'{"nonsense":'}, 400, "invalid_json"),
        ({"data": b"[]"}, 422, "validation_failed"),
        ({"data": b'{"resent": true}'}, 422, "validation_failed"),
    ],
)
async def test_a_body_that_says_something_is_refused_before_anything_is_done(
    logged: Logged, what: str, sent: dict[str, Any], status: int, code: str
) -> None:
    reply = await logged.api.call("POST", f"/v1/deliveries/dlv_no/{what}", **sent)

    assert (reply.status, reply.code) == (status, code)


async def test_an_empty_object_is_as_good_as_no_body(logged: Logged) -> None:
    waiting = await logged.seeds.delivery(logged.number, attempts=1)
    path, headers = f"/v1/deliveries/{logged.shown(waiting)}/retry", {"Idempotency-Key": "retry"}

    without = await logged.api.call("POST", path, headers=headers)
    empty = await logged.api.call("POST", path, {}, headers=headers)

    assert [without.status, empty.status] == [202, 202]
    assert empty.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("body", [{"status": "paused"}, {"status": "disabled"}, {"description": "a"}, {}])
async def test_what_was_missed_is_forgotten_only_by_enabling(logged: Logged, body: dict[str, Any]) -> None:
    before = await logged.api.get(logged.path)

    reply = await logged.api.call("PATCH", f"{logged.path}?replay=none", body)

    assert (reply.status, reply.code) == (400, "invalid_query")
    assert [(one["parameter"], one["code"]) for one in reply.body["errors"]] == [("replay", "not_allowed")]
    assert (await logged.api.get(logged.path)).body == before.body


async def test_replays_of_an_endpoint_that_is_not_the_callers_are_not_found(logged: Logged) -> None:
    others = Seeds(logged.seeds.sql, await logged.api.other_tenant())
    await others.endpoint("we_theirs")
    operator = await logged.api.new_key(None)

    mine = [await logged.api.get(f"/v1/replays?endpoint_id={one}") for one in ("we_nope", "we_theirs")]
    operators = [
        await logged.api.get(f"/v1/replays?endpoint_id={one}", key=operator) for one in ("we_nope", "we_theirs")
    ]

    assert [reply.status for reply in mine] == [404, 404]
    assert [reply.status for reply in operators] == [404, 200]


@pytest.mark.parametrize("what", ["resend", "cancel", "retry"])
async def test_what_cannot_be_a_delivery_is_not_found(logged: Logged, what: str) -> None:
    reply = await logged.api.call("POST", f"/v1/deliveries/dlv_no/{what}")

    assert (reply.status, reply.code) == (404, "not_found")
