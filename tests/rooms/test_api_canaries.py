"""Secrets planted through the API, and looked for in everything that comes out of it or stays behind."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import base64
from collections.abc import Iterable
from pathlib import Path

import pytest

from dispatcher.api.routes import ROUTES
from dispatcher.embedded.postgres import EmbeddedPostgres
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.migrate import migrate
from dispatcher.model.access import Scope
from dispatcher.vault import Vault
from tests.rooms.test_api_harness import Api, Seeds, serving, vault

ENDPOINTS = "/v1/webhook_endpoints"
HUSH = "hush-hush-canary-value-0123456789"


class Canaries:
    """What nobody may find, and the two forms of each signing secret."""

    def __init__(self) -> None:
        self.needles: list[bytes] = [HUSH.encode()]

    def secret(self, text: str) -> None:
        encoded = text.removeprefix("whsec_")
        self.needles += [encoded.encode(), base64.b64decode(encoded)]

    def key(self, text: str) -> None:
        self.needles.append(text.rpartition("_")[2].encode())

    def found_in(self, haystacks: Iterable[bytes]) -> list[bytes]:
        return [needle for hay in haystacks for needle in self.needles if needle in hay]


async def plant(api: Api, canaries: Canaries) -> str:
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
    canaries.key(api.key)
    await api.call("PATCH", path, {"headers": {"X-Token": HUSH + "-second"}})
    # What fails must not tell either.
    await api.call("PATCH", path, {"headers": {"X Token": HUSH}})
    await api.call("PATCH", path, {"url": f"https://user:{HUSH}@example.com/"})
    await api.call("POST", f"{ENDPOINTS}?secret={HUSH}", body)
    repeated = await api.call("POST", ENDPOINTS, body, headers=headers)
    assert canaries.found_in([repeated.raw]) == []
    endpoint_id: str = made.body["id"]
    return endpoint_id


async def read_everything(api: Api, endpoint_id: str) -> list[bytes]:
    """Return the answers of every route that only reads."""
    operator = await api.new_key(None)
    answers = []
    for route in ROUTES:
        if route.method == "GET" and route.status == 200:
            host, place = "https%3A%2F%2Fexample.com%3A443", "t%2F0%2F1"
            values = {"id": endpoint_id, "n": "1", "type": "verification.completed", "host": host, "place": place}
            key = operator if route.scope is Scope.OPERATOR else api.key
            answers.append((await api.get(route.path.format_map(values), key=key)).raw)
    return answers


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
        async with serving(server.url, pool, vault) as api:
            endpoint_id = await plant(api, canaries)
            answers = await read_everything(api, endpoint_id)
            rows = await dump(api)
        await pool.aclose()
    finally:
        server.stop()
    logged = capfd.readouterr()
    files = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]

    assert len(answers) > 10
    assert len(rows) > 50
    assert sum(map(len, files)) > 10_000_000
    assert endpoint_id.encode() in b"".join(files)
    for place in (answers, rows, [logged.out.encode(), logged.err.encode()], files):
        assert canaries.found_in(place) == []
