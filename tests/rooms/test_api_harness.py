"""A served API on a database of its own, and a client that holds every answer against the route table."""

import datetime as dt
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest

from dispatcher.api.call import ApiServices, Publish, Resolve, Route, RouteTable, Trials, plain_path
from dispatcher.api.models import ProblemShown
from dispatcher.api.problems import Problem
from dispatcher.api.routes import ROUTES
from dispatcher.api.server import ApiOptions, ApiServer
from dispatcher.ledger.accounts import AccountLedger, Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.deeds import Action, Ask, Deed
from dispatcher.ledger.keys import KeyLedger
from dispatcher.model.access import Scope
from dispatcher.model.delivery import Delivery
from dispatcher.model.endpoint import HostLimits
from dispatcher.model.ids import DeliveryIds, show_event_id
from dispatcher.model.outcome import Outcome, OutcomeKind
from dispatcher.model.trial import Admit, Trial
from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.schema_files import load_catalogue, load_publications, schema_folder
from dispatcher.policy.urls import UrlRules
from dispatcher.vault import PlaceSeals, Vault
from tests.house.files import ROOT
from tests.support.servers import DatabaseServer, fresh_database, migrated_template

DEFAULT_LIMITS = HostLimits(100.0, 100, 64)
PUBLIC_ADDRESS = "93.184.216.34"
TABLE = RouteTable(ROUTES)
DOCUMENT = orjson.loads((ROOT / "schemas" / "openapi.json").read_bytes())
EVERYWHERE = {
    *("connection", "content-length", "content-type", "date", "x-request-id", "server", "cache-control"),
    *("content-security-policy", "referrer-policy", "x-content-type-options", "x-frame-options"),
}
"""Headers of any answer, which the document does not repeat."""

TOLD_ON_REFUSALS = {"ratelimit", "ratelimit-policy"}
"""Headers of which the document says once that refusals bear them, too."""

SOMETIMES = {"idempotent-replayed"}
"""Headers that are declared for a success and not in each of them."""


@dataclass
class Names:
    """A name service that a test can script: addresses by name, or the fault to raise; and what holds an answer up."""

    known: dict[str, Sequence[str] | Exception] = field(default_factory=dict)
    slow: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)

    async def resolve(self, name: str, port: int) -> Sequence[str]:
        if name in self.slow:
            await self.slow[name]()
        answer = self.known.get(name, [PUBLIC_ADDRESS])
        if isinstance(answer, Exception):
            raise answer
        return answer


class PaperTrials:
    """Tests that go nowhere and always succeed."""

    async def write(self, delivery: Delivery) -> Trial:
        return Trial(b"POST / HTTP/1.1\r\nhost: example.com\r\n\r\n" + delivery.body, None, (), 1)

    async def send(self, delivery: Delivery, admit: Admit) -> Trial:
        with admit("https://example.com:443", is_verified=True):
            return (await self.write(delivery))._replace(outcome=Outcome(OutcomeKind.DELIVERED, 0.001, 204))


PAPER_TRIALS = PaperTrials()


@dataclass
class PaperKafka:
    """A Kafka that takes what it is given, or says why not."""

    taken: list[tuple[Any, ...]] = field(default_factory=list)
    fault: Exception | None = None

    async def publish(
        self, topic: str, value: bytes | None, *, key: bytes | None, headers: Sequence[tuple[str, bytes | None]]
    ) -> tuple[int, int]:
        if self.fault is not None:
            raise self.fault
        self.taken.append((topic, value, key, list(headers)))
        return 0, len(self.taken)


PAPER_KAFKA = PaperKafka()


@dataclass(frozen=True)
class Reply:
    """What came back, decoded."""

    status: int
    headers: Any
    body: Any
    raw: bytes

    @property
    def code(self) -> str:
        code: str = self.body["code"]
        return code

    @property
    def pointers(self) -> dict[str, str]:
        return {fault["pointer"]: fault["code"] for fault in self.body.get("errors", [])}


