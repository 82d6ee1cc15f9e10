"""People over HTTP: invited, let in, removed, and nobody beyond what they may do."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
from typing import Any

import pytest

from dispatcher.api.server import ApiOptions
from dispatcher.api.throttle import Allowance
from dispatcher.ledger.connections import Pool
from dispatcher.model.access import TENANT_SCOPES, Role, Scope
from dispatcher.policy.roles import SCOPES_OF
from dispatcher.vault import Vault
from tests.rooms.test_api_harness import Api, Reply, api, ledger_template, ledger_url, pool, serving, shared_api, vault

USERS = "/v1/users"
ACCEPT = "/v1/invitations/accept"


async def invite(api: Api, email: str = "ada@example.com", role: str = "developer", **options: Any) -> Reply:
    return await api.call("POST", USERS, {"email": email, "role": role}, **options)


async def accept(api: Api, token: str) -> Reply:
    return await api.call("POST", ACCEPT, {"token": token}, key=None)


async def join(api: Api, email: str = "ada@example.com", role: str = "developer") -> Reply:
    return await accept(api, (await invite(api, email, role)).body["token"])


async def test_an_invited_person_gets_a_key_and_the_log_names_them(api: Api) -> None:
    invited = await invite(api, "Ada@Example.com")
    accepted = await accept(api, invited.body["token"])
    key = accepted.body["api_key"]["key"]
    body = {"url": "https://example.com/", "events": ["*"]}
    made = await api.call("POST", "/v1/webhook_endpoints", body, key=key)
    log = (await api.get("/v1/audit_log")).body["data"]

    assert [reply.status for reply in (invited, accepted, made)] == [201, 201, 201]
    assert accepted.body["user"] == {
        **{name: value for name, value in invited.body.items() if name != "token"},
        "email": "ada@example.com",
        "state": "accepted",
        "accepted_at": accepted.body["user"]["accepted_at"],
        "expires_at": None,
    }
    assert key.startswith("whd_test_")
    user_id = invited.body["id"]
    assert [(line["action"], line["user_id"], line["user_email"]) for line in log] == [
        ("endpoint.created", user_id, "ada@example.com"),
        ("user.accepted", user_id, "ada@example.com"),
        ("user.invited", None, None),
    ]
    keys = (await api.get("/v1/api_keys")).body["data"]
    assert {one["user_id"] for one in keys} == {None, user_id}


@pytest.mark.parametrize("role", Role)
async def test_who_lacks_a_scope_of_a_role_can_neither_give_it_nor_renew_it(api: Api, role: Role) -> None:
    theirs = await invite(api, role=role)

    for scope in SCOPES_OF[role] - {Scope.KEYS_WRITE}:
        key = await api.new_key(api.tenant, sorted(TENANT_SCOPES - {scope}))
        given = await invite(api, "bob@example.com", role, key=key)
        renewed = await api.call("POST", f"{USERS}/{theirs.body['id']}/invite", {}, key=key)
        assert (given.status, given.pointers) == (422, {"/role": "scope_not_held"})
        assert (renewed.status, renewed.code) == (422, "scope_not_held")
        assert scope in given.body["detail"]
    enough = await api.new_key(api.tenant, sorted(SCOPES_OF[role] | {Scope.KEYS_WRITE}))
    assert (await invite(api, "bob@example.com", role, key=enough)).status == 201


@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.VIEWER])
async def test_who_is_no_owner_invites_sees_and_removes_nobody(api: Api, role: Role) -> None:
    joined = await join(api, role=role)
    key, path = joined.body["api_key"]["key"], f"{USERS}/{joined.body['user']['id']}"

    replies = [
        await invite(api, "bob@example.com", "viewer", key=key),
        await api.call("POST", f"{path}/invite", {}, key=key),
        await api.call("DELETE", path, key=key),
        await api.get(USERS, key=key),
    ]

    assert {(reply.status, reply.code) for reply in replies} == {(403, "missing_scope")}


async def test_every_invitation_that_is_no_good_is_answered_the_same(api: Api) -> None:
    used, expired, void, removed = [await invite(api, f"n{n}@example.com") for n in range(4)]
    await accept(api, used.body["token"])
    async with api.sql() as sql:
        await sql.execute("UPDATE app_user SET invitation_expires_at = now() WHERE public_id = $1", expired.body["id"])
    await api.call("POST", f"{USERS}/{void.body['id']}/invite", {})
    await api.call("DELETE", f"{USERS}/{removed.body['id']}")
    tokens = [one.body["token"] for one in (used, expired, void, removed)]

    replies = [await accept(api, token) for token in (*tokens, "nonsense", tokens[0].swapcase(), api.key)]

    assert {(reply.status, reply.code) for reply in replies} == {(404, "invitation_void")}
    assert len({(tuple(reply.headers), str({**reply.body, "request_id": ""})) for reply in replies}) == 1


async def test_of_two_who_accept_at_once_one_is_let_in(api: Api) -> None:
    token = (await invite(api)).body["token"]

    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(accept(api, token)) for _ in range(4)]

    assert sorted(call.result().status for call in calls) == [201, 404, 404, 404]


async def test_who_is_removed_is_out_within_seconds(ledger_url: str, pool: Pool, vault: Vault) -> None:
    async with serving(ledger_url, pool, vault, options=ApiOptions(key_cache_seconds=0.0)) as api:
        joined = await join(api)
        key, path = joined.body["api_key"]["key"], f"{USERS}/{joined.body['user']['id']}"
        before = await api.get("/v1/event_types", key=key)

        gone, again = [await api.call("DELETE", path) for _ in range(2)]
        after = await api.get("/v1/event_types", key=key)

    assert [reply.status for reply in (before, gone, again, after)] == [200, 204, 404, 401]


async def test_tokens_cannot_be_tried_out_and_who_has_one_is_not_counted(
    ledger_url: str, pool: Pool, vault: Vault
) -> None:
    options = ApiOptions(stranger_rate=Allowance(per_second=0.001, burst=3))
    async with serving(ledger_url, pool, vault, options=options) as api:
        joined = [await join(api, f"n{n}@example.com") for n in range(5)]
        guesses = [await accept(api, "nonsense") for _ in range(5)]
        late = await accept(api, (await invite(api)).body["token"])

    assert [reply.status for reply in joined] == [201] * 5
    assert [reply.status for reply in guesses] == [404, 404, 404, 429, 429]
    assert guesses[-1].headers["Retry-After"] == "1"
    assert late.status == 429


async def test_an_invitation_asked_for_twice_under_one_key_is_one_and_its_token_told_once(api: Api) -> None:
    first, second = [await invite(api, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    path = f"{USERS}/{first.body['id']}/invite"
    renewed = [await api.call("POST", path, headers={"Idempotency-Key": "r"}) for _ in range(2)]

    assert second.body == {**first.body, "token": None}
    assert renewed[1].body == {**renewed[0].body, "token": None}
    assert (await accept(api, renewed[0].body["token"])).status == 201


async def test_an_address_is_one_person_whatever_its_case(api: Api) -> None:
    await invite(api)

    again = await invite(api, "ADA@EXAMPLE.COM")

    assert (again.status, again.code) == (409, "user_exists")


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"email": "ada", "role": "viewer"}, {"/email": "invalid_email"}),
        ({"email": "ada@exämple.com", "role": "viewer"}, {"/email": "invalid_email"}),
        ({"email": "a" * 255, "role": "viewer"}, {"/email": "too_long"}),
        ({"email": "ada@example.com", "role": "operator"}, {"/role": "not_allowed"}),
        ({"email": "ada@example.com", "role": "viewer", "expires_in": 59}, {"/expires_in": "out_of_range"}),
        ({"email": "ada@example.com", "role": "viewer", "expires_in": 2_592_001}, {"/expires_in": "out_of_range"}),
    ],
)
async def test_faults_of_an_invitation_are_named(api: Api, body: dict[str, Any], pointers: dict[str, str]) -> None:
    reply = await api.call("POST", USERS, body)

    assert (reply.status, reply.pointers) == (422, pointers)


async def test_people_are_listed_page_by_page_with_how_far_they_are(api: Api) -> None:
    ids = [(await invite(api, f"n{n}@example.com")).body["id"] for n in range(3)]
    async with api.sql() as sql:
        await sql.execute("UPDATE app_user SET invitation_expires_at = now() WHERE public_id = $1", ids[0])
    joined = await join(api)

    first = (await api.get(f"{USERS}?limit=2")).body
    second = (await api.get(f"{USERS}?limit=2&after={first['next']}")).body

    found = [(one["id"], one["state"]) for one in first["data"] + second["data"]]
    states = ("accepted", "pending", "pending", "expired")
    assert found == list(zip((joined.body["user"]["id"], *reversed(ids)), states, strict=True))
    assert second["next"] is None


async def test_who_accepts_says_nothing_but_the_token(api: Api) -> None:
    token = (await invite(api)).body["token"]

    more = await api.call("POST", ACCEPT, {"token": token, "role": "owner"}, key=None)
    with_key = await api.call("POST", ACCEPT, {"token": token})

    assert (more.status, more.pointers) == (422, {"/role": "unknown_field"})
    assert with_key.status == 201
