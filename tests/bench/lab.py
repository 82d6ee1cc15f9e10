"""The servers and processes of one benchmark, and what they cost."""

import asyncio
import base64
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import psutil
import trustme
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from dispatcher.embedded.kafka import EmbeddedKafka
from dispatcher.embedded.postgres import EmbeddedPostgres
from tests.kafka.broker import Kafka
from tests.support.daemon import run_command

N_CORES: Final = os.cpu_count() or 1
N_PARTITIONS = 8
ACCOUNT = "acct_bench000001"


@dataclass
class Lab:
    """PostgreSQL with fsync on, a broker, a key ring, one account; a folder for the rest."""

    folder: Path
    postgres: EmbeddedPostgres
    bootstrap: str
    broker_pid: int
    broker_name: str
    live_key: str
    test_key: str
    ca: trustme.CA

    def settings(self, topic: str, **more: str) -> dict[str, str]:
        """Return the settings of a daemon that reads `topic`, with the host limits lifted."""
        return {
            "KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            "KAFKA__TOPICS": topic,
            "KAFKA__GROUP_ID": f"bench-{topic}",
            "DATABASE__URL": self.postgres.url,
            "HTTP__BIND": "127.0.0.1:0",
            "METRICS__BIND": "127.0.0.1:0",
            "SECRETS__KEY_FILE": str(self.folder / "keys.json"),
            "EGRESS__ALLOW_CIDRS": "127.0.0.0/8",
            "EGRESS__ALLOW_HTTP": "true",
            "EGRESS__CA_FILE": str(self.folder / "ca.pem"),
            "LIMITS__HOST_RATE": "100000",
            "LIMITS__HOST_BURST": "100001",
            "LIMITS__HOST_IN_FLIGHT": "3",
            "LIMITS__IN_FLIGHT": "50",
            "DATA_DIR": str(self.folder / "data"),
            "LOG__LEVEL": "warning",
            **(
                {"KAFKA__FETCH_MAX_WAIT_MS": "10", "KAFKA__SESSION_TIMEOUT_MS": "2000"}
                if self.broker_name == "tansu"
                else {}
            ),
            **more,
        }

    async def make_topic(self, topic: str) -> None:
        """Create a topic of eight partitions."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, N_PARTITIONS, 1)])
        finally:
            await admin.close()


@contextmanager
def open_lab(*, apache: bool = False) -> Iterator[Lab]:
    """Start the servers; stop them and remove the folder at the end. Main thread only.

    The broker is the embedded one; or Apache Kafka itself, which wants a JDK and Maven.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        postgres = EmbeddedPostgres.start(folder / "postgres", durable=True)
        stack.callback(postgres.stop)
        bootstrap, broker_pid, broker_name = _start_broker(stack, folder, apache=apache)
        ca = trustme.CA()
        ca.cert_pem.write_to_path(folder / "ca.pem")
        served = ca.issue_cert("127.0.0.1")
        served.cert_chain_pems[0].write_to_path(folder / "chain.pem")
        served.private_key_pem.write_to_path(folder / "key.pem")
        ring = {"primary": "k1", "keys": {"k1": base64.b64encode(secrets.token_bytes(32)).decode()}}
        (folder / "keys.json").write_text(json.dumps(ring))
        (folder / "keys.json").chmod(0o600)
        lab = Lab(folder, postgres, bootstrap, broker_pid, broker_name, "", "", ca)
        settings = lab.settings("none")
        run_command(settings, "migrate")
        run_command(settings, "accounts", "create", "--id", ACCOUNT, "--name", "Bench")
        for environment in ("live", "test"):
            made = orjson.loads(
                run_command(settings, "keys", "create", "--account", ACCOUNT, "--env", environment, "-o", "json")
            )
            setattr(lab, f"{environment}_key", made["key"])
        yield lab


def _start_broker(stack: ExitStack, folder: Path, *, apache: bool) -> tuple[str, int, str]:
    if apache:
        kafka = Kafka(folder / "kafka")
        kafka.start()
        stack.callback(kafka.stop)
        return kafka.bootstrap, kafka.pid, "Apache Kafka"
    if given := os.environ.get("DISPATCHER_TEST_KAFKA"):
        return given, 0, "given"
    broker = EmbeddedKafka.start(folder / "kafka")
    stack.callback(broker.stop)
    return broker.bootstrap, broker.pid, "tansu"


