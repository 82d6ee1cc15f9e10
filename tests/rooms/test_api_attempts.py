"""One attempt whole: the request as it was on the wire, the answer made harmless."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import base64
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from dispatcher.ledger.responses import dump_headers
from dispatcher.model.access import TENANT_SCOPES, Scope
from dispatcher.model.endpoint import SigningKey
from dispatcher.model.ids import show_event_id
from dispatcher.policy.signing import parse_secret
from dispatcher.sending.request import Template
from tests.rooms.test_api_harness import Api, Reply, Seeds, api, ledger_template, ledger_url, pool, shared_api, vault
from tests.support.builders import a_delivery, a_target

SIGNED_AT = 1_793_700_000
MASK = "********"


@dataclass
class Made:
    """An endpoint made over HTTP, and one delivery of a stored event to it."""

    api: Api
    seeds: Seeds
    number: int
    secret: str
    secret_id: int
    event_id: bytes
    delivery: int

    @property
    def path(self) -> str:
        return f"/v1/deliveries/{self.api.services.delivery_ids.show(self.delivery)}/attempts/1"

    async def attempt(self, *, outcome: str = "http_5xx", status: int | None = 500, **facts: Any) -> None:
        detail = {"keys": [self.secret_id], "at": SIGNED_AT, "of": 4, **facts}
        kept = {name: value for name, value in detail.items() if value is not None}
        await self.seeds.attempt(
            self.number,
            self.delivery,
            "retry",
            outcome=outcome,
            status=status,
            event_id=self.event_id,
            detail=orjson.dumps(kept),
        )

    async def answer(self, headers: Sequence[tuple[bytes, bytes]], body: bytes, *, is_cut: bool = False) -> None:
        await self.seeds.sql.execute(
            "INSERT INTO response SELECT started_at, delivery_id, attempt_no, $2, $3, $4 FROM attempt "
            "WHERE delivery_id = $1",
            self.delivery,
            dump_headers(headers),
            body,
            is_cut,
        )

    async def answered(self, headers: Sequence[tuple[bytes, bytes]], body: bytes, *, is_cut: bool = False) -> Any:
        await self.attempt()
        await self.answer(headers, body, is_cut=is_cut)
        return (await self.api.get(self.path)).body["response"]


@pytest.fixture
async def made(api: Api) -> AsyncIterator[Made]:
    created = await api.create(url="https://example.com:8443/hooks?a=b", headers={"X-Token": "hush", "x-other": "psst"})
    async with api.sql() as sql:
        seeds = Seeds(sql, api.tenant)
        row = await sql.fetchrow(
            "SELECT endpoint_id, secret_id FROM endpoint JOIN endpoint_secret USING (endpoint_id) WHERE public_id = $1",
            created.body["id"],
        )
        assert row is not None
        event_id = await seeds.event()
        delivery = await seeds.delivery(row["endpoint_id"], attempts=1, event_id=event_id)
        yield Made(api, seeds, row["endpoint_id"], created.body["secret"], row["secret_id"], event_id, delivery)


def headers_of(reply: Reply) -> dict[str, str | None]:
    return {one["name"]: one["value"] for one in reply.body["request"]["headers"]}


async def test_a_request_is_shown_as_it_was_on_the_wire(made: Made) -> None:
    await made.attempt()

    reply = await made.api.get(made.path)

    body: bytes = await made.seeds.sql.fetchval("SELECT body FROM event WHERE event_id = $1", made.event_id)
    key = parse_secret(made.secret)
    assert key is not None
    target = a_target(
        scheme="https",
        hostname="example.com",
        port=8443,
        path="/hooks?a=b",
        environment="test",
        keys=(SigningKey(made.secret_id, key),),
        headers=(("X-Token", MASK), ("x-other", MASK)),
        schedule=(0.0, 5.0, 60.0, 300.0),
    )
    wire = Template(target, "Example-Webhooks/1").fill(
        a_delivery(public_event_id=show_event_id(made.event_id), event_type="verification.completed", body=body),
        1,
        SIGNED_AT,
        delivery_id=made.api.services.delivery_ids.show(made.delivery),
    )
    shown = reply.body["request"]
    lines = [f"{one['name']}: {one['value']}" for one in shown["headers"]]
    assert "\r\n".join(["POST /hooks?a=b HTTP/1.1", *lines, "", shown["body"]]).encode() == wire
    assert shown["url"] == "https://example.com:8443/hooks?a=b"
    assert (shown["is_signed_again"], shown["unsigned_because"], shown["without_body_because"]) == (True, None, None)
    assert b"hush" not in reply.raw
    assert reply.body["response"] is None


async def test_what_cannot_be_told_any_more_is_null_with_the_reason(made: Made) -> None:
    await made.attempt()

    await made.seeds.sql.execute("DELETE FROM endpoint_secret WHERE secret_id = $1", made.secret_id)
    without_secret = await made.api.get(made.path)
    await made.seeds.sql.execute("DELETE FROM event WHERE event_id = $1", made.event_id)
    without_event = await made.api.get(made.path)

    assert without_secret.body["request"]["unsigned_because"] == "secret_gone"
    assert headers_of(without_secret)["webhook-signature"] is None
    assert headers_of(without_secret)["webhook-timestamp"] == str(SIGNED_AT)
    shown = without_event.body["request"]
    assert (shown["body"], shown["without_body_because"]) == (None, "past_retention")
    assert shown["unsigned_because"] == "body_gone"
    assert headers_of(without_event)["content-length"] is None


@pytest.mark.parametrize(("outcome", "reason"), [("dns_error", "not_sent"), ("interrupted", "not_recorded")])
async def test_a_request_that_was_not_written_has_no_signature(made: Made, outcome: str, reason: str) -> None:
    await made.attempt(outcome=outcome, status=None, at=None, of=None)

    reply = await made.api.get(made.path)

    assert reply.body["request"]["unsigned_because"] == reason
    assert headers_of(reply)["webhook-timestamp"] is headers_of(reply)["x-webhook-attempt"] is None


async def test_a_secret_that_does_not_open_is_no_fault_of_the_call(made: Made) -> None:
    await made.attempt()
    await made.seeds.sql.execute("UPDATE endpoint_secret SET sealed_key = 'x' WHERE secret_id = $1", made.secret_id)

    reply = await made.api.get(made.path)

    assert reply.body["request"]["unsigned_because"] == "secret_unreadable"


async def test_bodies_are_shown_to_a_key_that_may_read_payloads_only(made: Made) -> None:
    await made.attempt()
    await made.answer([(b"content-type", b"text/plain")], b"a name and a birthday")
    body = await made.seeds.sql.fetchval("SELECT body FROM event WHERE event_id = $1", made.event_id)
    key = await made.api.new_key(made.api.tenant, sorted(TENANT_SCOPES - {Scope.PAYLOADS_READ}))

    reply = await made.api.get(made.path, key=key)

    assert (reply.body["request"]["body"], reply.body["request"]["without_body_because"]) == (None, "scope")
    assert (reply.body["response"]["body"], reply.body["response"]["without_body_because"]) == (None, "scope")
    assert b"birthday" not in reply.raw
    assert body not in reply.raw
    assert reply.body["request"]["is_signed_again"]


@pytest.mark.parametrize(
    ("content_type", "body", "is_cut", "expected"),
    [
        (b"text/html", "<script>alert('ü')</script>\x1b[2J".encode(), False, ("utf-8", False)),
        (b"text/html; charset=latin-1", b"ol\xe9", False, ("utf-8", True)),
        (b"application/json", "\N{REPLACEMENT CHARACTER}".encode(), False, ("utf-8", False)),
        (b"image/png", b"\x89PNG\r\n\x1a\n\xff", False, ("base64", False)),
        (b"text/plain", b"a\x00b", False, ("base64", False)),
        (b"image/svg+xml", b"<svg/>", False, ("utf-8", False)),
        (b"application/x", "xü".encode()[:-1], True, ("utf-8", True)),
        (b"application/x", "xü".encode()[:-1], False, ("base64", False)),
    ],
)
async def test_an_answers_body_is_text_where_it_is_text(
    made: Made, content_type: bytes, body: bytes, is_cut: bool, expected: tuple[str, bool]
) -> None:
    shown = await made.answered([(b"Content-Type", content_type)], body, is_cut=is_cut)

    assert (shown["body_encoding"], shown["is_replaced"]) == expected
    assert (shown["content_type"], shown["is_cut"]) == (content_type.decode(), is_cut)
    back = base64.b64decode(shown["body"]) if shown["body_encoding"] == "base64" else shown["body"].encode()
    assert back == body or shown["is_replaced"]


async def test_whatever_an_endpoint_answers_is_json_of_bounded_size(made: Made) -> None:
    headers = [(b"x-odd", bytes(range(1, 256)))] * 64
    await made.attempt()
    await made.answer(headers, b"\x01" * 16_384, is_cut=True)

    reply = await made.api.get(made.path)

    assert reply.headers["Content-Type"] == "application/json"
    assert [one["value"].encode("latin-1") for one in reply.body["response"]["headers"]] == [
        value for _, value in headers
    ]
    assert len(reply.raw) < 300_000


@pytest.mark.parametrize("n", ["2", "0", "01", "-1", "1.0", "x", "32768", "9" * 40, "%D9%A1"])
async def test_an_attempt_that_was_not_made_is_not_there(made: Made, n: str) -> None:
    await made.attempt()

    reply = await made.api.get(made.path[:-1] + n)

    assert reply.status == 404


@pytest.mark.parametrize(
    ("facts", "asked_by"),
    [({}, "schedule"), ({"before": 0, "of": None}, None), ({"before": 3}, "schedule"), ({"before": 0}, "schedule")],
)
async def test_an_attempt_tells_what_it_was_made_for(made: Made, facts: dict[str, Any], asked_by: str | None) -> None:
    await made.attempt(**facts)

    assert (await made.api.get(made.path)).body["asked_by"] == asked_by


async def test_the_first_attempt_after_a_resend_was_asked_for(made: Made) -> None:
    detail = orjson.dumps({"before": 3, "of": 7, "keys": [made.secret_id], "at": SIGNED_AT})
    for number in (4, 5):
        await made.seeds.attempt(made.number, made.delivery, "retry", number=number, detail=detail, ago=30 - number)

    shown = (await made.api.get(made.path.removesuffix("/1"))).body["data"]

    assert [one["asked_by"] for one in shown] == ["schedule", "resend"]
