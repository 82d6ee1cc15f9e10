"""No tenant sees another: every route of the table, with every kind of wrong key."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import secrets
from collections.abc import Iterable
from typing import NamedTuple

import pytest

from dispatcher.api.call import Route
from dispatcher.api.routes import ROUTES
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.deeds import Action
from dispatcher.ledger.keys import KeyLedger
from dispatcher.ledger.users import Invited, UserLedger
from dispatcher.model.access import TENANT_SCOPES, Role, Scope
from dispatcher.model.ids import show_event_id
from dispatcher.policy.roles import SCOPES_OF
from tests.rooms.test_api_harness import Api, Seeds, a_deed, api, ledger_template, ledger_url, pool, shared_api, vault

BODIES: dict[str, dict[str, object]] = {
    "createWebhookEndpoint": {"url": "https://example.com/", "events": ["*"]},
    "changeWebhookEndpoint": {"description": "another", "status": "paused"},
    "createReplay": {"since": "2026-11-03T09:00:00Z", "what": "all"},
    "rotateSecret": {},
    "sendTest": {"dry_run": True},
    "createApiKey": {"name": "next"},
    "inviteUser": {"email": "ada@example.com", "role": "viewer"},
    "renewInvitation": {},
    "createAccount": {"name": "Example Bank"},
    "createAccountApiKey": {"environment": "live"},
    "changeHost": {"resume": True},
    "resendDelivery": {},
    "cancelDelivery": {},
    "retryDelivery": {},
    "redriveDeadEvent": {},
}
"""A body that is good enough for each operation that takes one."""

UNKNOWN = {
    "webhook_endpoints": "we_0000000000000000",
    "deliveries": "dlv_aaaaaaaaaaaaa",
    "events": "evt_" + "a" * 32,
    "replays": "rpl_0000000000000000",
    "api_keys": "000000000000",
    "users": "usr_0000000000000000",
    "accounts": "acct_0000000000000000",
}


PUBLISHED = {"listEventTypes"}
"""Lists of what is the same for everybody."""


class Things(NamedTuple):
    """Ids that belong to one tenant, by the collection they are found in."""

    webhook_endpoints: str
    deliveries: str
    events: str
    replays: str
    api_keys: str
    users: str
    accounts: str
    finished: str
    """A delivery that is not open."""


async def make_things(api: Api, tenant: Tenant) -> Things:
    async with api.sql() as sql:
        seeds = Seeds(sql, tenant)
        endpoint = await seeds.endpoint()
        event_id = await seeds.event()
        delivery = await seeds.delivery(endpoint, event_id=event_id, attempts=1)
        await seeds.attempt(endpoint, delivery, "retry")
        finished = await seeds.ended(endpoint, event_id=event_id)
        busy = await seeds.endpoint()
        await sql.execute("UPDATE endpoint SET status = 'deleted' WHERE endpoint_id = $1", busy)
        replay = await seeds.replay(busy)
        public_id = await sql.fetchval("SELECT public_id FROM endpoint WHERE endpoint_id = $1", endpoint)
        await sql.execute(
            "INSERT INTO dead_event (log_id, topic, part, off, reason, detail, headers) "
            "VALUES ('log', 't', 0, 1, 'not_json', '', '[]') "
            "ON CONFLICT (log_id, topic, part, off) DO UPDATE SET redriven_at = NULL, arrived_at = NULL"
        )
        account = await sql.fetchval("SELECT public_id FROM account WHERE account_id = $1", tenant.account_id)
    show = api.services.delivery_ids.show
    key = await KeyLedger(api.pool).create(tenant, name="to be looked at")
    user = await a_user(api, tenant)
    return Things(public_id, show(delivery), show_event_id(event_id), replay, key.key_id, user, account, show(finished))


async def a_user(api: Api, tenant: Tenant) -> str:
    """Invite a person whom nobody else is, and return the id."""
    deed = a_deed(tenant, Action.USER_INVITED)
    email = f"{secrets.token_hex(8)}@example.com"
    invited = await UserLedger(api.pool).invite(
        deed, email, Role.VIEWER, expires_in_seconds=60, show=lambda user: b"{}"
    )
    assert isinstance(invited, Invited)
    return invited.user.public_id


def path_of(route: Route, ids: dict[str, str]) -> str:
    chosen = {"resendDelivery": "finished"}.get(route.operation_id, route.path.split("/")[2])
    return route.path.format_map(
        {
            "id": ids.get(chosen, ""),
            "n": "1",
            "type": "verification.completed",
            "host": "https%3A%2F%2Fseed%3A443",
            "place": "t%2F0%2F1",
        }
    )


def body_of(route: Route) -> dict[str, object] | None:
    return None if route.body is None else BODIES[route.operation_id]


def each(routes: Iterable[Route]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("route", list(routes), ids=lambda route: route.operation_id)


each_guarded_route = each(route for route in ROUTES if route.scope is not None)
each_open_route = each(route for route in ROUTES if route.scope is None and route.body is None)
each_account_route = each(route for route in ROUTES if route.scope not in {None, Scope.OPERATOR})
each_account_route_with_id = each(
    route for route in ROUTES if route.scope is not Scope.OPERATOR and "{id}" in route.path
)
each_operator_route = each(route for route in ROUTES if route.scope is Scope.OPERATOR)
each_list = each(
    route
    for route in ROUTES
    if route.scope not in {None, Scope.OPERATOR}
    and route.answer is not None
    and {"data", "next"} <= route.answer.model_fields.keys()
    and route.operation_id not in PUBLISHED
)


@each_open_route
async def test_what_needs_no_key_needs_none_and_says_nothing_of_anybody(api: Api, route: Route) -> None:
    things = await make_things(api, api.tenant)

    reply = await api.call(route.method, path_of(route, things._asdict()), body_of(route), key=None)

    assert reply.status == route.status
    assert [thing for thing in things if thing.encode() in reply.raw] == []


@each_guarded_route
async def test_without_a_key_the_answer_is_401(api: Api, route: Route) -> None:
    things = await make_things(api, api.tenant)

    reply = await api.call(route.method, path_of(route, things._asdict()), body_of(route), key=None)

    assert (reply.status, reply.code) == (401, "unauthorized")


@each_account_route
async def test_without_the_scope_the_answer_is_403(api: Api, route: Route) -> None:
    things = await make_things(api, api.tenant)
    assert route.scope is not None
    key = await api.new_key(api.tenant, sorted(TENANT_SCOPES - {route.scope}))

    reply = await api.call(route.method, path_of(route, things._asdict()), body_of(route), key=key)

    assert (reply.status, reply.code) == (403, "missing_scope")


@each(route for route in ROUTES if route.scope not in {None, Scope.OPERATOR} and not route.opens_to_operators)
async def test_an_operators_key_sees_no_account(api: Api, route: Route) -> None:
    things = await make_things(api, api.tenant)

    key = await api.new_key(None)
    reply = await api.call(route.method, path_of(route, things._asdict()), body_of(route), key=key)

    assert (reply.status, reply.code) == (403, "needs_account_key")


@each_operator_route
async def test_an_accounts_key_opens_nothing_of_operators(api: Api, route: Route) -> None:
    things = await make_things(api, api.tenant)

    reply = await api.call(route.method, path_of(route, things._asdict()), body_of(route))

    assert (reply.status, reply.code) == (403, "needs_operator_key")


@each(route for route in ROUTES if route.opens_to_operators)
async def test_an_operators_key_opens_some_things_of_every_account(api: Api, route: Route) -> None:
    others = (api.tenant, await api.other_tenant(), Tenant(api.tenant.account_id, "live"))
    things = [await make_things(api, tenant) for tenant in others]
    key = await api.new_key(None)

    replies = [await api.call(route.method, path_of(route, one._asdict()), key=key) for one in things]

    assert [reply.status for reply in replies] == [route.status] * 3
    assert [one.replays for one in things if one.replays.encode() not in b"".join(reply.raw for reply in replies)] == []
    if route.method != "GET":
        noted = await api.get("/v1/operator_log", key=key)
        assert {one.replays for one in things} <= {line["thing"] for line in noted.body["data"]}


@each_operator_route
async def test_an_operators_key_opens_what_is_operators(api: Api, route: Route) -> None:
    things, key = await make_things(api, api.tenant), await api.new_key(None)

    reply = await api.call(route.method, path_of(route, things._asdict()), body_of(route), key=key)

    assert reply.status == route.status


@each_account_route
async def test_the_scope_alone_is_enough(api: Api, route: Route) -> None:
    things = await make_things(api, api.tenant)
    assert route.scope is not None
    # Nobody gives away what they do not have.
    given = SCOPES_OF[Role.VIEWER] if route.operation_id in {"inviteUser", "renewInvitation"} else frozenset()
    key = await api.new_key(api.tenant, sorted({route.scope} | given))

    reply = await api.call(route.method, path_of(route, things._asdict()), body_of(route), key=key)

    # What is a WebSocket gets as far as being told so.
    assert reply.status == (400 if route.status == 101 else route.status)


@each_account_route_with_id
async def test_somebody_elses_thing_looks_like_none_at_all(api: Api, route: Route) -> None:
    others = [await api.other_tenant(), Tenant(api.tenant.account_id, "live")]
    unknown = await api.call(
        route.method, path_of(route, {**UNKNOWN, "finished": UNKNOWN["deliveries"]}), body_of(route)
    )

    for tenant in others:
        things = await make_things(api, tenant)
        path, body = path_of(route, things._asdict()), body_of(route)
        foreign = await api.call(route.method, path, body)
        own = await api.call(route.method, path, body, key=await api.new_key(tenant))

        assert foreign.status == unknown.status == 404
        assert {**foreign.body, "request_id": ""} == {**unknown.body, "request_id": ""}
        assert own.status == route.status


@each_list
async def test_a_list_holds_nothing_of_anybody_else(api: Api, route: Route) -> None:
    resume = (await api.get("/v1/attempts")).body["resume"]
    others = (await api.other_tenant(), Tenant(api.tenant.account_id, "live"))
    theirs = {one for tenant in others for one in await make_things(api, tenant)}
    mine = await make_things(api, api.tenant)
    # What is followed begins at its end, and shows what is last in it last.
    query = f"?wait=8&after={resume}" if route.operation_id == "followAttempts" else ""

    reply = await api.get(path_of(route, mine._asdict()) + query)

    assert [one for one in mine if one.encode() in reply.raw]
    assert [one for one in theirs - set(mine) if one.encode() in reply.raw] == []
    assert {one.get("environment", "test") for one in reply.body["data"]} == {"test"}


@pytest.mark.parametrize("route", [r for r in ROUTES if "after" in r.query.model_fields], ids=lambda r: r.operation_id)
async def test_a_cursor_opens_its_own_list_only(api: Api, route: Route) -> None:
    things = (await make_things(api, api.tenant))._asdict()
    stranger = await api.other_tenant()
    theirs = (await make_things(api, stranger))._asdict()
    feed = await api.get("/v1/events?order=asc&limit=1")
    cursors = {"garbage": "AAAA", "not base64": "%21%21", "too long": "A" * 600, "a feed's": feed.body["resume"]}

    is_operators = route.scope is Scope.OPERATOR
    mine = key = await api.new_key(None) if is_operators else api.key
    if not is_operators:
        key = await api.new_key(stranger)

    for cursor in cursors.values():
        reply = await api.get(f"{path_of(route, things)}?after={cursor}", key=mine)
        assert reply.status == 400
        assert reply.code in {"invalid_cursor", "invalid_query"}
    foreign = await api.get(f"{path_of(route, theirs)}?after={feed.body['resume']}&limit=1", key=key)
    assert (foreign.status, foreign.code) == (400, "invalid_cursor")
    assert [(one["parameter"], one["code"]) for one in foreign.body["errors"]] == [("after", "invalid_cursor")]
