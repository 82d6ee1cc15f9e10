"""Endpoints over HTTP: what may be made, what is shown, what is kept secret."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
import base64
import json
import re
import socket

import orjson
import pytest

from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.policy.addresses import EgressPolicy
from dispatcher.policy.urls import UrlRules
from dispatcher.vault import Vault
from tests.rooms.test_api_harness import Api, api, ledger_template, ledger_url, pool, serving, shared_api, vault

ENDPOINTS = "/v1/webhook_endpoints"


async def test_a_created_endpoint_is_the_published_object_with_its_secret_once(api: Api) -> None:
    made = await api.create(description="Production")

    shown = {name: made.body[name] for name in made.body if name not in {"id", "secret", "created_at"}}
    assert shown == {
        "object": "webhook_endpoint",
        "url": "https://example.com/hooks",
        "description": "Production",
        "events": ["verification.completed"],
        "api_version": "2026-11-01",
        "payload_mode": "thin",
        "environment": "test",
        "status": "enabled",
        "verified": False,
    }
    assert re.fullmatch(r"we_[A-Za-z0-9]{16}", made.body["id"])
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{48}", made.body["secret"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made.body["created_at"])
    assert made.headers["Location"] == f"{ENDPOINTS}/{made.body['id']}"


async def test_a_created_endpoint_is_ready_to_sign_and_send(api: Api) -> None:
    made = await api.create(headers={"Authorization": "Bearer abc"})

    async with api.sql() as sql:
        (row,) = await sql.fetch(
            "SELECT e.endpoint_id, e.sealed_headers, s.secret_id, s.sealed_key, h.authority, h.rate, h.burst "
            "FROM endpoint e JOIN endpoint_secret s USING (endpoint_id) JOIN host h USING (host_id) "
            "WHERE e.public_id = $1",
            made.body["id"],
        )
    key = api.vault.open(row["sealed_key"], f"endpoint_secret:{made.body['id']}:{row['secret_id']}")
    headers = api.vault.open(row["sealed_headers"], f"endpoint_headers:{made.body['id']}")
    assert len(key) == 36
    assert orjson.loads(headers) == {"Authorization": "Bearer abc"}
    assert (row["authority"], row["rate"], row["burst"]) == ("https://example.com:443", 100.0, 100)
    assert api.changed == [row["endpoint_id"]]


async def test_no_read_shows_a_secret_or_a_header_value(api: Api) -> None:
    made = await api.create(headers={"X-Token": "hush-hush-value"})

    reads = [await api.get(ENDPOINTS), await api.get(f"{ENDPOINTS}/{made.body['id']}")]

    secret = made.body["secret"].removeprefix("whsec_")
    for read in reads:
        assert secret.encode() not in read.raw
        assert b"hush-hush-value" not in read.raw
    assert b"hush-hush-value" not in made.raw
    assert reads[1].body["headers"] == {"X-Token": "********"}
    assert reads[1].body["secret_last4"] == secret[-4:]
    assert "secret" not in reads[1].body


async def test_no_table_holds_a_secret_or_a_header_value_in_the_clear(api: Api) -> None:
    headers = {"Idempotency-Key": "one"}
    body = {"url": "https://a.example.com/", "events": ["*"], "headers": {"X-Token": "hush-hush-value"}}
    made = await api.call("POST", ENDPOINTS, body, headers=headers)

    secret = made.body["secret"].removeprefix("whsec_")
    plain = [secret.encode(), base64.b64decode(secret), b"hush-hush-value", api.key.rpartition("_")[2].encode()]
    async with api.sql() as sql:
        tables = await sql.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        rows = [
            bytes(value) if isinstance(value, bytes) else str(value).encode()
            for table in tables
            for row in await sql.fetch(f'SELECT * FROM "{table["relname"]}"')
            for value in row.values()
        ]
    assert len(rows) > 20
    assert [needle for needle in plain for value in rows if needle in value] == []


async def test_an_endpoint_that_fails_says_so_and_stays_enabled(api: Api) -> None:
    made = await api.create()
    before = (await api.get(f"{ENDPOINTS}/{made.body['id']}")).body
    async with api.sql() as sql:
        await sql.execute(
            "INSERT INTO endpoint_health (endpoint_id, failures, failing_since)"
            " SELECT endpoint_id, 41, now() - interval '2 hours' FROM endpoint WHERE public_id = $1",
            made.body["id"],
        )

    after = (await api.get(f"{ENDPOINTS}/{made.body['id']}")).body

    assert before["health"] == {
        "state": "unverified",
        "failing_since": None,
        "consecutive_failures": 0,
        "last_success_at": None,
        "last_attempt_at": None,
        "last_status_code": None,
        "last_outcome": None,
    }
    assert (after["status"], after["health"]["state"], after["health"]["consecutive_failures"]) == (
        "enabled",
        "failing",
        41,
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", after["health"]["failing_since"])


async def test_options_are_kept_and_shown(api: Api) -> None:
    made = await api.create(
        events=["verification.*", "check.completed"],
        filter={"outcomes": ["declined"], "workflows": ["wf_kyc_basic"]},
        metadata={"team": "risk"},
        schedule=[0, 10, 60],
    )

    read = await api.get(f"{ENDPOINTS}/{made.body['id']}")

    for shown in (made.body, read.body):
        assert shown["filter"] == {"outcomes": ["declined"], "workflows": ["wf_kyc_basic"]}
        assert shown["metadata"] == {"team": "risk"}
        assert shown["schedule"] == [0, 10, 60]
        assert shown["events"] == ["verification.*", "check.completed"]
    assert len(made.body["schedule_preview"]) == 3


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://example.com/", "url_not_https"),
        ("ftp://example.com/", "url_not_https"),
        ("https://user:pass@example.com/", "url_has_credentials"),
        ("https://example.com:5432/", "url_forbidden_port"),
        ("https://10.0.0.1/", "url_forbidden_address"),
        ("https://169.254.169.254/latest", "url_forbidden_address"),
        ("https://localhost/", "url_forbidden_address"),
        ("example.com", "url_malformed"),
        ("https://exämple.com/", "url_malformed"),
        ("https://example.com/" + "a" * 2048, "url_too_long"),
    ],
)
async def test_a_url_that_cannot_be_used_is_refused_with_its_own_code(api: Api, url: str, code: str) -> None:
    reply = await api.create(url=url)

    assert (reply.status, reply.code) == (422, code)
    assert reply.pointers == {"/url": code}


async def test_a_name_that_resolves_to_a_private_address_is_refused(api: Api) -> None:
    api.names.known["inside.example.com"] = ["93.184.216.34", "10.1.2.3"]

    reply = await api.create(url="https://inside.example.com/")

    assert (reply.status, reply.code) == (422, "url_forbidden_address")
    assert b"10.1.2.3" not in reply.raw


async def test_a_look_up_that_policy_refuses_is_no_unknown_name(api: Api) -> None:
    api.names.known["inside.example.com"] = PermissionError()

    reply = await api.create(url="https://inside.example.com/")

    assert (reply.status, reply.code) == (422, "url_forbidden_address")


@pytest.mark.parametrize("answer", [socket.gaierror(-2, "unknown"), TimeoutError(), []])
async def test_a_name_that_does_not_resolve_yet_is_a_warning(api: Api, answer: object) -> None:
    api.names.known["soon.example.com"] = answer  # type: ignore[assignment]

    reply = await api.create(url="https://soon.example.com/")

    assert (reply.status, reply.body["warnings"]) == (201, ["url_unresolvable"])


async def test_http_is_for_the_test_environment_where_the_operator_allows_it(
    ledger_url: str, pool: Pool, vault: Vault
) -> None:
    egress = EgressPolicy.parse(["127.0.0.0/8"], [])
    rules = UrlRules(allow_http=True, egress=egress)
    async with serving(ledger_url, pool, vault, rules=rules) as api:
        body = {"url": "http://127.0.0.1:9000/", "events": ["*"]}
        api.names.known["127.0.0.1"] = ["127.0.0.1"]
        live = await api.new_key(Tenant(api.tenant.account_id, "live"))

        in_test = await api.call("POST", ENDPOINTS, body)
        in_live = await api.call("POST", ENDPOINTS, body, key=live)

    assert in_test.status == 201
    assert (in_live.status, in_live.code) == (422, "url_not_https")


async def test_an_unknown_event_type_is_refused_with_the_nearest_names(api: Api) -> None:
    reply = await api.create(events=["verification.completed", "verification.complete"])

    assert (reply.status, reply.code) == (422, "unknown_event_type")
    (fault,) = reply.body["errors"]
    assert fault["pointer"] == "/events/1"
    assert fault["nearest"][0] == "verification.completed"


async def test_every_fault_is_told_at_once(api: Api) -> None:
    reply = await api.create(
        url="http://example.com/",
        events=["*", "*", "nope"],
        headers={"Host": "a", "X-Ok": "b\tc"},
        schedule=[0] * 30,
        payload_mode="full",
        api_version="2020-01-01",
    )

    assert (reply.status, reply.code) == (422, "validation_failed")
    assert reply.pointers == {
        "/url": "url_not_https",
        "/events/1": "repeated",
        "/events/2": "unknown_event_type",
        "/headers/Host": "header_reserved",
        "/headers/X-Ok": "header_value_malformed",
        "/schedule": "schedule_invalid",
        "/payload_mode": "payload_mode_unavailable",
        "/api_version": "unknown_api_version",
    }


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"url": 5}, "/url", "wrong_type"),
        ({"url": None}, "/url", "wrong_type"),
        ({"events": []}, "/events", "no_events"),
        ({"events": "*"}, "/events", "wrong_type"),
        ({"events": ["*", 1]}, "/events/1", "wrong_type"),
        ({"description": "x" * 256}, "/description", "too_long"),
        ({"descripton": "typo"}, "/descripton", "unknown_field"),
        ({"a/b~c": 1}, "/a~1b~0c", "unknown_field"),
        ({"environment": "live"}, "/environment", "unknown_field"),
        ({"metadata": {"a": 1}}, "/metadata/a", "wrong_type"),
        ({"metadata": {"a": "x" * 501}}, "/metadata/a", "too_long"),
        ({"metadata": {str(n): "x" for n in range(51)}}, "/metadata", "too_long"),
        ({"metadata": {"n" * 65: "x"}}, "/metadata/" + "n" * 65, "too_long"),
        ({"filter": {"outcomes": ["maybe"]}}, "/filter/outcomes/0", "not_allowed"),
        ({"filter": {"outcomes": []}}, "/filter/outcomes", "too_short"),
        ({"schedule": [0, -1]}, "/schedule/1", "out_of_range"),
        ({"schedule": [0, 1.5]}, "/schedule/1", "wrong_type"),
        ({"schedule": [0, 10**40]}, "/schedule/1", "out_of_range"),
        ({"schedule": [True]}, "/schedule/0", "wrong_type"),
        ({"schedule": []}, "/schedule", "schedule_invalid"),
        ({"headers": {"X": "a\r\nY: b"}}, "/headers/X", "header_value_malformed"),
        ({"headers": {"X": "********"}}, "/headers/X", "header_value_masked"),
        ({"headers": {"X" * 65: "a"}}, "/headers/" + "X" * 65, "header_name_malformed"),
        ({"headers": {"": "a"}}, "/headers/", "header_name_malformed"),
        ({"headers": {f"X-{n}": "a" for n in range(11)}}, "/headers", "too_many_headers"),
        ({"metadata": {"[key]": 1}}, "/metadata/[key]", "wrong_type"),
        ({"metadata": {"": "a"}}, "/metadata/", "too_short"),
        ({"filter": {"[key]": 1}}, "/filter/[key]", "unknown_field"),
        ({"[key]": 1}, "/[key]", "unknown_field"),
        ({"filter": []}, "/filter", "wrong_type"),
        ({"events": ["*", "*"]}, "/events/1", "repeated"),
    ],
)
async def test_a_faulty_member_is_named_by_its_pointer(
    api: Api, changes: dict[str, object], pointer: str, code: str
) -> None:
    body = {"url": "https://example.com/", "events": ["*"], **changes}
    # The standard library's writer, for integers beyond 64 bits.
    reply = await api.call("POST", ENDPOINTS, data=json.dumps(body).encode())

    assert reply.status == 422
    assert reply.pointers == {pointer: code}
    assert b"Body" not in reply.raw


async def test_a_missing_member_is_named(api: Api) -> None:
    reply = await api.call("POST", ENDPOINTS, {})

    assert (reply.status, reply.pointers) == (422, {"/url": "required", "/events": "required"})


async def test_a_deleted_endpoint_is_gone_but_for_its_history(api: Api) -> None:
    made = await api.create()
    path = f"{ENDPOINTS}/{made.body['id']}"

    deleted = await api.call("DELETE", path)

    assert deleted.status == 204
    assert (await api.get(path)).status == 404
    assert (await api.call("DELETE", path)).status == 404
    assert (await api.get(ENDPOINTS)).body["data"] == []
    assert (await api.get(f"{path}/deliveries")).body["data"] == []
    assert len(api.changed) == 2


async def test_the_same_idempotency_key_and_body_give_the_same_endpoint_without_its_secret(api: Api) -> None:
    body = {"url": "https://example.com/", "events": ["*"], "schedule": [0, 5]}
    headers = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}

    first = await api.call("POST", ENDPOINTS, body, headers=headers)
    spaced = orjson.dumps(dict(reversed(body.items())), option=orjson.OPT_INDENT_2)
    await api.call("PATCH", first.headers["Location"], {"status": "paused"})
    again = await api.call("POST", ENDPOINTS, data=spaced, headers=headers)

    assert first.status == again.status == 201
    assert again.body == {**first.body, "secret": None}
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Location"] == first.headers["Location"] == f"{ENDPOINTS}/{first.body['id']}"
    assert len((await api.get(ENDPOINTS)).body["data"]) == 1


async def test_the_same_idempotency_key_with_another_body_conflicts(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    await api.call("POST", ENDPOINTS, {"url": "https://example.com/", "events": ["*"]}, headers=headers)

    other = {"url": "https://example.com/b", "events": ["*"]}
    reply = await api.call("POST", ENDPOINTS, other, headers=headers)

    assert (reply.status, reply.code) == (409, "idempotency_conflict")


async def test_requests_racing_under_one_idempotency_key_make_one_endpoint(api: Api) -> None:
    body = {"url": "https://example.com/", "events": ["*"]}
    headers = {"Idempotency-Key": "race"}

    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(api.call("POST", ENDPOINTS, body, headers=headers)) for _ in range(8)]

    replies = [call.result() for call in calls]
    assert {reply.status for reply in replies} == {201}
    assert len({reply.body["id"] for reply in replies}) == 1
    assert sum(reply.body["secret"] is not None for reply in replies) == 1


async def test_an_idempotency_key_belongs_to_one_account_and_environment(api: Api) -> None:
    body = {"url": "https://example.com/", "events": ["*"]}
    headers = {"Idempotency-Key": "k"}
    mine = await api.call("POST", ENDPOINTS, body, headers=headers)

    for tenant in (await api.other_tenant(), Tenant(api.tenant.account_id, "live")):
        key = await api.new_key(tenant)
        theirs = await api.call("POST", ENDPOINTS, body, headers=headers, key=key)
        assert theirs.body["id"] != mine.body["id"]


@pytest.mark.parametrize("text", ["", "a b", "ü", "x" * 256])
async def test_an_idempotency_key_that_cannot_be_kept_is_refused(api: Api, text: str) -> None:
    reply = await api.call(
        "POST", ENDPOINTS, {"url": "https://a.example.com/", "events": ["*"]}, headers={"Idempotency-Key": text}
    )

    assert (reply.status, reply.code) == (400, "invalid_idempotency_key")


async def test_fifty_endpoints_are_the_most_even_for_racing_makers(api: Api) -> None:
    async with api.sql() as sql:
        await sql.execute(
            "INSERT INTO host (authority, interval_us, grant_burst, in_flight) VALUES ('https://fifty:443', 1, 1, 1)"
        )
        await sql.execute(
            "INSERT INTO endpoint (public_id, account_id, environment, host_id, url, events, api_version) "
            "SELECT 'we_' || n, $1, 'test', host_id, 'https://a/', '{*}', '2026-11-01' "
            "FROM generate_series(1, 48) n, host WHERE authority = 'https://fifty:443'",
            api.tenant.account_id,
        )

    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(api.create()) for _ in range(5)]

    replies = [call.result() for call in calls]
    assert sorted(reply.status for reply in replies) == [201, 201, 409, 409, 409]
    assert {reply.code for reply in replies if reply.status == 409} == {"endpoint_limit"}


async def test_pages_of_endpoints_stay_whole_while_others_are_made(api: Api) -> None:
    made = [(await api.create()).body["id"] for _ in range(5)]

    first = (await api.get(f"{ENDPOINTS}?limit=2")).body
    await api.create()
    second = (await api.get(f"{ENDPOINTS}?limit=2&after={first['next']}")).body
    third = (await api.get(f"{ENDPOINTS}?limit=2&after={second['next']}")).body

    seen = [one["id"] for page in (first, second, third) for one in page["data"]]
    assert seen == made[::-1]
    assert third["next"] is None