@dataclass
class Api:
    """A running API, its database and its keys. `key` belongs to `tenant`, in the test environment."""

    url: str
    database: str
    services: ApiServices
    pool: Pool
    vault: Vault
    names: Names
    changed: list[int]
    tenant: Tenant
    key: str
    client: aiohttp.ClientSession

    async def call(self, method: str, path: str, json: Any = None, *, key: str | None = "", **options: Any) -> Reply:
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers.setdefault("Authorization", f"Bearer {key or self.key}")
        data = options.pop("data", None)
        if json is not None:
            data = orjson.dumps(json)
        if data is not None:
            headers.setdefault("Content-Type", "application/json")
        address = self.url + path
        async with self.client.request(method, address, headers=headers, data=data, **options) as response:
            raw = await response.read()
            reply = Reply(response.status, response.headers, orjson.loads(raw) if raw else None, raw)
        _hold_against_table(method, path, reply)
        return reply

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.call("GET", path, **options)

    async def create(self, **changes: Any) -> Reply:
        body = {"url": "https://example.com/hooks", "events": ["verification.completed"], **changes}
        return await self.call("POST", "/v1/webhook_endpoints", body)

    async def new_key(self, tenant: Tenant | None, scopes: Sequence[Scope] | None = None) -> str:
        return (await KeyLedger(self.pool).create(tenant, scopes=scopes)).text

    async def other_tenant(self) -> Tenant:
        account = await AccountLedger(self.pool).create()
        return Tenant(account.account_id, "test")

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.database)
        try:
            yield connection
        finally:
            await connection.close()


def _hold_against_table(method: str, sent_path: str, reply: Reply) -> None:
    path = plain_path(sent_path.partition("?")[0])
    assert reply.headers["X-Request-Id"].startswith("req_")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Server"] == "dispatcher"
    if reply.status >= 400:
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.status not in {429, 503} or int(reply.headers["Retry-After"]) > 0
        if reply.body is not None:
            ProblemShown.model_validate(reply.body)
            assert reply.body["status"] == reply.status
            assert reply.body["type"].endswith(":" + reply.body["code"])
        with suppress(Problem):
            _hold_against_document(TABLE.find(method, path)[0], reply)
        return
    try:
        route, _ = TABLE.find(method, path)
    except Problem as fault:
        raise AssertionError(path) from fault
    _hold_against_document(route, reply)
    answers = {route.status: route.answer, **route.other_answers}
    assert reply.status in answers
    answer = answers[reply.status]
    if answer is None:
        assert reply.raw == b""
    elif reply.raw:
        answer.model_validate_json(reply.raw)


def _hold_against_document(route: Route, reply: Reply) -> None:
    """Check that an answer bears the headers that are declared for it, and no other of its own."""
    described = DOCUMENT["paths"][route.path][route.method.lower()]["responses"].get(str(reply.status), {})
    declared = {name.lower() for name in described.get("headers", {})}
    sent = {name.lower() for name in reply.headers} - EVERYWHERE
    if reply.status >= 400:
        assert sent - TOLD_ON_REFUSALS <= declared
    else:
        assert declared - SOMETIMES <= sent <= declared


def a_deed(tenant: Tenant, action: Action = Action.ENDPOINT_CREATED, ask: Ask | None = None) -> Deed:
    """Return what a key of the tenant asks for."""
    return Deed(tenant, "key0", "192.0.2.1", "req_1", action, ask)


@pytest.fixture(scope="session")
async def ledger_template(postgres_server: DatabaseServer) -> str:
    """Give the name of a migrated database that nobody is connected to."""
    return await migrated_template(postgres_server)


@pytest.fixture
async def ledger_url(postgres_server: DatabaseServer, ledger_template: str) -> AsyncIterator[str]:
    """Give a migrated database of the test's own."""
    async with fresh_database(postgres_server, template=ledger_template) as url:
        yield url


@pytest.fixture
async def pool(ledger_url: str) -> AsyncIterator[Pool]:
    """Give a pool on that database."""
    opened = await Pool.open(ledger_url)
    yield opened
    await opened.aclose()


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    """Give a vault with a key of its own."""
    file = tmp_path_factory.mktemp("vault") / "ring.json"
    Vault.create_file(file)
    return Vault.load(file)


