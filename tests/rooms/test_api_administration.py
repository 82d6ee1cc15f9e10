"""Keys, accounts and the audit log over HTTP."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
from typing import Any

import pytest

from dispatcher.api import administration
from dispatcher.api.server import ApiOptions
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.model.access import TENANT_SCOPES, Scope
from dispatcher.vault import Vault
from tests.rooms.test_api_harness import Api, Reply, api, ledger_template, ledger_url, pool, serving, shared_api, vault

KEYS = "/v1/api_keys"
LOG = "/v1/audit_log"


async def issue(api: Api, **members: Any) -> Reply:
    return await api.call("POST", KEYS, members)


async def test_a_new_key_works_and_is_shown_once(api: Api) -> None:
    made = await issue(api, name="backend", scopes=["events:read"])

    allowed = await api.get("/v1/event_types", key=made.body["key"])
    refused = await api.get("/v1/webhook_endpoints", key=made.body["key"])
    listed = await api.get(KEYS)
    assert (made.status, allowed.status, refused.status) == (201, 200, 403)
    assert made.body["key"].startswith(f"whd_test_{made.body['id']}_")
    assert made.body["id"] in {one["id"] for one in listed.body["data"]}
    assert made.body["key"].rpartition("_")[2].encode() not in listed.raw


async def test_a_key_without_scopes_gets_those_of_the_key_that_asks(api: Api) -> None:
    narrow = await api.new_key(api.tenant, [Scope.KEYS_WRITE, Scope.LISTEN])

    made = await api.call("POST", KEYS, {}, key=narrow)
    whole = await issue(api)

    assert made.body["scopes"] == ["keys:write", "listen"]
    assert whole.body["scopes"] == sorted(TENANT_SCOPES)


async def test_nobody_gives_away_what_he_does_not_have(api: Api) -> None:
    narrow = await api.new_key(api.tenant, [Scope.KEYS_WRITE])

    reply = await api.call("POST", KEYS, {"scopes": ["keys:write", "endpoints:read"]}, key=narrow)
    operator = await issue(api, scopes=["operator"])

    assert (reply.status, reply.pointers) == (422, {"/scopes/1": "scope_not_held"})
    assert operator.pointers == {"/scopes/0": "not_allowed"}


async def test_a_key_that_ends_makes_none_that_ends_later(api: Api) -> None:
    parent = await issue(api, expires_in=3600)
    child = await api.call("POST", KEYS, {}, key=parent.body["key"])
    sooner = await api.call("POST", KEYS, {"expires_in": 1800}, key=parent.body["key"])
    grandchild = await api.call("POST", KEYS, {}, key=sooner.body["key"])
    later = await api.call("POST", KEYS, {"expires_in": 7200}, key=parent.body["key"])
    endless = await issue(api)

    assert child.body["expires_at"] == parent.body["expires_at"]
    assert sooner.body["created_at"] < sooner.body["expires_at"] < parent.body["expires_at"]
    assert grandchild.body["expires_at"] == sooner.body["expires_at"]
    assert (later.status, later.code, later.pointers) == (
        422,
        "expires_after_asker",
        {"/expires_in": "expires_after_asker"},
    )
    assert endless.body["expires_at"] is None


async def test_a_clock_that_is_behind_lets_no_key_live_longer(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = await issue(api, expires_in=3600)
    monkeypatch.setattr(administration, "_outlives", lambda body, ends_by: False)

    child = await api.call("POST", KEYS, {"expires_in": 7200}, key=parent.body["key"])

    assert child.body["expires_at"] == parent.body["expires_at"]


async def test_a_key_that_ends_invites_nobody(api: Api) -> None:
    invited = await api.call("POST", "/v1/users", {"email": "ada@example.com", "role": "viewer"})
    parent = await issue(api, expires_in=3600)

    replies = [
        await api.call("POST", path, body, key=parent.body["key"])
        for path, body in (
            ("/v1/users", {"email": "grace@example.com", "role": "viewer"}),
            (f"/v1/users/{invited.body['id']}/invite", {}),
        )
    ]

    assert invited.status == 201
    assert [(reply.status, reply.code) for reply in replies] == [(403, "key_ends")] * 2


async def test_what_a_key_made_stays_when_it_is_revoked(api: Api) -> None:
    parent = await issue(api)
    child = await api.call("POST", KEYS, {}, key=parent.body["key"])

    await api.call("DELETE", f"{KEYS}/{parent.body['id']}")

    assert (await api.get(KEYS, key=child.body["key"])).status == 200


async def test_two_live_keys_of_one_name_are_the_most(api: Api) -> None:
    first, second = [await issue(api, name="backend") for _ in range(2)]

    third = await issue(api, name="backend")
    other = await issue(api, name="dashboard")
    await api.call("DELETE", f"{KEYS}/{first.body['id']}")
    rotated = await issue(api, name="backend")

    assert [one.status for one in (first, second, third, other, rotated)] == [201, 201, 409, 201, 201]
    assert third.code == "key_limit"


async def test_makers_who_race_for_the_last_place_do_not_pass_it(api: Api) -> None:
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(issue(api, name="backend")) for _ in range(6)]

    assert sorted(call.result().status for call in calls) == [201, 201, 409, 409, 409, 409]


async def test_a_revoked_key_and_one_that_has_expired_open_nothing(ledger_url: str, pool: Pool, vault: Vault) -> None:
    async with serving(ledger_url, pool, vault, options=ApiOptions(key_cache_seconds=0.0)) as api:
        revoked, expired = await issue(api, name="a"), await issue(api, name="b", expires_in=60)
        before = [await api.get(KEYS, key=one.body["key"]) for one in (revoked, expired)]

        gone = await api.call("DELETE", f"{KEYS}/{revoked.body['id']}")
        async with api.sql() as sql:
            await sql.execute("UPDATE api_key SET expires_at = now() WHERE key_id = $1", expired.body["id"])
        after = [await api.get(KEYS, key=one.body["key"]) for one in (revoked, expired)]
        again = await api.call("DELETE", f"{KEYS}/{revoked.body['id']}")

    assert [reply.status for reply in before] == [200, 200]
    assert [(reply.status, reply.code) for reply in after] == [(401, "unauthorized")] * 2
    assert (gone.status, again.status) == (204, 404)


async def test_the_list_of_keys_comes_in_pages(api: Api) -> None:
    made = [(await issue(api)).body["id"] for _ in range(5)]
    await api.call("DELETE", f"{KEYS}/{made[3]}")
    await api.call("DELETE", f"{KEYS}/{made[1]}")

    whole = await api.get(f"{KEYS}?limit=100")
    pages = [await api.get(f"{KEYS}?limit=2")]
    while (following := pages[-1].body["next"]) is not None:
        pages.append(await api.get(f"{KEYS}?limit=2&after={following}"))
    other_list = await api.get(f"/v1/audit_log?after={pages[0].body['next']}")

    shown = [one["id"] for one in whole.body["data"]]
    assert [one["id"] for page in pages for one in page.body["data"]] == shown
    assert [len(page.body["data"]) for page in pages] == [2, 2, 2]
    assert [one for one in shown if one in made] == [made[4], made[2], made[0], made[1], made[3]]
    assert shown[-2:] == [made[1], made[3]]
    assert (other_list.status, other_list.code) == (400, "invalid_cursor")
    assert (await api.get(f"{KEYS}?limit=101")).status == 400


async def test_a_key_asked_for_twice_under_one_idempotency_key_is_one(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    replies = [await api.call("POST", KEYS, {"name": "n"}, headers=headers) for _ in range(2)]

    assert replies[0].body["id"] == replies[1].body["id"]
    assert replies[1].body["key"] is None


async def test_an_operator_opens_an_account_and_lets_it_in(api: Api) -> None:
    operator = await api.new_key(None)

    account = await api.call("POST", "/v1/accounts", {"name": "Example Bank"}, key=operator)
    taken = await api.call("POST", "/v1/accounts", {"id": account.body["id"]}, key=operator)
    path = f"/v1/accounts/{account.body['id']}"
    key = await api.call("POST", f"{path}/api_keys", {"environment": "live"}, key=operator)
    endpoints = await api.get("/v1/webhook_endpoints", key=key.body["key"])

    assert account.headers["Location"] == path
    assert (await api.get(path, key=operator)).body == account.body
    assert (taken.status, taken.code) == (409, "account_exists")
    assert key.body["key"].startswith("whd_live_")
    assert endpoints.status == 200
    listed = await api.get("/v1/accounts?limit=1", key=operator)
    assert listed.body["data"] == [account.body]


async def test_an_account_asked_for_twice_is_one(api: Api) -> None:
    operator, headers = await api.new_key(None), {"Idempotency-Key": "account"}

    replies = [await api.call("POST", "/v1/accounts", {}, key=operator, headers=headers) for _ in range(2)]

    assert replies[0].body == replies[1].body


async def test_accounts_are_listed_page_by_page_newest_first(api: Api) -> None:
    operator = await api.new_key(None)
    made = [(await api.call("POST", "/v1/accounts", {}, key=operator)).body["id"] for _ in range(3)]

    first = (await api.get("/v1/accounts?limit=2", key=operator)).body
    second = (await api.get(f"/v1/accounts?limit=2&after={first['next']}", key=operator)).body

    assert [one["id"] for one in first["data"] + second["data"]][:3] == made[::-1]


async def test_the_log_tells_who_did_what_latest_first(api: Api) -> None:
    made = await api.create()
    await api.call("PATCH", f"/v1/webhook_endpoints/{made.body['id']}", {"description": "a"})
    key = await issue(api, name="backend")

    first = (await api.get(f"{LOG}?limit=2")).body
    second = (await api.get(f"{LOG}?limit=2&after={first['next']}")).body

    lines = first["data"] + second["data"]
    assert [(line["action"], line["thing"]) for line in lines] == [
        ("api_key.created", key.body["id"]),
        ("endpoint.changed", made.body["id"]),
        ("endpoint.created", made.body["id"]),
    ]
    assert lines[0]["facts"]["name"] == "backend"
    assert lines[1]["before_sha256"] == lines[2]["after_sha256"]
    assert {line["key_id"] for line in lines} == {api.key.split("_")[2]}
    assert second["next"] is None


async def test_the_log_of_one_is_nobody_elses(api: Api) -> None:
    await api.create()
    operator = await api.new_key(None)
    other = await api.new_key(Tenant(api.tenant.account_id, "live"))
    await api.call("POST", "/v1/accounts", {}, key=operator)

    theirs = await api.get(LOG, key=other)
    operators = await api.get("/v1/operator_log", key=operator)

    assert theirs.body["data"] == []
    own = [line["action"] for line in operators.body["data"] if line["key_id"] == operator.split("_")[2]]
    assert own == ["account.created"]
    assert {line["action"] for line in (await api.get(LOG)).body["data"]} == {"endpoint.created"}


HOST = "/v1/hosts/https%3A%2F%2Fexample.com%3A443"


async def test_an_operator_sets_a_hosts_limits_and_takes_them_back(api: Api) -> None:
    await api.create()
    operator = await api.new_key(None)

    own = await api.call("PATCH", HOST, {"rate": 10, "burst": 20}, key=operator)
    back = await api.call("PATCH", HOST, {"defaults": True}, key=operator)
    listed = await api.get("/v1/hosts", key=operator)

    assert (own.body["rate"], own.body["burst"], own.body["in_flight"], own.body["own_limits"]) == (10.0, 20, 64, True)
    assert (back.body["rate"], back.body["own_limits"], back.body["waiting"]) == (100.0, False, 0)
    assert "https://example.com:443" in {one["host"] for one in listed.body["data"]}
    log = await api.get("/v1/operator_log", key=operator)
    facts = [line["facts"] for line in log.body["data"] if line["key_id"] == operator.split("_")[2]]
    assert [fact["rate"] for fact in facts] == [100.0, 10.0]


@pytest.mark.parametrize("name", ["https%3A%2F%2Fexample.com%3A443%00", "%00", "%ff", "nobody"])
async def test_a_host_that_nobody_has_is_not_found(api: Api, name: str) -> None:
    await api.create()
    operator = await api.new_key(None)

    read = await api.get(f"/v1/hosts/{name}", key=operator)
    changed = await api.call("PATCH", f"/v1/hosts/{name}", {"rate": 10}, key=operator)

    assert [(reply.status, reply.code) for reply in (read, changed)] == [(404, "not_found")] * 2


async def test_an_operator_ends_a_hosts_pause(api: Api) -> None:
    await api.create()
    operator = await api.new_key(None)
    async with api.sql() as sql:
        await sql.execute("UPDATE host SET paused_until = now() + interval '1 hour', scale = 0.25")
    before = await api.get(HOST, key=operator)

    after = await api.call("PATCH", HOST, {"resume": True}, key=operator)

    assert before.body["paused_seconds"] > 3_000
    assert (after.body["paused_seconds"], after.body["scale"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({"rate": 0}, "/rate", "out_of_range"),
        ({"rate": 1000, "burst": 2}, "/burst", "burst_too_small"),
        ({"rate": 1, "defaults": True}, "/defaults", "contradiction"),
    ],
)
async def test_limits_that_cannot_be_kept_are_refused(
    api: Api, members: dict[str, Any], pointer: str, code: str
) -> None:
    await api.create()

    reply = await api.call("PATCH", HOST, members, key=await api.new_key(None))

    assert (reply.status, reply.pointers) == (422, {pointer: code})
