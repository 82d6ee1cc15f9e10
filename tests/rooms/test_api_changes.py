"""Changing an endpoint: what stays, what moves, and who may change which version."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
from typing import Any

import orjson
import pytest

from dispatcher.ledger import connections, endpoints
from dispatcher.ledger.deeds import Action
from tests.rooms.test_api_harness import Api, Reply, Seeds, api, ledger_template, ledger_url, pool, shared_api, vault

ENDPOINTS = "/v1/webhook_endpoints"


def path_of(made: Reply) -> str:
    return f"{ENDPOINTS}/{made.body['id']}"


async def change(api: Api, made: Reply, members: dict[str, Any], **headers: str) -> Reply:
    return await api.call("PATCH", path_of(made), members, headers=headers)


async def test_what_is_named_changes_and_everything_else_stays(api: Api) -> None:
    made = await api.create(
        description="first",
        metadata={"team": "risk"},
        headers={"X-Token": "t"},
        filter={"outcomes": ["declined"]},
        schedule=[0, 5],
        rate_limit=5,
    )
    before = (await api.get(path_of(made))).body

    changed = await change(api, made, {"description": "second", "events": ["check.completed", "verification.*"]})

    read = (await api.get(path_of(made))).body
    assert read == {**before, "description": "second", "events": ["check.completed", "verification.*"]}
    assert {name: value for name, value in changed.body.items() if name != "schedule_preview"} == read
    assert len(changed.body["schedule_preview"]) == 2
    assert len(api.changed) == 2


async def test_null_takes_an_optional_member_away(api: Api) -> None:
    options: dict[str, Any] = {
        "description": "first",
        "metadata": {"team": "risk"},
        "headers": {"X-Token": "t"},
        "filter": {"workflows": ["wf_1"]},
        "schedule": [0, 5],
        "rate_limit": 0.5,
    }
    made = await api.create(**options)
    assert made.body["rate_limit"] == 0.5

    changed = await change(api, made, dict.fromkeys(options))

    assert changed.body["description"] is None
    assert set(options) & set(changed.body) == {"description"}


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({"url": None}, "/url", "wrong_type"),
        ({"events": []}, "/events", "no_events"),
        ({"events": ["verification.complete"]}, "/events/0", "unknown_event_type"),
        ({"url": "http://10.0.0.1/"}, "/url", "url_not_https"),
        ({"rate_limit": 0}, "/rate_limit", "out_of_range"),
        ({"rate_limit": 1e9}, "/rate_limit", "out_of_range"),
        ({"rate_limit": "5"}, "/rate_limit", "wrong_type"),
        ({"schedule": [0] * 25}, "/schedule", "schedule_invalid"),
        ({"api_version": "2020-01-01"}, "/api_version", "unknown_api_version"),
        ({"payload_mode": "full"}, "/payload_mode", "payload_mode_unavailable"),
        ({"headers": {"Host": "a"}}, "/headers/Host", "header_reserved"),
        ({"headers": {"X-New": "********"}}, "/headers/X-New", "header_value_masked"),
        ({"id": "we_1"}, "/id", "unknown_field"),
        ({"environment": "live"}, "/environment", "unknown_field"),
    ],
)
async def test_a_faulty_change_is_refused_whole(api: Api, members: dict[str, Any], pointer: str, code: str) -> None:
    made = await api.create()
    before = await api.get(path_of(made))

    reply = await change(api, made, {"description": "never", **members})

    assert (reply.status, reply.pointers) == (422, {pointer: code})
    assert (await api.get(path_of(made))).body == before.body


async def test_an_old_url_that_became_forbidden_does_not_stand_in_the_way_of_other_changes(api: Api) -> None:
    made = await api.create()
    async with api.sql() as sql:
        await sql.execute("UPDATE endpoint SET url = 'https://example.com:22/' WHERE public_id = $1", made.body["id"])

    assert (await change(api, made, {"description": "still"})).status == 200
    assert (await change(api, made, {"url": "https://example.com:22/"})).pointers == {"/url": "url_forbidden_port"}


async def test_a_masked_header_keeps_its_value_and_a_new_one_replaces_it(api: Api) -> None:
    made = await api.create(headers={"X-Keep": "kept-value", "X-Change": "old", "X-Drop": "dropped"})

    changed = await change(api, made, {"headers": {"X-Keep": "********", "X-Change": "new"}})

    async with api.sql() as sql:
        sealed = await sql.fetchval("SELECT sealed_headers FROM endpoint WHERE public_id = $1", made.body["id"])
    opened = orjson.loads(api.vault.open(sealed, f"endpoint_headers:{made.body['id']}"))
    assert opened == {"X-Keep": "kept-value", "X-Change": "new"}
    assert changed.body["headers"] == {"X-Keep": "********", "X-Change": "********"}


@pytest.mark.parametrize("url", ["https://example.org/", "https://example.com:8443/"])
@pytest.mark.parametrize(
    ("members", "needed"),
    [
        ({}, {"X-Token", "X-Team"}),
        ({"headers": {"X-Token": "********", "X-Team": "anew"}}, {"X-Token"}),
        ({"headers": {"X-Token": "********"}}, {"X-Token"}),
    ],
)
async def test_at_another_host_header_values_have_to_be_given_anew(
    api: Api, url: str, members: dict[str, Any], needed: set[str]
) -> None:
    made = await api.create(headers={"X-Token": "hush-hush-value", "X-Team": "risk"})
    before = await api.get(path_of(made))

    reply = await change(api, made, {"url": url, **members})

    pointers = {f"/headers/{name}": "header_value_needed" for name in needed}
    assert (reply.status, reply.code, reply.pointers) == (422, "header_value_needed", pointers)
    assert (await api.get(path_of(made))).body == before.body


@pytest.mark.parametrize(
    ("url", "members", "stored"),
    [
        ("https://example.org/", {"headers": {"X-Token": "new"}}, {"X-Token": "new"}),
        ("https://example.org/", {"headers": {}}, None),
        ("https://example.org/", {"headers": None}, None),
        ("https://EXAMPLE.com:443/other", {}, {"X-Token": "hush-hush-value", "X-Team": "risk"}),
        ("https://example.com/other", {"headers": {"X-Token": "********"}}, {"X-Token": "hush-hush-value"}),
    ],
)
async def test_header_values_given_anew_go_along_and_at_the_same_host_all_do(
    api: Api, url: str, members: dict[str, Any], stored: dict[str, str] | None
) -> None:
    made = await api.create(headers={"X-Token": "hush-hush-value", "X-Team": "risk"})

    reply = await change(api, made, {"url": url, **members})

    async with api.sql() as sql:
        sealed = await sql.fetchval("SELECT sealed_headers FROM endpoint WHERE public_id = $1", made.body["id"])
    opened = None if sealed is None else orjson.loads(api.vault.open(sealed, f"endpoint_headers:{made.body['id']}"))
    assert (reply.status, opened) == (200, stored)


async def test_header_values_that_do_not_open_can_be_dropped_or_replaced_and_not_kept(api: Api) -> None:
    made = await api.create(headers={"X-Token": "hush-hush-value"})
    async with api.sql() as sql:
        await sql.execute("UPDATE endpoint SET sealed_headers = 'broken' WHERE public_id = $1", made.body["id"])

    kept = await change(api, made, {"url": "https://example.org/"})
    replaced = await change(api, made, {"headers": {"X-Token": "new"}})
    async with api.sql() as sql:
        await sql.execute("UPDATE endpoint SET sealed_headers = 'broken' WHERE public_id = $1", made.body["id"])
    dropped = await change(api, made, {"url": "https://example.org/", "headers": None})

    assert (kept.status, kept.code) == (503, "unavailable")
    assert (replaced.status, replaced.body["headers"]) == (200, {"X-Token": "********"})
    assert (dropped.status, "headers" in dropped.body) == (200, False)


async def test_an_endpoint_without_headers_moves_without_a_word_of_them(api: Api) -> None:
    made = await api.create()

    assert (await change(api, made, {"url": "https://example.org/"})).status == 200


async def test_at_another_host_an_endpoint_proves_itself_again_and_what_waits_moves_along(api: Api) -> None:
    made = await api.create()
    async with api.sql() as sql:
        number = await sql.fetchval(
            "UPDATE endpoint SET verified_at = now() WHERE public_id = $1 RETURNING endpoint_id", made.body["id"]
        )
        await sql.execute("INSERT INTO endpoint_pace VALUES ($1, 1, 1, now(), 0, now() + interval '1 hour', 5)", number)
        await sql.execute(
            "INSERT INTO endpoint_health VALUES ($1, 9, now() - interval '4 days', now() - interval '3 days')", number
        )
        seeds = Seeds(sql, api.tenant)
        waiting = [await seeds.delivery(number), await seeds.delivery(number, held=True)]
        under_way = await seeds.delivery(number, owner=7)
        neighbour = await seeds.delivery(await seeds.endpoint())

        same_host = await change(api, made, {"url": "https://example.com/other"})
        failures = "SELECT failures FROM endpoint_health WHERE endpoint_id = $1"
        assert await sql.fetchval(failures, number) == 9
        other_host = await change(api, made, {"url": "https://example.org:8443/hooks"})

        rows = await sql.fetch("SELECT d.delivery_id, h.authority FROM delivery d JOIN host h USING (host_id)")
        hosts = {row["delivery_id"]: row["authority"] for row in rows}
        paused = await sql.fetchval("SELECT paused_until > now() FROM endpoint_pace WHERE endpoint_id = $1", number)
        health = await sql.fetch("SELECT * FROM endpoint_health WHERE endpoint_id = $1", number)
    assert same_host.body["verified"] is True
    assert other_host.body["verified"] is False
    assert {hosts[one] for one in waiting} == {"https://example.org:8443"}
    assert hosts[under_way] == "https://example.com:443"
    assert hosts[neighbour] == "https://seed:443"
    assert paused is False
    assert [tuple(row) for row in health] == [(number, 0, None, None, False)]


async def test_a_new_url_is_looked_up_and_an_old_one_is_not(api: Api) -> None:
    made = await api.create()
    api.names.known["example.com"] = OSError("gone")
    api.names.known["nowhere.example"] = OSError("not yet")
    api.names.known["inside.example"] = ["10.0.0.1"]

    other = await change(api, made, {"description": "words"})
    unresolvable = await change(api, made, {"url": "https://nowhere.example/"})
    forbidden = await change(api, made, {"url": "https://inside.example/"})

    assert "warnings" not in other.body
    assert unresolvable.body["warnings"] == ["url_unresolvable"]
    assert forbidden.pointers == {"/url": "url_forbidden_address"}


async def test_a_version_grows_though_the_clock_was_set_back(api: Api) -> None:
    made = await api.create()
    async with api.sql() as sql:
        await sql.execute(
            "UPDATE endpoint SET settings_at = now() + interval '1 hour' WHERE public_id = $1", made.body["id"]
        )
    versions = [int((await api.get(path_of(made))).headers["ETag"].strip('"'), 16)]

    versions += [
        int((await change(api, made, changes)).headers["ETag"].strip('"'), 16)
        for changes in ({"status": "paused"}, {"status": "enabled"}, {"description": "a"}, {"status": "disabled"})
    ]

    assert versions == sorted(set(versions))


async def test_a_tag_names_one_version_of_an_endpoint(api: Api) -> None:
    made = await api.create()
    first = (await api.get(path_of(made))).headers["ETag"]
    assert made.headers["ETag"] == first

    second = await change(api, made, {"description": "a"}, **{"If-Match": first})
    late = await change(api, made, {"description": "b"}, **{"If-Match": first})
    either = await change(api, made, {"description": "c"}, **{"If-Match": f"{first}, {second.headers['ETag']}"})
    nothing_new = await change(api, made, {})

    assert second.headers["ETag"] != first
    assert (late.status, late.code) == (412, "etag_mismatch")
    assert either.status == 200
    assert nothing_new.headers["ETag"] == either.headers["ETag"]
    assert (await api.get(path_of(made))).headers["ETag"] == either.headers["ETag"]


async def test_a_request_to_the_endpoint_does_not_make_another_version_of_it(api: Api) -> None:
    made = await api.create()
    async with api.sql() as sql:
        number = await sql.fetchval("SELECT endpoint_id FROM endpoint WHERE public_id = $1", made.body["id"])
        await Seeds(sql, api.tenant).ended(number)

    read = await api.get(path_of(made))

    assert read.body["health"]["last_attempt_at"] is not None
    assert read.headers["ETag"] == made.headers["ETag"]


async def test_what_its_owner_did_not_set_makes_no_other_version_of_an_endpoint(api: Api) -> None:
    made = await api.create()
    delivered = await api.call("POST", path_of(made) + "/test", {})
    await api.call("POST", path_of(made) + "/rotate_secret", {"expires_in": 60})
    async with api.sql() as sql:
        await sql.execute(
            "UPDATE endpoint SET status = 'disabled', disabled_reason = 'gone' WHERE public_id = $1",
            made.body["id"],
        )

    read = await api.get(path_of(made))
    changed = await change(api, made, {"status": "enabled"}, **{"If-Match": made.headers["ETag"]})

    assert delivered.body["delivered"]
    assert (read.body["verified"], read.body["status"]) == (True, "disabled")
    assert read.headers["ETag"] == made.headers["ETag"]
    assert (changed.status, changed.body["status"]) == (200, "enabled")
    assert changed.headers["ETag"] != made.headers["ETag"]


async def test_processes_read_an_endpoint_again_though_its_settings_are_the_same(api: Api) -> None:
    made = await api.create()
    seen = "SELECT changed_at, settings_at FROM endpoint WHERE public_id = $1"
    async with api.sql() as sql:
        rows = await sql.fetch(seen, made.body["id"])
        for path in ("/test", "/rotate_secret"):
            await api.call("POST", path_of(made) + path, {})
            rows += await sql.fetch(seen, made.body["id"])

    changed = [row["changed_at"] for row in rows]
    assert changed == sorted(set(changed))
    assert len({row["settings_at"] for row in rows}) == 1


async def test_an_attempt_tells_whether_the_settings_were_changed_since_and_nothing_else(api: Api) -> None:
    made = await api.create()
    async with api.sql() as sql:
        number = await sql.fetchval("SELECT endpoint_id FROM endpoint WHERE public_id = $1", made.body["id"])
        delivery = await Seeds(sql, api.tenant).ended(number, ago=0.0, outcome="delivered", status=200)
    attempt = f"/v1/deliveries/{api.services.delivery_ids.show(delivery)}/attempts/1"
    await api.call("POST", path_of(made) + "/test", {})
    await api.call("POST", path_of(made) + "/rotate_secret", {})

    untouched = await api.get(attempt)
    await change(api, made, {"url": "https://example.com/other"})
    touched = await api.get(attempt)

    assert untouched.body["request"]["is_changed"] is False
    assert touched.body["request"]["is_changed"] is True


async def test_only_the_named_version_is_deleted(api: Api) -> None:
    made = await api.create()
    old = made.headers["ETag"]
    await change(api, made, {"description": "a"})

    refused = await api.call("DELETE", path_of(made), headers={"If-Match": old})
    malformed = await api.call("DELETE", path_of(made), headers={"If-Match": "old"})
    current = (await api.get(path_of(made))).headers["ETag"]
    deleted = await api.call("DELETE", path_of(made), headers={"If-Match": current})

    assert (refused.status, malformed.status, deleted.status) == (412, 400, 204)


async def test_of_many_writers_of_one_version_one_wins(api: Api) -> None:
    made = await api.create()
    tag = made.headers["ETag"]

    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(change(api, made, {"description": str(n)}, **{"If-Match": tag})) for n in range(6)]

    statuses = sorted(call.result().status for call in calls)
    assert statuses == [200, 412, 412, 412, 412, 412]


async def test_writers_who_name_no_version_lose_no_change_of_each_other(api: Api) -> None:
    made = await api.create()
    members: list[dict[str, Any]] = [{"description": "words"}, {"metadata": {"a": "1"}}, {"rate_limit": 3}]

    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(change(api, made, one)) for one in members]

    assert {call.result().status for call in calls} == {200}
    read = (await api.get(path_of(made))).body
    assert {name: read[name] for one in members for name in one} == {
        "description": "words",
        "metadata": {"a": "1"},
        "rate_limit": 3.0,
    }


async def test_of_many_writers_who_name_no_version_all_are_heard(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    # Their account has three connections, and how long they wait for a turn is not what this is about.
    monkeypatch.setattr(connections, "_CONNECT_SECONDS", 60.0)
    made = await api.create()

    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(change(api, made, {"metadata": {"n": str(n)}})) for n in range(20)]

    assert {call.result().status for call in calls} == {200}


async def test_who_cannot_have_an_endpoint_in_time_is_told_to_come_again(api: Api) -> None:
    made = await api.create()
    async with api.sql() as sql, sql.transaction():
        await sql.execute("SELECT FROM endpoint WHERE public_id = $1 FOR UPDATE", made.body["id"])

        reply = await change(api, made, {"description": "late"})

    assert (reply.status, reply.code) == (503, "unavailable")
    assert reply.headers["Retry-After"] == "1"


@pytest.mark.parametrize("names_version", [False, True])
async def test_what_is_changed_while_a_name_is_looked_up_stays_unless_a_version_was_named(
    api: Api, names_version: bool
) -> None:
    made = await api.create()
    headers = {"If-Match": made.headers["ETag"]} if names_version else {}

    looked_up, changed = asyncio.Event(), asyncio.Event()

    async def hold_up() -> None:
        looked_up.set()
        await changed.wait()

    api.names.slow["slow.example"] = hold_up
    late = asyncio.create_task(change(api, made, {"url": "https://slow.example/"}, **headers))
    await looked_up.wait()
    await change(api, made, {"description": "meanwhile"})
    changed.set()

    reply = await late
    read = (await api.get(path_of(made))).body
    assert read["description"] == "meanwhile"
    if names_version:
        assert (reply.status, reply.code) == (412, "etag_mismatch")
        assert read["url"] == made.body["url"]
    else:
        assert (reply.status, read["url"]) == (200, "https://slow.example/")


async def test_every_change_leaves_a_line_that_nobody_can_take_away(api: Api) -> None:
    made = await api.create(headers={"X-Token": "hush-hush-value"})
    await change(api, made, {"description": "a"})
    await change(api, made, {"url": "http://10.0.0.1/"})
    await api.call("DELETE", path_of(made))

    async with api.sql() as sql:
        rows = await sql.fetch("SELECT * FROM audit_log WHERE thing = $1 ORDER BY audit_id", made.body["id"])
        for statement in ("UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
            with pytest.raises(Exception, match="append only"):
                await sql.execute(statement)
    assert [row["action"] for row in rows] == [
        Action.ENDPOINT_CREATED,
        Action.ENDPOINT_CHANGED,
        Action.ENDPOINT_DELETED,
    ]
    created, changed, deleted = rows
    assert (created["before_sha256"], deleted["after_sha256"]) == (None, None)
    assert created["after_sha256"] == changed["before_sha256"]
    assert changed["after_sha256"] == deleted["before_sha256"]
    assert orjson.loads(changed["facts"]) == {"members": ["description"]}
    assert {row["actor"] for row in rows} == {api.key.split("_")[2]}
    assert {row["address"] for row in rows} == {"127.0.0.1"}
    assert b"hush" not in b"".join(bytes(v) if isinstance(v, bytes) else str(v).encode() for r in rows for v in r)


async def test_a_change_that_fails_leaves_no_line(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await api.create()

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no line")

    monkeypatch.setattr(endpoints, "note", fail)
    reply = await change(api, made, {"description": "never"})

    assert reply.status == 500
    assert (await api.get(path_of(made))).body["description"] is None


async def test_the_status_changes_with_the_rest_and_is_another_version(api: Api) -> None:
    made = await api.create()

    paused = await change(api, made, {"status": "paused", "description": "a"}, **{"If-Match": made.headers["ETag"]})
    late = await change(api, made, {"status": "enabled"}, **{"If-Match": made.headers["ETag"]})
    enabled = await change(api, made, {"status": "enabled"})

    assert (paused.body["status"], paused.body["description"]) == ("paused", "a")
    assert (late.status, late.code) == (412, "etag_mismatch")
    assert enabled.body["status"] == "enabled"
    assert len({made.headers["ETag"], paused.headers["ETag"], enabled.headers["ETag"]}) == 3
    async with api.sql() as sql:
        rows = await sql.fetch(
            "SELECT action, facts FROM audit_log WHERE thing = $1 ORDER BY audit_id", made.body["id"]
        )
    assert [(row["action"], orjson.loads(row["facts"])) for row in rows[1:]] == [
        (Action.ENDPOINT_CHANGED, {"members": ["description"]}),
        (Action.STATUS_CHANGED, {"status": "paused"}),
        (Action.STATUS_CHANGED, {"status": "enabled"}),
    ]
