"""Secrets planted through the API, and looked for in everything that comes out of it or stays behind."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dispatcher.api.routes import ROUTES
from dispatcher.api.server import ApiOptions
from dispatcher.api.throttle import Allowance
from dispatcher.embedded.postgres import EmbeddedPostgres
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.migrate import migrate
from dispatcher.model.access import Scope
from dispatcher.vault import Vault
from tests.rooms.test_api_harness import Api, Reply, Seeds, serving, vault
from tests.rooms.test_api_isolation import make_things, path_of

ENDPOINTS = "/v1/webhook_endpoints"
UNBOUNDED = Allowance(per_second=1e6, burst=1_000_000)
HUSH = "hush-hush-canary-value-0123456789"


class Canaries:
    """What nobody may find but in the one answer that gives it away, and the two forms of each signing secret."""

    def __init__(self) -> None:
        self.needles: list[bytes] = [HUSH.encode()]
        self.given: list[bytes] = []
        """Those that an answer has told, once."""

    def secret(self, text: str) -> None:
        encoded = text.removeprefix("whsec_")
        self.given.append(encoded.encode())
        self.needles += [encoded.encode(), base64.b64decode(encoded)]

    def key(self, text: str) -> None:
        self.given.append(text.rpartition("_")[2].encode())
        self.needles.append(self.given[-1])

    def found_in(self, haystacks: Iterable[bytes]) -> list[bytes]:
        return [needle for hay in haystacks for needle in self.needles if needle in hay]


@dataclass
class Heard(Api):
    """An API of which every answer is kept."""

    answers: list[bytes] = field(default_factory=list)

    async def call(self, method: str, path: str, json: Any = None, *, key: str | None = "", **options: Any) -> Reply:
        reply = await super().call(method, path, json, key=key, **options)
        self.answers.append(f"{reply.status} {reply.headers}".encode() + reply.raw)
        return reply


async def plant(api: Heard, canaries: Canaries) -> str:
    """Give away secrets in every way that there is, and return the id of an endpoint that has them."""
    headers = {"Idempotency-Key": "canary"}
    body = {"url": "https://example.com/", "events": ["*"], "headers": {"X-Token": HUSH}}
    made = await api.call("POST", ENDPOINTS, body, headers=headers)
    path = f"{ENDPOINTS}/{made.body['id']}"
    rotated = await api.call("POST", f"{path}/rotate_secret", {}, headers={"Idempotency-Key": "rotate"})
    key = await api.call("POST", "/v1/api_keys", {"name": "canary"}, headers={"Idempotency-Key": "key"})
    invitation = {"email": "ada@example.com", "role": "owner"}
    invited = await api.call("POST", "/v1/users", invitation, headers={"Idempotency-Key": "user"})
    accept = {"token": invited.body["token"]}
    accepted = await api.call("POST", "/v1/invitations/accept", accept, key=None)
    renewal = f"/v1/users/{invited.body['id']}/invite"
    again = await api.call("POST", renewal, {}, headers={"Idempotency-Key": "renewal"})
    for token in (invited.body["token"], again.body["token"], accepted.body["api_key"]["key"]):
        canaries.key(token)
    await api.call("POST", "/v1/invitations/accept", accept, key=None)
    await api.call("POST", f"/v1/invitations/accept?token={again.body['token']}", {**accept, "extra": 1}, key=None)
    canaries.secret(made.body["secret"])
    canaries.secret(rotated.body["secret"])
    canaries.key(key.body["key"])
    canaries.needles.append(api.key.rpartition("_")[2].encode())
    await api.call("PATCH", path, {"headers": {"X-Token": HUSH + "-second"}})
    # What fails must not tell either.
    await api.call("PATCH", path, {"headers": {"X Token": HUSH}})
    await api.call("PATCH", path, {"url": f"https://user:{HUSH}@example.com/"})
    await api.call("POST", f"{ENDPOINTS}?secret={HUSH}", body)
    await api.call("POST", ENDPOINTS, body, headers=headers)
    api.names.known["broken.example.com"] = RuntimeError(HUSH)
    failed = await api.call("POST", ENDPOINTS, {**body, "url": "https://broken.example.com/"})
    assert failed.status == 500
    endpoint_id: str = made.body["id"]
    return endpoint_id


async def read_everything(api: Heard, endpoint_id: str) -> int:
    """Read what every route that only reads has to tell, and return how many there are."""
    operator = await api.new_key(None)
    ids = (await make_things(api, api.tenant))._asdict()
    async with api.sql() as sql:
        seeds = Seeds(sql, api.tenant)
        number = await sql.fetchval("SELECT endpoint_id FROM endpoint WHERE public_id = $1", endpoint_id)
        event_id = await seeds.event()
        delivery = await seeds.delivery(number, attempts=1, event_id=event_id)
        await seeds.attempt(number, delivery, "retry", event_id=event_id)
    ids |= {"webhook_endpoints": endpoint_id, "deliveries": api.services.delivery_ids.show(delivery)}
    routes = [route for route in ROUTES if route.method == "GET" and route.status == 200]
    for route in routes:
        key = operator if route.scope is Scope.OPERATOR else api.key
        reply = await api.get(path_of(route, ids), key=key)
        assert reply.status == 200, route.path
    return len(routes)


async def dump(api: Api) -> list[bytes]:
    """Return every value of every table."""
    async with api.sql() as sql:
        tables = await sql.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        return [
            bytes(value) if isinstance(value, bytes) else str(value).encode()
            for table in tables
            for row in await sql.fetch(f'SELECT * FROM "{table["relname"]}"')
            for value in row.values()
        ]


async def test_nothing_secret_comes_out_again_or_stays_behind_in_the_clear(
    tmp_path: Path, vault: Vault, capfd: pytest.CaptureFixture[str]
) -> None:
    canaries, folder = Canaries(), tmp_path / "postgres"
    server = EmbeddedPostgres.start(folder, durable=True)
    try:
        await migrate(server.url)
        pool = await Pool.open(server.url)
        async with serving(server.url, pool, vault, options=ApiOptions(key_rate=UNBOUNDED)) as served:
            api = Heard(**vars(served))
            endpoint_id = await plant(api, canaries)
            n_read = await read_everything(api, endpoint_id)
            rows = await dump(api)
        await pool.aclose()
    finally:
        server.stop()
    logged = capfd.readouterr()
    files = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]

    assert n_read > 25
    assert len(api.answers) > n_read + 10
    assert len(rows) > 50
    assert sum(map(len, files)) > 10_000_000
    assert endpoint_id.encode() in b"".join(files)
    assert "api_request_failed" in logged.out + logged.err
    for place in (rows, [logged.out.encode(), logged.err.encode()], files):
        assert canaries.found_in(place) == []
    # Each was told when it was made, and never again.
    assert sorted(canaries.found_in(api.answers)) == sorted(canaries.given)