@asynccontextmanager
async def serving(
    database: str,
    pool: Pool,
    vault: Vault,
    *,
    rules: UrlRules | None = None,
    options: ApiOptions | None = None,
    resolve: Resolve | None = None,
    trials: Trials | None = PAPER_TRIALS,
    publish: Publish | None = PAPER_KAFKA.publish,
) -> AsyncIterator[Api]:
    """Serve the API on a free port, with one account and a key for its test environment."""
    names = Names()
    changed: list[int] = []
    services = ApiServices(
        pool=pool,
        vault=vault,
        places=PlaceSeals(b"k" * 32),
        publications=load_publications(schema_folder()),
        delivery_ids=DeliveryIds(b"k" * 32),
        n_attempts={"live": 10, "test": 4},
        catalogue=Catalogue.from_document(load_catalogue(schema_folder())),
        url_rules=rules or UrlRules(),
        host_defaults=DEFAULT_LIMITS,
        resolve=resolve or names.resolve,
        on_endpoint_changed=changed.append,
        trials=trials,
        publish=publish,
        source_ips=("192.0.2.0/28",),
        source_ips_change_at=dt.datetime(2026, 12, 1, 6, tzinfo=dt.UTC),
        user_agent="Example-Webhooks/1",
    )
    account = await AccountLedger(pool).create()
    tenant = Tenant(account.account_id, "test")
    key = await KeyLedger(pool).create(tenant)
    async with (
        ApiServer("127.0.0.1:0", services, options) as server,
        aiohttp.ClientSession(auto_decompress=False) as client,
    ):
        yield Api(server.url, database, services, pool, vault, names, changed, tenant, key.text, client)


@pytest.fixture(scope="module")
async def shared_api(postgres_server: DatabaseServer, ledger_template: str, vault: Vault) -> AsyncIterator[Api]:
    """Give a served API on a database that the module's tests share."""
    async with fresh_database(postgres_server, template=ledger_template) as url:
        opened = await Pool.open(url)
        async with serving(url, opened, vault) as running:
            yield running
        await opened.aclose()


@pytest.fixture
async def api(shared_api: Api) -> Api:
    """Give the module's API, with an account and a key of the test's own."""
    shared_api.names.known.clear()
    shared_api.names.slow.clear()
    shared_api.changed.clear()
    tenant = await shared_api.other_tenant()
    return replace(shared_api, tenant=tenant, key=await shared_api.new_key(tenant))


async def until_seen(sql: asyncpg.Connection) -> None:
    """Wait until the feed may show every event.

    Any transaction of the server that began earlier holds it back, autovacuum's too.
    """
    while not await sql.fetchval(
        "SELECT max(xid::text::bigint)::text::xid8 < pg_snapshot_xmin(pg_current_snapshot()) FROM event"
    ):
        pass


