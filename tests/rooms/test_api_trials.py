"""Test events: one real request, and what became of it."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from dispatcher import trials
from dispatcher.api.server import ApiOptions
from dispatcher.api.throttle import Allowance
from dispatcher.directory import Directory
from dispatcher.ledger.connections import Link, Pool
from dispatcher.ledger.directory import DirectoryLedger
from dispatcher.model.access import TENANT_SCOPES, Scope
from dispatcher.model.delivery import Delivery
from dispatcher.model.outcome import Outcome
from dispatcher.model.trial import Admit, Trial
from dispatcher.policy.urls import PortRules, UrlRules
from dispatcher.sending.attempt import Sender
from dispatcher.trials import Trials
from dispatcher.vault import Vault
from tests.rooms.sending_room import LOOPBACK, a_sender
from tests.rooms.test_api_harness import (
    DEFAULT_LIMITS,
    Api,
    Reply,
    api,
    ledger_template,
    ledger_url,
    pool,
    serving,
    shared_api,
    vault,
)
from tests.support.sink import Action, Sink, Step

ENDPOINTS = "/v1/webhook_endpoints"
RULES = UrlRules(ports=PortRules.parse("1-65535"), egress=LOOPBACK, allow_http=True, allow_localhost=True)


class Bench:
    """An API whose process delivers, an endpoint that does what it is told, and its registration."""

    def __init__(self, api: Api, sink: Sink) -> None:
        self.api = api
        self.sink = sink
        self.made: Reply
        self.path = ""

    async def register(self, **options: Any) -> None:
        body = {"url": f"http://127.0.0.1:{self.sink.port}/hook", "events": ["verification.*"], **options}
        self.made = await self.api.call("POST", ENDPOINTS, body)
        self.path = f"{ENDPOINTS}/{self.made.body['id']}"
        self.sink.verify("/hook", self.made.body["secret"])

    async def test(self, **members: Any) -> Reply:
        return await self.api.call("POST", f"{self.path}/test", members)


@pytest.fixture
async def tested(ledger_url: str, pool: Pool, vault: Vault) -> AsyncIterator[Bench]:
    link = Link(ledger_url, "control")
    directory = Directory(
        DirectoryLedger(link),
        vault,
        schedules={"live": (0.0,), "test": (0.0, 5.0)},
        default_limits=DEFAULT_LIMITS,
        on_limits=lambda *_: None,
    )
    options = ApiOptions(trials_a_minute=3)
    async with (
        Sink.serving() as sink,
        a_sender() as sender,
        serving(ledger_url, pool, vault, rules=RULES, options=options, trials=Trials(directory, sender)) as running,
    ):
        tested = Bench(running, sink)
        await tested.register(headers={"X-Token": "hush-hush-value"})
        yield tested
    await link.aclose()


async def test_a_test_is_one_real_signed_request_and_tells_what_came_of_it(tested: Bench) -> None:
    tested.sink.script("/hook", [Step(status=200, body="thank you")])

    reply = await tested.test(variant="declined")

    (request,) = tested.sink.requests
    shown = reply.body
    assert request.signature == "valid"
    assert (shown["delivered"], shown["status_code"], shown["outcome"], shown["error"]) == (
        True,
        200,
        "delivered",
        None,
    )
    assert shown["response_body"] == "thank you"
    assert shown["duration_ms"] >= 0
    assert shown["phases"]["connect_ms"] is not None
    assert shown["request"]["body"].encode() == request.body
    sent = {name.lower(): value for name, value in request.headers}
    assert sent["x-token"] == "hush-hush-value"
    assert {**shown["request"]["headers"], "X-Token": ""} == {
        name if name != "x-token" else "X-Token": value if name != "x-token" else "" for name, value in sent.items()
    }
    assert b"hush" not in reply.raw
    body = orjson.loads(request.body)
    assert body["id"] == sent["webhook-id"] == shown["event_id"]
    assert body["id"].startswith("evt_test_")
    assert body["test"] is True
    assert body["data"]["verification"]["outcome"] == "declined"
    assert sent["x-webhook-attempt"] == "1/1"


async def test_a_test_needs_no_body(tested: Bench) -> None:
    reply = await tested.api.call("POST", f"{tested.path}/test")

    assert (reply.status, reply.body["event_type"]) == (200, "verification.completed")


async def test_a_test_is_logged_and_verifies_the_endpoint(tested: Bench) -> None:
    reply = await tested.test()

    delivery = await tested.api.get(f"/v1/deliveries/{reply.body['delivery_id']}")
    (attempt,) = (await tested.api.get(f"{tested.path}/attempts")).body["data"]
    read = await tested.api.get(tested.path)
    assert (delivery.body["status"], delivery.body["event_id"]) == ("delivered", reply.body["event_id"])
    assert (attempt["outcome"], attempt["attempt"]) == ("delivered", 1)
    assert (tested.made.body["verified"], read.body["verified"]) == (False, True)
    async with tested.api.sql() as sql:
        assert await sql.fetchval("SELECT count(*) FROM delivery") == 0
        actions = [row["action"] for row in await sql.fetch("SELECT action FROM audit_log ORDER BY audit_id")]
    assert actions == ["endpoint.created", "endpoint.tested"]


async def test_the_log_of_a_test_shows_request_and_answer_whole(tested: Bench) -> None:
    tested.sink.script("/hook", [Step(status=500, body="no", headers=(("X-Why", "because"),))])
    made = (await tested.test()).body

    shown = (await tested.api.get(f"/v1/deliveries/{made['delivery_id']}/attempts/1")).body

    (request,) = tested.sink.requests
    sent, answer = shown["request"], shown["response"]
    headers = {one["name"]: one["value"] for one in sent["headers"]}
    wire = {name.lower(): value for name, value in request.headers}
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature", "content-length", "x-webhook-attempt"):
        assert headers[name] == wire[name]
    assert (sent["body"].encode(), sent["without_body_because"]) == (request.body, None)
    assert (sent["is_signed_again"], sent["unsigned_because"]) == (True, None)
    assert (answer["status_code"], answer["body"], answer["is_cut"]) == (500, "no", False)
    assert {"name": "X-Why", "value": "because"} in answer["headers"]


async def test_a_long_answer_to_a_test_is_kept_up_to_a_bound(tested: Bench) -> None:
    tested.sink.script("/hook", [Step(body="x" * 20_000)])
    made = (await tested.test()).body

    answer = (await tested.api.get(f"/v1/deliveries/{made['delivery_id']}/attempts/1")).body["response"]

    assert (len(answer["body"]), answer["is_cut"]) == (16_384, True)


async def test_a_test_that_nobody_answers_is_logged_with_its_request(tested: Bench) -> None:
    tested.sink.script("/hook", [Step(action=Action.RESET)])
    made = (await tested.test()).body

    shown = (await tested.api.get(f"/v1/deliveries/{made['delivery_id']}/attempts/1")).body

    assert (shown["response"], shown["request"]["body"]) == (None, made["request"]["body"])


async def test_a_test_is_found_by_what_its_body_names(tested: Bench) -> None:
    made = (await tested.test()).body
    await tested.test(type="webhook.ping")
    (shown,) = (await tested.api.get(f"/v1/deliveries?event_id={made['event_id']}")).body["data"]
    named = {name: quote(shown[name]) for name in ("subject", "client_reference")}
    by_both = "&".join(f"{name}={value}" for name, value in named.items())
    queries = [f"{name}={value}" for name, value in named.items()]

    for path in ("/v1/deliveries", f"{tested.path}/deliveries", f"{tested.path}/attempts"):
        for query in (*queries, by_both, f"event_id={made['event_id']}&{by_both}", f"{queries[0]}&test=true"):
            found = (await tested.api.get(f"{path}?{query}")).body["data"]
            assert [one["event_id"] for one in found] == [made["event_id"]], (path, query)
        for query in (f"{queries[0]}x", f"{queries[1]}x", f"event_id={made['event_id']}&{queries[0]}x"):
            assert (await tested.api.get(f"{path}?{query}")).body["data"] == [], (path, query)


async def test_no_other_account_finds_a_test(tested: Bench) -> None:
    made = (await tested.test()).body
    (shown,) = (await tested.api.get("/v1/deliveries")).body["data"]
    key = await tested.api.new_key(await tested.api.other_tenant())

    for query in (f"event_id={made['event_id']}", f"subject={quote(shown['subject'])}"):
        assert (await tested.api.get(f"/v1/deliveries?{query}", key=key)).body["data"] == []
    events = (await tested.api.get("/v1/events")).body["data"]
    assert events == []


async def test_a_success_at_a_host_that_the_endpoint_has_left_meanwhile_verifies_nothing(
    tested: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Trials.send

    async def send_and_move(self: Trials, delivery: Delivery, admit: Admit) -> Trial | None:
        trial = await send(self, delivery, admit)
        async with tested.api.sql() as sql:
            await sql.execute(
                "WITH other AS (INSERT INTO host (authority, interval_us, grant_burst, in_flight)"
                " VALUES ('https://other.example:443', 10000, 50, 64) RETURNING host_id)"
                " UPDATE endpoint SET host_id = other.host_id FROM other"
            )
        return trial

    monkeypatch.setattr(Trials, "send", send_and_move)
    reply = await tested.test()

    assert reply.body["delivered"] is True
    assert (await tested.api.get(tested.path)).body["verified"] is False


async def test_a_test_that_fails_is_told_the_likely_cause_and_never_tried_again(tested: Bench) -> None:
    tested.sink.script("/hook", [Step(status=401), Step(status=302)])

    unauthorized, redirected = await tested.test(), await tested.test()

    assert "raw body" in unauthorized.body["error"]
    assert "redirects are not followed" in redirected.body["error"]
    assert [one.body["delivered"] for one in (unauthorized, redirected)] == [False, False]
    delivery = await tested.api.get(f"/v1/deliveries/{unauthorized.body['delivery_id']}")
    assert (delivery.body["status"], delivery.body["attempts"]) == ("exhausted", 1)
    assert (await tested.api.get(tested.path)).body["verified"] is False


async def test_an_endpoint_that_hangs_is_given_up_in_time(tested: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "LONGEST_SECONDS", 0.05)
    tested.sink.script("/hook", [Step(delay_seconds=30)])

    reply = await tested.test()

    assert (reply.body["outcome"], reply.body["delivered"]) == ("timeout_response", False)
    assert "no result within" in reply.body["error"]
    assert reply.body["request"]["body"]


async def test_a_dry_run_shows_the_request_and_sends_nothing(tested: Bench) -> None:
    reply = await tested.test(dry_run=True, type="webhook.ping")

    assert tested.sink.requests == []
    assert (reply.body["dry_run"], reply.body["delivery_id"], reply.body["outcome"]) == (True, None, None)
    assert reply.body["request"]["headers"]["webhook-signature"].startswith("v1,")
    assert orjson.loads(reply.body["request"]["body"])["data"]["endpoint_id"] == tested.made.body["id"]
    assert (reply.body["would_deliver"], reply.body["would_skip_because"]) == (False, "not_subscribed")
    assert (await tested.api.get(f"{tested.path}/attempts")).body["data"] == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"filter": {"outcomes": ["declined"]}}, "filtered_outcome"),
        ({"filter": {"workflows": ["wf_other"]}}, "filtered_workflow"),
        ({"events": ["check.completed"]}, "not_subscribed"),
        ({"status": "disabled"}, "held"),
        ({}, None),
    ],
)
async def test_it_tells_why_a_real_event_would_not_come(
    tested: Bench, change: dict[str, Any], reason: str | None
) -> None:
    await tested.api.call("PATCH", tested.path, change)

    reply = await tested.test(dry_run=True)

    assert (reply.body["would_deliver"], reply.body["would_skip_because"]) == (reason is None, reason)


async def key_without_payloads(tested: Bench) -> str:
    return await tested.api.new_key(tested.api.tenant, sorted(TENANT_SCOPES - {Scope.PAYLOADS_READ}))


async def test_bodies_of_a_test_need_the_scope_for_payloads(tested: Bench) -> None:
    tested.sink.script("/hook", [Step(body="thank you"), Step(body="thank you")])
    key = await key_without_payloads(tested)

    sent = (await tested.api.call("POST", f"{tested.path}/test", {}, key=key)).body
    dry = (await tested.api.call("POST", f"{tested.path}/test", {"dry_run": True}, key=key)).body
    open_ = (await tested.test()).body

    assert (sent["response_body"], sent["without_response_body_because"]) == (None, "scope")
    assert (dry["response_body"], dry["without_response_body_because"]) == (None, None)
    for one in (sent, dry):
        assert (one["request"]["body"], one["request"]["without_body_because"]) == (None, "scope")
        assert one["request"]["headers"]["webhook-signature"]
    assert (open_["response_body"], open_["without_response_body_because"]) == ("thank you", None)
    assert open_["request"]["without_body_because"] is None


async def test_an_idempotency_key_gives_no_bodies_to_who_may_not_read_them(tested: Bench) -> None:
    tested.sink.script("/hook", [Step(body="thank you")])
    key, named = await key_without_payloads(tested), {"Idempotency-Key": "k"}

    first, again = [await tested.api.call("POST", f"{tested.path}/test", {}, headers=named) for _ in range(2)]
    other = await tested.api.call("POST", f"{tested.path}/test", {}, key=key, headers=named)

    assert first.body == again.body
    assert (other.status, other.code) == (409, "idempotency_conflict")
    assert len(tested.sink.requests) == 1


async def test_a_disabled_endpoint_can_be_tested(tested: Bench) -> None:
    await tested.api.call("PATCH", tested.path, {"status": "disabled"})

    reply = await tested.test()

    assert reply.body["delivered"] is True
    assert len(tested.sink.requests) == 1


async def test_a_test_is_not_sent_again_and_the_reason_is_told(tested: Bench) -> None:
    made = await tested.test()

    reply = await tested.api.call("POST", f"/v1/deliveries/{made.body['delivery_id']}/resend")

    assert (reply.status, reply.code) == (409, "test_not_kept")
    assert len(tested.sink.requests) == 1


async def test_tests_of_one_endpoint_are_bounded(tested: Bench) -> None:
    replies = [await tested.test() for _ in range(4)]
    dry = await tested.test(dry_run=True)

    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert 0 < int(replies[3].headers["Retry-After"]) <= 60
    assert dry.status == 200
    assert len(tested.sink.requests) == 3


async def test_deleting_an_endpoint_and_making_it_anew_opens_no_more_tests(tested: Bench) -> None:
    statuses = []
    for _ in range(4):
        statuses.append((await tested.test()).status)
        await tested.api.call("DELETE", tested.path)
        await tested.register()

    assert statuses == [200, 200, 200, 429]
    assert len(tested.sink.requests) == 3


async def test_a_test_counts_at_the_host_that_it_goes_to(tested: Bench) -> None:
    async with Sink.serving() as elsewhere:
        await tested.test()
        # This process has not heard of it: tests go on to the former host.
        await tested.api.call("PATCH", tested.path, {"url": f"http://127.0.0.1:{elsewhere.port}/", "headers": {}})
        moved = [(await tested.test()).status for _ in range(2)]
        await tested.register()
        last = await tested.test()

    assert (moved, last.status) == ([200, 200], 429)
    assert (len(tested.sink.requests), len(elsewhere.requests)) == (3, 0)


async def test_an_endpoint_without_a_success_gets_one_test_at_a_time(
    tested: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, may_end = Sender.send, asyncio.Event()

    async def send_slowly(self: Sender, *request: Any, **options: Any) -> Outcome:
        outcome = await send(self, *request, **options)
        await may_end.wait()
        return outcome

    monkeypatch.setattr(Sender, "send", send_slowly)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(tested.test(), name="first")
        await tested.sink.arrival(1)
        second = await tested.test()
        dry = await tested.test(dry_run=True)
        may_end.set()

    assert first.result().status == 200
    assert (second.status, second.code, second.headers["Retry-After"]) == (429, "test_under_way", "1")
    assert dry.status == 200
    assert len(tested.sink.requests) == 1


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({"type": "verification.complete"}, "/type", "unknown_event_type"),
        ({"type": "verification.created", "variant": "declined"}, "/variant", "unknown_variant"),
        ({"type": "webhook.ping", "variant": "largest"}, "/variant", "unknown_variant"),
        ({"variant": "purple"}, "/variant", "not_allowed"),
    ],
)
async def test_a_test_that_makes_no_sense_is_refused(
    tested: Bench, members: dict[str, Any], pointer: str, code: str
) -> None:
    reply = await tested.test(**members)

    assert (reply.status, reply.pointers) == (422, {pointer: code})


async def test_a_process_that_does_not_deliver_says_so(ledger_url: str, pool: Pool, vault: Vault) -> None:
    async with serving(ledger_url, pool, vault, trials=None) as api:
        made = await api.create()
        reply = await api.call("POST", f"{ENDPOINTS}/{made.body['id']}/test", {})

    assert (reply.status, reply.code) == (503, "not_delivering")


async def test_a_sample_is_a_body_of_the_callers_own(api: Api) -> None:
    reply = await api.get("/v1/event_types/verification.completed/sample?variant=declined")
    unknown = await api.get("/v1/event_types/verification.created/sample?variant=declined")

    assert (reply.body["environment"], reply.body["test"]) == ("test", True)
    assert reply.body["data"]["verification"]["outcome"] == "declined"
    assert (unknown.status, unknown.code) == (400, "invalid_query")
    assert (await api.get("/v1/event_types/verification.nope/sample")).status == 404