class SinkProcess:
    """The sink as a process: ports to send to, and what it counted."""

    def __init__(self, process: subprocess.Popen[bytes], ready: dict[str, Any]) -> None:
        self.process = process
        self.ports: list[int] = ready["ports"]
        self._control: int = ready["control"]

    async def ask(self, word: str) -> Any:
        """Return the answer to `count`, `span`, `times` or `arrivals`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._control, limit=1 << 26)
        writer.write(word.encode() + b"\n")
        answer = json.loads(await reader.readline())
        writer.close()
        return answer

    async def count_to(self, wanted: int, *, seconds: float) -> None:
        """Return when the sink has counted `wanted` requests."""
        async with asyncio.timeout(seconds):
            while await self.ask("count") < wanted:
                await asyncio.sleep(0.02)

    async def have(self, wanted: set[str], *, seconds: float) -> None:
        """Return when a request of each event has come."""
        async with asyncio.timeout(seconds):
            while not wanted <= set(await self.ask("times")):
                await asyncio.sleep(0.5)


@asynccontextmanager
async def sink(
    folder: Path, *, n_ports: int, tls: bool, times: bool = False, extra: Sequence[str] = ()
) -> AsyncIterator[SinkProcess]:
    """Run a sink process for the time of the block."""
    ready = folder / f"sink-{secrets.token_hex(4)}.json"
    words = [sys.executable, "-m", "tests.bench.sink", "--ports", str(n_ports), "--ready", str(ready)]
    words += ["--tls", str(folder)] if tls else []
    words += ["--times"] if times else []
    words += extra
    process = subprocess.Popen(words)
    try:
        async with asyncio.timeout(20):
            while not ready.exists():
                await asyncio.sleep(0.02)
        yield SinkProcess(process, json.loads(ready.read_text()))
    finally:
        process.terminate()
        process.wait(10)


def event_data(number: int, *, workflow: str, size: int = 1_024) -> bytes:
    """Return the `data` of one verification event, padded to about `size` bytes."""
    data: dict[str, Any] = {
        "verification": {
            "id": f"ver_{number:012d}",
            "status": "completed",
            "outcome": "approved",
            "final": True,
            "revision": 7,
            "workflow_id": workflow,
            "client_reference": f"user-{number}",
            "reason_codes": [],
            "created_at": "2026-11-03T09:14:02.118Z",
            "completed_at": "2026-11-03T09:24:55.312Z",
            "checks": [
                {"id": "chk_document0001", "type": "document", "status": "passed", "reason_codes": []},
                {"id": "chk_selfie000001", "type": "selfie", "status": "passed", "reason_codes": []},
            ],
            "metadata": {},
        },
        "previous": {"status": "in_review"},
        "links": {"self": f"https://api.example.com/v1/verifications/ver_{number:012d}"},
    }
    left = size - len(orjson.dumps(data))
    step = 400
    for n in range(max(0, left) // step + 1):
        data["verification"]["metadata"][f"k{n}"] = "x" * max(0, min(step, left - n * step) - 10)
    return orjson.dumps(data)


def event_headers(producer_id: str, number: int, environment: str, when: str) -> list[tuple[str, bytes]]:
    """Return the CloudEvents headers of one event."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", producer_id.encode()),
        ("ce_source", b"/bench"),
        ("ce_type", b"verification.completed"),
        ("ce_time", when.encode()),
        ("ce_subject", f"ver_{number:012d}".encode()),
        ("ce_accountid", ACCOUNT.encode()),
        ("ce_environment", environment.encode()),
        ("content-type", b"application/json"),
    ]


@asynccontextmanager
async def producer(lab: Lab) -> AsyncIterator[AIOKafkaProducer]:
    """Give a started producer."""
    made = AIOKafkaProducer(bootstrap_servers=lab.bootstrap, linger_ms=0, max_batch_size=65_536)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process and its children so far; 0 for pid 0."""
    if pid == 0:
        return 0.0
    process = psutil.Process(pid)
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        # A worker of the database may end while it is looked for.
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


class Stolen:
    """Measures, from its making on, what share of the cores' time the hypervisor gives to other machines."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._seconds = self._so_far()

    @property
    def share(self) -> float:
        """Return the share so far, between 0 and 1."""
        return (self._so_far() - self._seconds) / (N_CORES * (time.monotonic() - self._at))

    @staticmethod
    def _so_far() -> float:
        # Only Linux tells.
        return getattr(psutil.cpu_times(), "steal", 0.0)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    size: int = psutil.Process(pid).memory_info().rss
    return size
