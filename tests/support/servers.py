"""Real servers for tests: PostgreSQL and a Kafka-compatible broker, one of each per test worker.

Take them in by naming this module in `pytest_plugins`. `postgres_server` and `kafka_server` start
on first use, hold nothing worth keeping, and end with the session. Set to a server of one's own,
`DISPATCHER_TEST_DATABASE_URL` (a role that may create databases) and `DISPATCHER_TEST_KAFKA`
(`host:port`) are used instead; tests that stop or freeze a server start one by themselves.

    async def test_something(postgres_server: DatabaseServer) -> None:
        async with fresh_database(postgres_server) as url:
            ...
"""

import asyncio
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from dispatcher.embedded.kafka import EmbeddedKafka
from dispatcher.embedded.postgres import EmbeddedPostgres
from dispatcher.ledger.migrate import migrate
from tests.support.certificates import Certificates
from tests.support.sink import Sink

EMBEDDED_PARTITIONS = 8
MEMORY = Path("/dev/shm")
ROOM_BYTES = 1024**3


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """Where to reach PostgreSQL, with a role that may create databases.

    `templates` holds the migrated database that `migrated_template` made, if it did.
    """

    url: str
    templates: list[str] = field(default_factory=list, compare=False)


@dataclass(frozen=True, slots=True)
class KafkaServer:
    """Where to reach a broker: `host:port`."""

    bootstrap: str


@pytest.fixture(scope="session", autouse=True)
def _default_loop() -> Iterator[None]:
    # looptime's plugin asks for the thread's loop before each test, which makes one where there is
    # none; nobody would close it. It finds this one.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[DatabaseServer]:
    """Give this worker's PostgreSQL; it promises nothing about crashes, and must have none."""
    if url := os.environ.get("DISPATCHER_TEST_DATABASE_URL"):
        server = DatabaseServer(url)
        yield server
        for name in server.templates:
            asyncio.run(_administer(server, f"drop database {name} with (force)"))
        return
    with _folder_for_databases() as folder:
        embedded = EmbeddedPostgres.start(folder, durable=False)
        try:
            yield DatabaseServer(embedded.url)
        finally:
            embedded.stop()
        _say_what_crashed((folder / "server.log").read_text(errors="replace"))


def _say_what_crashed(log: str) -> None:
    # One process that crashes ends the sessions of all: tests that have nothing to do with it fail without a word.
    lines = log.splitlines()
    crashes = [n for n, line in enumerate(lines) if "was terminated by signal" in line]
    assert not crashes, "\n".join(line for n in crashes for line in lines[n : n + 30])


@contextmanager
def _folder_for_databases() -> Iterator[Path]:
    # A database is 800 files: to make and to remove them on a disk takes more CPU than most tests.
    is_roomy = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    with tempfile.TemporaryDirectory(prefix="dispatcher-test-", dir=MEMORY if is_roomy else None) as folder:
        yield Path(folder, "postgres")


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Give this worker's broker; use `fresh_topic`, one for each test."""
    if bootstrap := os.environ.get("DISPATCHER_TEST_KAFKA"):
        yield KafkaServer(bootstrap)
        return
    broker = EmbeddedKafka.start(tmp_path_factory.mktemp("kafka"))
    try:
        yield KafkaServer(broker.bootstrap)
    finally:
        broker.stop()


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    """Give an authority of our own and a certificate for the loopback names."""
    return Certificates()


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    """Give a scripted endpoint over http, this test's alone."""
    async with Sink.serving() as serving:
        yield serving


@pytest.fixture
async def tls_sink(certificates: Certificates) -> AsyncIterator[Sink]:
    """Give a scripted endpoint over https, vouched for by `certificates`, this test's alone."""
    async with Sink.serving(tls=certificates.server_context()) as serving:
        yield serving


@asynccontextmanager
async def fresh_database(server: DatabaseServer, *, template: str = "template1") -> AsyncIterator[str]:
    """Make a database, give its url, drop it afterwards with every session in it: 80 ms where it lies in memory.

    `template` is a database that nobody is connected to.
    """
    name = f"test_{secrets.token_hex(8)}"
    await _administer(server, f'create database {name} template "{template}" strategy file_copy')
    try:
        yield database_url(server, name)
    finally:
        await _administer(server, f"drop database if exists {name} with (force)")


@asynccontextmanager
async def migrated_database(server: DatabaseServer) -> AsyncIterator[str]:
    """Make a database with our tables, give its url, drop it afterwards with every session in it."""
    async with fresh_database(server, template=await migrated_template(server)) as url:
        yield url


async def migrated_template(server: DatabaseServer) -> str:
    """Return the name of a migrated database that nobody is connected to; made on first use, once for a server.

    A copy takes a tenth of the time that the migrations take.
    """
    if not server.templates:
        name = f"ledger_{secrets.token_hex(6)}"
        await _administer(server, f"create database {name}")
        await migrate(database_url(server, name))
        server.templates.append(name)
    return server.templates[0]


def database_url(server: DatabaseServer, name: str) -> str:
    """Return the url of another database on the same server."""
    return urlsplit(server.url)._replace(path=f"/{name}").geturl()


async def _administer(server: DatabaseServer, statement: str) -> None:
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def fresh_topic(bootstrap: str, *, partitions: int = EMBEDDED_PARTITIONS, name: str | None = None) -> str:
    """Create a topic and return its name; AssertionError when the broker refuses."""
    topic = name or f"test-{secrets.token_hex(8)}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(topic, partitions, 1)])
    finally:
        await admin.close()
    # The broker's answer holds the error; the client does not raise it.
    assert [error[:2] for error in answer.topic_errors] == [(topic, 0)], answer
    return topic


def processes_below(pid: int) -> list[int]:
    """Return a process and all its descendants, parents first; one that ends meanwhile may be left out."""
    found = [pid]
    for one in found:
        found += _children_of(one)
    return found


def _children_of(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(word) for word in task.read_text().split()]
    return found


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a server and all its processes in their tracks (SIGSTOP) for the length of the block."""
    stopped = [pid]
    try:
        for one in stopped:
            # Parents first: who is stopped makes no child any more, and keeps the number of one that ends.
            os.kill(one, signal.SIGSTOP)
            stopped += _children_of(one)
        yield
    finally:
        for one in reversed(stopped):
            os.kill(one, signal.SIGCONT)
