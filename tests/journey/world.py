"""A dispatcher on given servers, with an account, a key and a scripted endpoint; and what must hold at the end."""

import asyncio
import base64
import datetime as dt
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer

from dispatcher.ledger.accounts import AccountLedger, Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.keys import KeyLedger
from dispatcher.ledger.migrate import migrate
from tests.support.daemon import Api, Daemon
from tests.support.sink import Request, Sink

SOURCE = "/verification-core"
Headers = list[tuple[str, bytes]]


def event_id(producer_id: str, source: str = SOURCE) -> str:
    """Return the public event id, computed as the Kafka contract says and not by the program."""
    digest = hashlib.sha256(f"{source}\n{producer_id}".encode()).digest()[:20]
    return "evt_" + base64.b32encode(digest).decode().lower()


@dataclass(frozen=True)
class Message:
    """One record to produce. `event_id` is None for records that are no events."""

    key: bytes
    value: bytes | None
    headers: Headers
    event_id: str | None


@dataclass
class World:
    """Everything one journey needs; made by `open_world`."""

    folder: Path
    bootstrap: str
    database_url: str
    topic: str
    account: str
    api_key: str
    settings: dict[str, str]
    kafka_options: Mapping[str, Any] = field(default_factory=dict)

    def daemon(self, name: str = "daemon", **settings: str) -> Daemon:
        """Return a dispatcher of this world, not started."""
        return Daemon(self.folder, {**self.settings, **settings}, name=name)

    def api(self, daemon: Daemon) -> Api:
        """Return a client of a running dispatcher."""
        return Api(daemon.ready["api_url"], self.api_key)

    def good(self, number: int, *, event_type: str = "verification.completed") -> Message:
        """Return a sound event of this account's test environment."""
        producer_id, subject = f"{self.topic}-{number}", f"ver_{number:012d}"
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        data = {
            "verification": {
                "id": subject,
                "status": "completed",
                "outcome": "approved",
                "final": True,
                "revision": 7,
                "workflow_id": "wf_kyc_basic",
                "client_reference": f"Jürgen-{number}",
                "reason_codes": [],
                "created_at": now,
            },
            "personal_data": {"person.given_name": f"CANARY-{number}"},
        }
        headers = self.headers(producer_id, subject, event_type, now)
        return Message(subject.encode(), json.dumps(data).encode(), headers, event_id(producer_id))

    def headers(self, producer_id: str, subject: str, event_type: str, when: str) -> Headers:
        """Return CloudEvents headers in binary mode."""
        texts = {
            "ce_specversion": "1.0",
            "ce_id": producer_id,
            "ce_source": SOURCE,
            "ce_type": event_type,
            "ce_time": when,
            "ce_subject": subject,
            "ce_accountid": self.account,
            "ce_environment": "test",
            "content-type": "application/json",
        }
        return [(name, text.encode()) for name, text in texts.items()]

    def bad(self, number: int) -> Message:
        """Return a record that must become a dead event; ten kinds in turn."""
        good = self.good(number)
        plain = dict(good.headers)
        values: list[bytes | None] = [None, b"{not json", b"\xff\xfe", b"[1]", b'{"verification":{}}', b"x" * 300_000]
        if number % 10 < len(values):
            return Message(good.key, values[number % 10], good.headers, None)
        broken: list[Headers] = [
            [(name, value) for name, value in good.headers if name != "ce_accountid"],
            [(name, value) for name, value in good.headers if name != "ce_environment"],
            list((plain | {"ce_accountid": b"nobody!"}).items()),
            [("ce_id", b"\xff")],
        ]
        return Message(good.key, good.value, broken[number % 10 - len(values)], None)

    @asynccontextmanager
    async def producer(self, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
        """Give a started producer."""
        made = AIOKafkaProducer(bootstrap_servers=self.bootstrap, **{**self.kafka_options, **options})
        await made.start()
        try:
            yield made
        finally:
            await made.stop()

    async def publish(self, messages: Sequence[Message], *, per_second: float | None = None) -> None:
        """Produce messages in order, at a pace or as fast as it goes, and wait until the broker has them."""
        loop = asyncio.get_running_loop()
        async with self.producer() as kafka:
            began = loop.time()
            waiting = []
            for number, message in enumerate(messages):
                if per_second is not None:
                    await asyncio.sleep(max(0.0, began + number / per_second - loop.time()))
                waiting.append(await kafka.send(self.topic, message.value, key=message.key, headers=message.headers))
            for one in waiting:
                await one

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """Give a session of the database: for who asks again and again."""
        connection = await asyncpg.connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Ask the database."""
        async with self.session() as sql:
            rows: list[asyncpg.Record] = await sql.fetch(statement, *arguments)
            return rows

    async def until(self, query: str, wanted: Any, *, seconds: float = 60.0) -> None:
        """Return when the database answers so."""
        async with asyncio.timeout(seconds), self.session() as sql:
            while await sql.fetchval(query) != wanted:
                await asyncio.sleep(0.1)

    async def until_settled(self, n_events: int, *, seconds: float = 150.0) -> None:
        """Return when the database holds `n_events` events and no delivery is open."""
        query = "SELECT (SELECT count(*) FROM event) AS events, (SELECT count(*) FROM delivery) AS open"
        async with asyncio.timeout(seconds), self.session() as sql:
            while True:
                (row,) = await sql.fetch(query)
                if row["events"] >= n_events and row["open"] == 0:
                    return
                await asyncio.sleep(0.1)


@asynccontextmanager
async def open_world(
    folder: Path, *, bootstrap: str, database_url: str, topic: str, kafka: Mapping[str, str] | None = None
) -> AsyncIterator[World]:
    """Migrate the database, make an account and a key, and give the world; servers are the caller's."""
    ring = {"primary": "k1", "keys": {"k1": base64.b64encode(secrets.token_bytes(32)).decode()}}
    key_file = folder / "ring.json"
    key_file.write_text(json.dumps(ring))
    key_file.chmod(0o600)
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "KAFKA__TOPICS": topic,
        "KAFKA__GROUP_ID": f"group-{topic}",
        "KAFKA__FETCH_MAX_WAIT_MS": "10",
        "KAFKA__SESSION_TIMEOUT_MS": "2000",
        "DATABASE__URL": database_url,
        "SECRETS__KEY_FILE": str(key_file),
        "HTTP__BIND": "127.0.0.1:0",
        "METRICS__BIND": "127.0.0.1:0",
        "EGRESS__ALLOW_CIDRS": "127.0.0.0/8",
        "EGRESS__ALLOW_HTTP": "true",
        "LIMITS__HOST_RATE": "5000",
        "LIMITS__HOST_BURST": "500",
        "RETRY__TEST": "0,1,1,1,2,2,2,3,3,3,3,3",
        "LEASE__SECONDS": "6",
        "DATA_DIR": str(folder / "data"),
        **(kafka or {}),
    }
    await migrate(database_url)
    account, key = await account_with_key(database_url, "acct_journey" + secrets.token_hex(4))
    yield World(folder, bootstrap, database_url, topic, account, key, settings)


async def account_with_key(database_url: str, name: str) -> tuple[str, str]:
    """Make an account of that name and return it with a key for its test environment."""
    pool = await Pool.open(database_url)
    try:
        account = await AccountLedger(pool).create(name)
        key = await KeyLedger(pool).create(Tenant(account.account_id, "test"))
    finally:
        await pool.aclose()
    return name, key.text


def successes(sink: Sink) -> Counter[tuple[str, str]]:
    """Count the requests answered with 2xx, by path and event id."""
    return Counter(
        (request.path, request.header("webhook-id") or "")
        for request in sink.requests
        if request.status is not None and 200 <= request.status < 300
    )


def bodies_are_equal(requests: Sequence[Request]) -> bool:
    """Tell whether every request of one event carried the very same bytes."""
    seen: dict[str, bytes] = {}
    return all(seen.setdefault(r.header("webhook-id") or "", r.body) == r.body for r in requests)