class Seeds:
    """Rows as the journey would have left them, for one tenant."""

    def __init__(self, sql: asyncpg.Connection, tenant: Tenant) -> None:
        self.sql = sql
        self.tenant = tenant

    async def endpoint(self, public_id: str | None = None) -> int:
        """Make an endpoint and return its number."""
        public_id = public_id or f"we_{secrets.token_hex(8)}"
        number: int = await self.sql.fetchval(
            "WITH h AS (INSERT INTO host (authority, interval_us, grant_burst, in_flight) "
            "VALUES ('https://seed:443', 1, 1, 1) ON CONFLICT (authority) DO UPDATE SET burst = 1 "
            "RETURNING host_id) "
            "INSERT INTO endpoint (public_id, account_id, environment, host_id, url, events, api_version, created_at) "
            "SELECT $1, $2, $3, host_id, 'https://seed/', '{*}', '2026-11-01', now() - interval '1 year' FROM h "
            "RETURNING endpoint_id",
            public_id,
            *self.tenant,
        )
        return number

    async def event(self, event_type: str = "verification.completed") -> bytes:
        """Make an event of today and return its id, once the feed may show it."""
        event_id = await self.unseen_event(event_type)
        await until_seen(self.sql)
        return event_id

    async def unseen_event(self, event_type: str = "verification.completed") -> bytes:
        """Make an event of today and return its id."""
        event_id = secrets.token_bytes(20)
        body = {
            "id": show_event_id(event_id),
            "type": event_type,
            "timestamp": "2026-11-03T09:24:55.312Z",
            "api_version": "2026-11-01",
            "environment": self.tenant.environment,
            "account_id": "acct_5hQ2vN8rTb",
            "test": False,
            "data": {"verification": {"id": "ver_8Zk3QmT1xW5n", "client_reference": "user-4711"}},
        }
        await self.sql.execute(
            "INSERT INTO event (event_day, event_id, account_id, environment, event_type, subject, client_reference, "
            "introduces, occurred_at, body) "
            "VALUES ((now() AT TIME ZONE 'UTC')::date, $1, $2, $3, $4, 'ver_8Zk3QmT1xW5n', 'user-4711', "
            "CASE WHEN NOT EXISTS (SELECT FROM event WHERE account_id = $2 AND introduces) THEN true END, now(), $5)",
            event_id,
            *self.tenant,
            event_type,
            orjson.dumps(body),
        )
        return event_id

    async def delivery(
        self,
        endpoint: int,
        *,
        age: float = 60.0,
        attempts: int = 0,
        held: bool = False,
        owner: int | None = None,
        event_id: bytes | None = None,
    ) -> int:
        """Make an open delivery, created `age` seconds ago, and return its number."""
        number: int = await self.sql.fetchval(
            "INSERT INTO delivery (event_day, event_id, account_id, environment, endpoint_id, host_id, attempts, held, "
            "owner, due_at, created_at) "
            "SELECT (now() AT TIME ZONE 'UTC')::date, $1, $2, $3, endpoint_id, host_id, $5, $6, $7, "
            "now() + interval '1 hour', now() - $8 * interval '1 second' FROM endpoint WHERE endpoint_id = $4 "
            "RETURNING delivery_id",
            event_id or await self.event(),
            *self.tenant,
            endpoint,
            attempts,
            held,
            owner,
            age,
        )
        return number

    async def attempt(
        self,
        endpoint: int,
        delivery: int,
        verdict: str,
        *,
        number: int = 1,
        age: float = 60.0,
        ago: float = 30.0,
        outcome: str | None = "http_5xx",
        status: int | None = 500,
        detail: bytes | None = None,
        event_id: bytes | None = None,
    ) -> None:
        """Make an attempt `ago` seconds ago of a delivery created `age` seconds ago."""
        await self.sql.execute(
            "INSERT INTO attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment, "
            "event_id, event_type, subject, client_reference, attempt_no, duration_ms, status, outcome, verdict, "
            "next_at, detail, replica_id) "
            "VALUES (now() - $1 * interval '1 second', $2, now() - $3 * interval '1 second', $4, $5, $6, $7, "
            "'verification.completed', 'ver_8Zk3QmT1xW5n', 'user-4711', $8, 20, $9, $10, $11, NULL, $12, 1)",
            ago,
            delivery,
            age,
            endpoint,
            *self.tenant,
            event_id or secrets.token_bytes(20),
            number,
            status if outcome else None,
            outcome,
            verdict,
            detail,
        )

    async def replay(self, endpoint: int) -> str:
        """Make a replay that is running and return its id."""
        public_id = f"rpl_{secrets.token_hex(8)}"
        await self.sql.execute(
            "INSERT INTO replay (public_id, account_id, environment, endpoint_id, kind, what, rate, n_expected, "
            "is_minimum, created_at, ready_at) "
            "SELECT $1, account_id, environment, endpoint_id, 'replay', 'all', 1, 0, false, now(), now() FROM endpoint "
            "WHERE endpoint_id = $2",
            public_id,
            endpoint,
        )
        return public_id

    async def ended(self, endpoint: int, verdict: str = "delivered", *, age: float = 60.0, **attempt: Any) -> int:
        """Make a finished delivery and return its number."""
        number: int = await self.sql.fetchval("SELECT nextval('delivery_seq')")
        await self.attempt(endpoint, number, verdict, age=age, **attempt)
        return number


async def test_a_key_just_made_opens_the_api(api: Api) -> None:
    reply = await api.get("/v1/webhook_endpoints")

    assert reply.body == {"data": [], "next": None}
