"""What every change over HTTP has in common: done once per idempotency key, and written down who did it."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from dispatcher.model.ids import new_endpoint_id
from tests.rooms.test_api_harness import Api, Reply, Seeds, api, ledger_template, ledger_url, pool, shared_api, vault
from tests.rooms.test_api_logs import Logged


@pytest.fixture
async def logged(api: Api) -> AsyncIterator[Logged]:
    async with api.sql() as sql:
        seeds = Seeds(sql, api.tenant)
        public_id = new_endpoint_id()
        yield Logged(api, seeds, await seeds.endpoint(public_id), public_id)


class Deed(NamedTuple):
    """A request that changes something, what the audit log calls it, and what it makes, counted for the account $1."""

    path: str
    body: dict[str, Any] | None
    action: str
    made: str


async def a_deed(logged: Logged, name: str) -> Deed:
    """Return one thing to do, with what it needs in the database."""
    event_id = await logged.seeds.event()
    ended = logged.shown(await logged.seeds.ended(logged.number, "exhausted", event_id=event_id))
    waiting = logged.shown(await logged.seeds.delivery(logged.number, event_id=event_id, attempts=1))
    replay = {"since": "2026-01-01T00:00:00Z", "what": "all"}
    path, body, action, made = {
        "replay": (f"{logged.path}/replay", replay, "replay.created", "replay WHERE true"),
        "test": (f"{logged.path}/test", {}, "endpoint.tested", "attempt WHERE verdict = 'delivered'"),
        "resend": (f"/v1/deliveries/{ended}/resend", None, "delivery.resent", "delivery WHERE attempts_before > 0"),
        "cancel": (f"/v1/deliveries/{waiting}/cancel", None, "delivery.canceled", "attempt WHERE verdict = 'canceled'"),
        "retry": (f"/v1/deliveries/{waiting}/retry", None, "delivery.retried", "delivery WHERE due_at <= now()"),
    }[name]
    return Deed(path, body, action, f"SELECT count(*) FROM {made} AND account_id = $1")


each_deed = pytest.mark.parametrize("name", ["replay", "test", "resend", "cancel", "retry"])


async def lines(logged: Logged, action: str) -> list[dict[str, Any]]:
    """Return the lines of the audit log with an action."""
    return [one for one in (await logged.api.get("/v1/audit_log")).body["data"] if one["action"] == action]


@each_deed
async def test_asked_for_twice_under_one_key_it_is_done_once_and_answered_the_same(logged: Logged, name: str) -> None:
    deed = await a_deed(logged, name)

    async def ask() -> Reply:
        return await logged.api.call("POST", deed.path, deed.body, headers={"Idempotency-Key": "k"})

    first, second = await ask(), await ask()

    made = await logged.seeds.sql.fetchval(deed.made, logged.api.tenant.account_id)
    assert second.status == first.status == (200 if name == "test" else 202)
    assert (second.body, second.headers.get("Idempotent-Replayed")) == (first.body, "true")
    assert "Idempotent-Replayed" not in first.headers
    assert made == 1
    assert len(await lines(logged, deed.action)) == 1


@each_deed
async def test_one_key_for_two_requests_is_a_conflict(logged: Logged, name: str) -> None:
    deed = await a_deed(logged, name)
    headers = {"Idempotency-Key": "taken"}
    await logged.api.call("POST", "/v1/api_keys", {"name": "first"}, headers=headers)

    reply = await logged.api.call("POST", deed.path, deed.body, headers=headers)

    assert (reply.status, reply.code) == (409, "idempotency_conflict")
    assert await lines(logged, deed.action) == []


@each_deed
async def test_it_is_written_down_who_did_what_from_where(logged: Logged, name: str) -> None:
    deed = await a_deed(logged, name)

    reply = await logged.api.call("POST", deed.path, deed.body)

    (line,) = await lines(logged, deed.action)
    thing = {"replay": reply.body["id"] if name == "replay" else None, "test": logged.public_id}.get(name)
    assert line["thing"] == (thing or deed.path.split("/")[3])
    assert line["key_id"] == logged.api.key.split("_")[2]
    assert line["address"] == "127.0.0.1"
    assert line["request_id"] == reply.headers["X-Request-Id"]
    assert name == "test" or line["facts"]["endpoint_id"] == logged.public_id


async def test_what_is_refused_is_not_written_down(logged: Logged) -> None:
    ended = logged.shown(await logged.seeds.ended(logged.number))

    refused = await logged.api.call("POST", f"/v1/deliveries/{ended}/cancel", headers={"Idempotency-Key": "k"})
    again = await logged.api.call("POST", f"/v1/deliveries/{ended}/cancel", headers={"Idempotency-Key": "k"})

    assert [(one.status, one.code) for one in (refused, again)] == [(409, "delivery_ended")] * 2
    assert await lines(logged, "delivery.canceled") == []


async def test_four_who_send_again_under_one_key_at_once_get_one_answer(logged: Logged) -> None:
    deed = await a_deed(logged, "resend")

    async with asyncio.TaskGroup() as group:
        calls = [
            group.create_task(logged.api.call("POST", deed.path, headers={"Idempotency-Key": "k"})) for _ in range(4)
        ]

    replies = [call.result() for call in calls]
    assert [reply.status for reply in replies] == [202] * 4
    assert len({reply.raw for reply in replies}) == 1
    assert len(await lines(logged, "delivery.resent")) == 1


async def test_a_test_that_was_sent_is_logged_though_another_answered_first(logged: Logged) -> None:
    async with asyncio.TaskGroup() as group:
        calls = [
            group.create_task(logged.api.call("POST", f"{logged.path}/test", {}, headers={"Idempotency-Key": "k"}))
            for _ in range(3)
        ]

    replies = [call.result() for call in calls]
    n_sent = await logged.seeds.sql.fetchval("SELECT count(*) FROM attempt WHERE endpoint_id = $1", logged.number)
    assert len({reply.raw for reply in replies}) == 1
    assert len(await lines(logged, "endpoint.tested")) == n_sent >= 1


async def test_a_replay_that_is_only_counted_keeps_no_answer_and_leaves_no_line(logged: Logged) -> None:
    deed, headers = await a_deed(logged, "replay"), {"Idempotency-Key": "k"}

    counted = await logged.api.call("POST", deed.path, {**(deed.body or {}), "dry_run": True}, headers=headers)
    made = await logged.api.call("POST", deed.path, deed.body, headers=headers)

    assert (counted.status, made.status) == (200, 202)
    assert len(await lines(logged, "replay.created")) == 1


async def test_ending_a_replay_is_written_down_once(logged: Logged) -> None:
    deed = await a_deed(logged, "replay")
    made = await logged.api.call("POST", deed.path, deed.body)
    path = f"/v1/replays/{made.body['id']}"

    for _ in range(2):
        assert (await logged.api.call("DELETE", path)).body["status"] == "canceled"

    (line,) = await lines(logged, "replay.canceled")
    assert (line["thing"], line["facts"]) == (made.body["id"], {"endpoint_id": logged.public_id, "kind": "replay"})
