"""Deliveries, attempts, events and event types over HTTP."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from dispatcher.api.call import Route
from dispatcher.api.routes import ROUTES
from dispatcher.api.waiting import MOST_OF_KEY, MOST_OF_TENANT
from dispatcher.ledger.connections import Pool
from dispatcher.model.ids import new_endpoint_id, show_event_id
from dispatcher.vault import Vault
from tests.rooms.test_api_harness import (
    Api,
    Reply,
    Seeds,
    api,
    ledger_template,
    ledger_url,
    pool,
    serving,
    shared_api,
    vault,
)


@dataclass
class Logged:
    """An API with one endpoint, and seeds for its history."""

    api: Api
    seeds: Seeds
    number: int
    public_id: str

    @property
    def path(self) -> str:
        return f"/v1/webhook_endpoints/{self.public_id}"

    def shown(self, delivery: int) -> str:
        return self.api.services.delivery_ids.show(delivery)


@pytest.fixture
async def logged(api: Api) -> AsyncIterator[Logged]:
    async with api.sql() as sql:
        seeds = Seeds(sql, api.tenant)
        public_id = new_endpoint_id()
        yield Logged(api, seeds, await seeds.endpoint(public_id), public_id)


async def test_a_retrying_delivery_shows_its_last_answer_and_its_next_attempt(logged: Logged) -> None:
    event_id = await logged.seeds.event()
    number = await logged.seeds.delivery(logged.number, attempts=1, event_id=event_id)
    await logged.seeds.attempt(logged.number, number, "retry", status=503)

    reply = await logged.api.get(f"/v1/deliveries/{logged.shown(number)}")

    assert reply.body["next_attempt_at"] is not None
    expected = {
        "id": logged.shown(number),
        "object": "delivery",
        "endpoint_id": logged.public_id,
        "event_id": show_event_id(event_id),
        "event_type": "verification.completed",
        "subject": "ver_8Zk3QmT1xW5n",
        "client_reference": "user-4711",
        "environment": "test",
        "status": "retrying",
        "attempts": 1,
        "last_status_code": 503,
        "last_outcome": "http_5xx",
        "last_duration_ms": 20,
        "ended_at": None,
    }
    assert expected.items() <= reply.body.items()


async def test_a_place_in_the_feed_outlives_the_keys_of_the_ring(
    ledger_url: str, pool: Pool, vault: Vault, tmp_path: Path
) -> None:
    Vault.create_file(tmp_path / "ring.json")
    async with serving(ledger_url, pool, vault) as before:
        async with before.sql() as sql:
            await Seeds(sql, before.tenant).event()
        resume = (await before.get("/v1/events?order=asc")).body["resume"]

    async with serving(ledger_url, pool, Vault.load(tmp_path / "ring.json")) as after:
        reply = await after.get(f"/v1/events?order=asc&after={resume}", key=before.key)

    assert (reply.status, reply.body["data"]) == (200, [])


async def test_a_delivery_tells_after_how_many_attempts_it_ends(logged: Logged) -> None:
    seeds = logged.seeds
    own = await seeds.endpoint()
    await seeds.sql.execute("UPDATE endpoint SET schedule = '{0,5}' WHERE endpoint_id = $1", own)
    again = await seeds.delivery(own, attempts=3)
    await seeds.sql.execute("UPDATE delivery SET attempts_before = 3 WHERE delivery_id = $1", again)
    most = {
        await seeds.delivery(logged.number, attempts=1): 4,
        await seeds.delivery(own): 2,
        again: 5,
        await seeds.ended(logged.number, "exhausted", detail=b'{"of":7}'): 7,
        await seeds.ended(logged.number, "canceled", outcome=None): None,
    }

    listed = await logged.api.get("/v1/deliveries")
    alone = [await logged.api.get(f"/v1/deliveries/{logged.shown(number)}") for number in most]

    expected = {logged.shown(number): n for number, n in most.items()}
    assert {one["id"]: one["attempts_max"] for one in listed.body["data"]} == expected
    assert {reply.body["id"]: reply.body["attempts_max"] for reply in alone} == expected


async def test_deliveries_are_filtered_by_status(logged: Logged) -> None:
    made = {
        "pending": await logged.seeds.delivery(logged.number),
        "retrying": await logged.seeds.delivery(logged.number, attempts=1),
        "held": await logged.seeds.delivery(logged.number, held=True),
        "delivered": await logged.seeds.ended(logged.number, "delivered", outcome="delivered", status=200),
        "exhausted": await logged.seeds.ended(logged.number, "exhausted"),
        "canceled": await logged.seeds.ended(logged.number, "canceled", outcome=None),
    }

    for status, number in made.items():
        reply = await logged.api.get(f"{logged.path}/deliveries?status={status}")
        assert [(one["id"], one["status"]) for one in reply.body["data"]] == [(logged.shown(number), status)]
    everything = await logged.api.get(f"{logged.path}/deliveries")
    assert len(everything.body["data"]) == len(made)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("type=verification.completed", "open failed tested"),
        ("type=verification.created,endpoint.*", "created"),
        ("type=verification.*&outcome=5xx", "failed"),
        ("outcome=timeout_response,2xx", "created tested"),
        ("outcome=no_answer", "tested"),
        ("outcome=4xx", ""),
        ("since=2026-11-03T09:00:00Z&until=2026-11-03T10:00:00Z", "failed"),
        ("until=2026-11-03T09:00:00Z", ""),
        ("since=2026-11-04T09:00:00%2B02:00", "open created tested"),
        ("test=true", "tested"),
        ("test=false&status=exhausted,delivered", "created failed"),
        ("status=pending,held", "open"),
    ],
)
async def test_logs_are_filtered(logged: Logged, query: str, found: str) -> None:
    seeds, number = logged.seeds, logged.number
    made = {
        "open": await seeds.delivery(number, event_id=await seeds.event()),
        "created": await seeds.ended(number, outcome="delivered", status=200),
        "failed": await seeds.ended(number, "exhausted"),
        "tested": await seeds.ended(number, "exhausted", outcome="timeout_response", event_id=b"t" * 16),
    }
    for delivery, change in (
        (made["created"], "event_type = 'verification.created'"),
        (made["failed"], "delivery_created_at = '2026-11-03T09:30:00Z', started_at = now() - interval '1 minute'"),
    ):
        await seeds.sql.execute(f"UPDATE attempt SET {change} WHERE delivery_id = $1", delivery)

    of_endpoint = await logged.api.get(f"{logged.path}/deliveries?{query}")
    of_account = await logged.api.get(f"/v1/deliveries?{query}")

    assert {one["id"] for one in of_endpoint.body["data"]} == {logged.shown(made[name]) for name in found.split()}
    assert of_account.body["data"] == of_endpoint.body["data"]
    assert of_endpoint.body["next"] is of_account.body["next"] is None


async def test_all_that_was_sent_of_an_event_a_subject_or_a_reference_is_found(logged: Logged) -> None:
    seeds = logged.seeds
    other = await seeds.endpoint()
    wanted, unwanted = await seeds.event(), await seeds.event()
    await seeds.sql.execute(
        "UPDATE event SET subject = 'ver_another', client_reference = 'another', introduces = true WHERE event_id = $1",
        unwanted,
    )
    expected = {
        "ended": await seeds.ended(other, event_id=wanted),
        "open": await seeds.delivery(logged.number, event_id=wanted),
    }
    await seeds.attempt(logged.number, expected["open"], "retry", event_id=wanted)
    await seeds.ended(other, event_id=unwanted)
    # As the journey leaves them: a delivery is as old as its event.
    await seeds.sql.execute(
        "UPDATE delivery SET created_at = e.ingested_at, attempts = 1 FROM event e WHERE e.event_id = delivery.event_id"
    )

    shown = {name: logged.shown(number) for name, number in expected.items()}
    for query in (f"event_id={show_event_id(wanted)}", "subject=ver_8Zk3QmT1xW5n", "client_reference=user-4711"):
        everywhere = await logged.api.get(f"/v1/deliveries?{query}")
        here = await logged.api.get(f"{logged.path}/deliveries?{query}&status=retrying")
        attempts = await logged.api.get(f"{logged.path}/attempts?{query}")
        nothing = await logged.api.get(f"/v1/deliveries?{query}&until=2026-11-03T09:00:00Z")
        assert {one["id"] for one in everywhere.body["data"]} == set(shown.values())
        assert [one["id"] for one in here.body["data"]] == [shown["open"]]
        assert [one["delivery_id"] for one in attempts.body["data"]] == [shown["open"]]
        assert nothing.body["data"] == []


async def test_what_no_index_serves_is_found_over_short_pages(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.ledger.lists.SCAN_ROWS", 4)
    rare = [await logged.seeds.ended(logged.number, age=100, ago=90, outcome="tls_error") for _ in range(2)]
    for age in range(9):
        await logged.seeds.ended(logged.number, age=age, ago=age)

    for path in (f"{logged.path}/deliveries", "/v1/deliveries", f"{logged.path}/attempts"):
        seen, sizes, searched, after = [], [], [], ""
        while True:
            reply = await logged.api.get(f"{path}?outcome=tls_error&limit=1{after}")
            seen += [one.get("delivery_id") or one["id"] for one in reply.body["data"]]
            sizes.append(len(reply.body["data"]))
            if reply.body["next"] is None:
                break
            searched.append(reply.body["searched_to"])
            after = f"&after={reply.body['next']}"
        assert reply.body["searched_to"] is None
        assert searched == sorted(set(searched), reverse=True)
        assert sorted(seen) == sorted(logged.shown(number) for number in rare)
        assert sizes[:2] == [0, 0]


async def test_deliveries_of_an_account_are_nobody_elses(logged: Logged) -> None:
    mine = [await logged.seeds.ended(logged.number), await logged.seeds.delivery(await logged.seeds.endpoint())]
    theirs = Seeds(logged.seeds.sql, await logged.api.other_tenant())
    endpoint, event_id = await theirs.endpoint(), await theirs.event()
    await theirs.ended(endpoint, event_id=event_id)
    await theirs.delivery(endpoint, event_id=event_id)

    everything = await logged.api.get("/v1/deliveries")
    of_theirs = await logged.api.get(f"/v1/deliveries?event_id={show_event_id(event_id)}")

    assert {one["id"] for one in everything.body["data"]} == {logged.shown(number) for number in mine}
    assert of_theirs.body["data"] == []


@pytest.mark.parametrize(
    ("query", "parameter", "code"),
    [
        ("status=lost", "status", "not_allowed"),
        ("outcome=6xx", "outcome", "not_allowed"),
        ("outcome=5xx,", "outcome", "not_allowed"),
        ("type=verification.complete", "type", "unknown_event_type"),
        ("type=verification.completed,verification.completed", "type", "repeated"),
        ("since=yesterday", "since", "invalid_instant"),
        ("since=20261103T090000Z", "since", "invalid_instant"),
        ("until=2026-11-03T09:00:00", "until", "invalid_instant"),
        ("event_id=evt_1", "event_id", "invalid"),
        ("test=maybe", "test", "wrong_type"),
        ("reference=user-1", "reference", "unknown_field"),
        ("client_reference=a%00b", "client_reference", "forbidden_character"),
    ],
)
async def test_a_faulty_filter_is_named(api: Api, query: str, parameter: str, code: str) -> None:
    reply = await api.get(f"/v1/deliveries?{query}")

    assert (reply.status, reply.code) == (400, "invalid_query")
    assert [(fault["parameter"], fault["code"]) for fault in reply.body["errors"]] == [(parameter, code)]


async def test_pages_of_deliveries_stay_whole_while_others_come_in(logged: Logged) -> None:
    made = [await logged.seeds.ended(logged.number, age=100 - n) for n in range(6)]
    made.append(await logged.seeds.delivery(logged.number, age=50))

    seen = []
    after = ""
    while True:
        reply = await logged.api.get(f"{logged.path}/deliveries?limit=3{after}")
        seen += [one["id"] for one in reply.body["data"]]
        if reply.body["next"] is None:
            break
        after = f"&after={reply.body['next']}"
        await logged.seeds.delivery(logged.number, age=0)

    assert seen == [logged.shown(number) for number in reversed(made)]


async def test_a_delivery_that_ends_between_two_pages_keeps_its_place(logged: Logged) -> None:
    made = [await logged.seeds.delivery(logged.number, age=100 - n) for n in range(4)]

    first = await logged.api.get(f"{logged.path}/deliveries?limit=2")
    (row,) = await logged.seeds.sql.fetch("DELETE FROM delivery WHERE delivery_id = $1 RETURNING created_at", made[1])
    await logged.seeds.attempt(logged.number, made[1], "delivered", outcome="delivered", status=200)
    await logged.seeds.sql.execute(
        "UPDATE attempt SET delivery_created_at = $1 WHERE delivery_id = $2", row["created_at"], made[1]
    )
    second = await logged.api.get(f"{logged.path}/deliveries?limit=2&after={first.body['next']}")

    seen = [one["id"] for page in (first, second) for one in page.body["data"]]
    assert seen == [logged.shown(number) for number in reversed(made)]
    assert second.body["data"][0]["status"] == "delivered"


async def test_an_attempt_shows_phases_and_reason_but_no_key(logged: Logged) -> None:
    detail = {"dns_ms": 1.5, "wait_ms": 30.0, "keys": [4712], "peer": "93.184.216.34", "reason": "slow", "reused": True}
    number = await logged.seeds.delivery(logged.number, attempts=1)
    await logged.seeds.attempt(logged.number, number, "retry", detail=orjson.dumps(detail))

    of_endpoint = await logged.api.get(f"{logged.path}/attempts")
    of_delivery = await logged.api.get(f"/v1/deliveries/{logged.shown(number)}/attempts")

    assert of_endpoint.body == of_delivery.body
    (shown,) = of_endpoint.body["data"]
    assert shown["phases"] == {"dns_ms": 1.5, "connect_ms": None, "tls_ms": None, "wait_ms": 30.0}
    assert (shown["reason"], shown["address"], shown["reused_connection"]) == ("slow", "93.184.216.34", True)
    assert (shown["attempt"], shown["status_code"], shown["outcome"], shown["verdict"]) == (1, 500, "http_5xx", "retry")
    assert b"4712" not in of_endpoint.raw


async def test_a_refused_targets_address_stays_with_us(logged: Logged) -> None:
    number = await logged.seeds.delivery(logged.number, attempts=1)
    detail = orjson.dumps({"peer": "10.1.2.3"})
    await logged.seeds.attempt(logged.number, number, "retry", outcome="address_forbidden", status=None, detail=detail)

    reply = await logged.api.get(f"{logged.path}/attempts")

    assert b"10.1.2.3" not in reply.raw


async def test_pages_of_attempts_hold_each_once(logged: Logged) -> None:
    number = await logged.seeds.delivery(logged.number, attempts=5)
    for attempt_no in range(1, 6):
        await logged.seeds.attempt(logged.number, number, "retry", number=attempt_no, ago=100 - attempt_no)

    for path in (f"{logged.path}/attempts", f"/v1/deliveries/{logged.shown(number)}/attempts"):
        first = (await logged.api.get(f"{path}?limit=3")).body
        second = (await logged.api.get(f"{path}?limit=3&after={first['next']}")).body
        assert [one["attempt"] for page in (first, second) for one in page["data"]] == [5, 4, 3, 2, 1]
        assert second["next"] is None


async def test_an_event_is_shown_exactly_as_it_is_sent(logged: Logged) -> None:
    event_id = await logged.seeds.event()
    body = await logged.seeds.sql.fetchval("SELECT body FROM event WHERE event_id = $1", event_id)

    read = await logged.api.get(f"/v1/events/{show_event_id(event_id)}")
    listed = await logged.api.get("/v1/events")

    assert read.raw == body
    assert listed.raw == b'{"data":[' + body + b'],"next":null}'


async def test_the_feed_can_be_followed(logged: Logged) -> None:
    first = [show_event_id(await logged.seeds.event()) for _ in range(3)]

    seen = []
    page = (await logged.api.get("/v1/events?order=asc&limit=2")).body
    seen += page["data"]
    while page["next"] is not None:
        page = (await logged.api.get(f"/v1/events?order=asc&limit=2&after={page['next']}")).body
        seen += page["data"]
    idle = (await logged.api.get(f"/v1/events?order=asc&after={page['resume']}")).body
    more = show_event_id(await logged.seeds.event())
    resumed = (await logged.api.get(f"/v1/events?order=asc&after={idle['resume']}")).body

    assert [one["id"] for one in seen] == first
    assert idle["data"] == []
    assert [one["id"] for one in resumed["data"]] == [more]


async def test_events_are_filtered_by_type(logged: Logged) -> None:
    for n in range(4):
        await logged.seeds.event(("verification.completed", "verification.created")[n % 2])

    for order in ("asc", "desc"):
        reply = await logged.api.get(f"/v1/events?type=verification.created&order={order}")
        assert [one["type"] for one in reply.body["data"]] == ["verification.created"] * 2
        assert reply.body["next"] is None


@pytest.mark.parametrize(
    "path",
    [
        "/v1/events/nope",
        "/v1/events/evt_" + "1" * 32,
        "/v1/deliveries/dlv_zzzzzzzzzzzzz",
        "/v1/deliveries/1",
        "/v1/deliveries/dlv_1/attempts",
    ],
)
async def test_an_id_that_cannot_be_ours_is_simply_not_there(api: Api, path: str) -> None:
    reply = await api.get(path)

    assert (reply.status, reply.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("query", "parameter", "code"),
    [
        ("limit=0", "limit", "out_of_range"),
        ("limit=101", "limit", "out_of_range"),
        ("limit=ten", "limit", "wrong_type"),
        ("limit=", "limit", "wrong_type"),
        ("limit=9" + "9" * 30, "limit", "out_of_range"),
        ("limit=1&limit=2", "limit", "repeated"),
        ("page=2", "page", "unknown_field"),
        ("order=up", "order", "not_allowed"),
        ("after=", "after", "too_short"),
        ("type=a%00b", "type", "forbidden_character"),
    ],
)
async def test_a_faulty_parameter_is_named(api: Api, query: str, parameter: str, code: str) -> None:
    reply = await api.get(f"/v1/events?{query}")

    assert (reply.status, reply.code) == (400, "invalid_query")
    assert [(fault["parameter"], fault["code"]) for fault in reply.body["errors"]] == [(parameter, code)]


@pytest.mark.parametrize("name", ["limit", "wait"])
@pytest.mark.parametrize(
    "text", ["%2B5", "-0", "5_0", "%205", "5%20", "5%0A", "5.0", "5e0", "0x5", "%D9%A5", "%EF%BC%95"]
)
async def test_a_number_is_written_in_digits_of_ascii_alone(api: Api, name: str, text: str) -> None:
    reply = await api.get(f"/v1/events?order=asc&{name}={text}")

    assert (reply.status, reply.code) == (400, "invalid_query")
    assert [(fault["parameter"], fault["code"]) for fault in reply.body["errors"]] == [(name, "wrong_type")]


@pytest.mark.parametrize("name", ["limit", "wait"])
async def test_a_number_may_begin_with_zeros(api: Api, name: str) -> None:
    assert (await api.get(f"/v1/events?order=asc&{name}=01")).status == 200


async def test_event_types_come_in_pages_if_asked_for(api: Api) -> None:
    whole = await api.get("/v1/event_types?limit=100")
    pages = [await api.get("/v1/event_types?limit=7")]
    while (following := pages[-1].body["next"]) is not None:
        pages.append(await api.get(f"/v1/event_types?limit=7&after={following}"))

    assert [one for page in pages for one in page.body["data"]] == whole.body["data"]
    assert [len(page.body["data"]) for page in pages[:-1]] == [7] * (len(pages) - 1)
    assert whole.body["next"] is None


async def test_the_catalogue_is_listed_in_published_order(api: Api) -> None:
    reply = await api.get("/v1/event_types")

    names = [one["name"] for one in reply.body["data"]]
    assert names[0] == "verification.created"
    assert "verification.completed" in names
    assert reply.body["next"] is None


async def test_the_statistics_of_an_endpoint_tell_its_day_and_its_queue(logged: Logged) -> None:
    seeds = logged.seeds
    for milliseconds in range(1, 11):
        ended = await seeds.ended(logged.number, "delivered", outcome="delivered", status=200, ago=milliseconds)
        await seeds.sql.execute("UPDATE attempt SET duration_ms = $2 WHERE delivery_id = $1", ended, milliseconds)
    await seeds.ended(logged.number, "exhausted", ago=86_500)
    retrying = await seeds.delivery(logged.number, attempts=1, age=500)
    await seeds.attempt(logged.number, retrying, "retry", ago=12)
    await seeds.attempt(logged.number, retrying, "interrupted", ago=13, outcome="interrupted")
    for age in (100, 200):
        await seeds.delivery(logged.number, age=age)
    await seeds.delivery(logged.number, held=True, age=900)
    await seeds.sql.execute(
        "UPDATE delivery SET due_at = '2026-11-03T09:00:00Z' WHERE endpoint_id = $1 AND NOT held", logged.number
    )

    stats = (await logged.api.get(f"{logged.path}/stats")).body

    assert (stats["attempts"], stats["success_rate"]) == (11, 0.9091)
    assert (stats["p50_ms"], stats["p95_ms"]) == (6, 20)
    assert (stats["pending_deliveries"], stats["retrying_deliveries"], stats["held_deliveries"]) == (2, 1, 1)
    assert stats["next_attempt_at"] == "2026-11-03T09:00:00.000Z"
    assert stats["oldest_waiting_at"] is not None
    assert stats["since"] <= stats["last_attempt_at"] == stats["last_delivered_at"]


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if "type" in route.query.model_fields], ids=lambda route: route.operation_id
)
async def test_every_list_takes_types_and_groups_that_exist(logged: Logged, route: Route) -> None:
    path = route.path.replace("{id}", logged.public_id)
    event_id = await logged.seeds.event()
    resume = (await logged.api.get("/v1/attempts")).body["resume"]
    await logged.seeds.ended(logged.number, "delivered", event_id=event_id, outcome="delivered", status=200)

    async def ask(types: str) -> Reply:
        after = f"&wait=8&after={resume}" if route.operation_id == "followAttempts" else ""
        return await logged.api.get(f"{path}?type={types}{after}")

    for faulty in ("nope", "verification.*,nope.*"):
        refused = await ask(faulty)
        assert (refused.status, refused.code) == (400, "invalid_query")
        assert [(one["parameter"], one["code"]) for one in refused.body["errors"]] == [("type", "unknown_event_type")]
    for known in ("verification.*", "check.*,verification.completed"):
        assert len((await ask(known)).body["data"]) == 1


async def test_the_statistics_of_a_new_endpoint_are_nothing(logged: Logged) -> None:
    stats = (await logged.api.get(f"{logged.path}/stats")).body

    assert {name: value for name, value in stats.items() if value} == {
        "object": "endpoint_stats",
        "endpoint_id": logged.public_id,
    }


async def test_the_statistics_of_a_week_are_of_the_hours_that_were_counted(logged: Logged) -> None:
    sql = logged.seeds.sql
    this_hour = await sql.fetchval("SELECT date_trunc('hour', now(), 'UTC')")
    for ago, n_attempts, n_delivered in ((2, 4, 3), (25, 10, 10), (167, 6, 1), (169, 50, 0)):
        begins_at = this_hour - dt.timedelta(hours=ago)
        await sql.execute(
            "INSERT INTO endpoint_hour VALUES ($1, $2, $3, $4)", logged.number, begins_at, n_attempts, n_delivered
        )
    await sql.execute("INSERT INTO counted_hour VALUES ($1, now())", this_hour - dt.timedelta(hours=1))

    stats = (await logged.api.get(f"{logged.path}/stats")).body

    assert (stats["attempts_7d"], stats["success_rate_7d"]) == (20, 0.7)
    assert stats["counted_to"] == f"{this_hour:%Y-%m-%dT%H}:00:00.000Z"
    assert len(stats["hours"]) == 24
    assert [one["begins_at"] for one in stats["hours"]] == sorted(one["begins_at"] for one in stats["hours"])
    assert {n: one for n, one in enumerate(stats["hours"]) if one["attempts"]} == {
        22: {"begins_at": f"{this_hour - dt.timedelta(hours=2):%Y-%m-%dT%H}:00:00.000Z", "attempts": 4, "delivered": 3}
    }


async def test_statistics_look_at_so_many_rows_and_no_more(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.ledger.logs.STATS_ROWS", 3)
    monkeypatch.setattr("dispatcher.ledger.logs.COUNT_ROWS", 2)
    for ago in (1, 2, 3, 4):
        await logged.seeds.ended(logged.number, "delivered", outcome="delivered", status=200, ago=ago)
        await logged.seeds.delivery(logged.number)

    stats = (await logged.api.get(f"{logged.path}/stats")).body

    assert (stats["attempts"], stats["pending_deliveries"]) == (3, 2)


async def test_the_feed_waits_at_its_end_for_the_next_event_and_no_longer(logged: Logged) -> None:
    first = await logged.seeds.event()
    feed = await logged.api.get("/v1/events?order=asc")
    path = f"/v1/events?order=asc&after={feed.body['resume']}"

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(logged.api.get(f"{path}&wait=8"))
        second = await logged.seeds.event()
    empty = await logged.api.get(f"/v1/events?order=asc&after={waiting.result().body['resume']}&wait=1")

    assert [one["id"] for one in feed.body["data"]] == [show_event_id(first)]
    assert [one["id"] for one in waiting.result().body["data"]] == [show_event_id(second)]
    assert (empty.status, empty.body["data"], empty.body["next"]) == (200, [], None)


async def test_a_feed_that_waits_holds_no_connection(logged: Logged) -> None:
    feed = await logged.api.get("/v1/events?order=asc")
    path = f"/v1/events?order=asc&wait=8&after={feed.body['resume']}"
    keys = [await logged.api.new_key(logged.api.tenant) for _ in range(MOST_OF_TENANT // MOST_OF_KEY)]

    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(logged.api.get(path, key=key)) for key in keys for _ in range(MOST_OF_KEY)]
        # The pool has five connections: these would not be answered before the waiting ones were.
        others = [await logged.api.get("/v1/webhook_endpoints") for _ in range(3)]
        assert not any(one.done() for one in waiting)
        await logged.seeds.event()

    assert {reply.status for reply in others} == {200}
    assert {len(one.result().body["data"]) for one in waiting} == {1}


async def test_only_the_feed_can_wait(logged: Logged) -> None:
    reply = await logged.api.get("/v1/events?wait=1")

    assert (reply.status, reply.code) == (400, "invalid_query")


async def test_where_requests_come_from_is_told_to_everybody(api: Api) -> None:
    reply = await api.get("/v1/webhook_source_ips", key=None)

    assert reply.body == {"data": ["192.0.2.0/28"], "changes_at": "2026-12-01T06:00:00.000Z"}
