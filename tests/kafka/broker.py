"""Apache Kafka itself, one node, from the jars on Maven Central: for tests of what only it does.

    kafka = Kafka(folder)
    kafka.start()                   # about 3.5 s: format, start, until it answers
    kafka.kill(); kafka.start()     # same ports, same data; 4 s after a kill
    kafka.stop()

Needs a JDK (17 or newer) and Maven on the PATH; the fixture `apache_kafka` skips without them.
The jars (43 MB) come once into `kafka-jars` of the virtual environment, or the folder named by
`DISPATCHER_TEST_KAFKA_JARS`; `python -m tests.kafka.broker` fetches them ahead. A broker dies with
the process that started it.
"""

import base64
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import TopicPartition
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from dispatcher.embedded.children import Command, free_port, last_words, open_log, spawn, stop
from dispatcher.embedded.kafka import ask_cluster_id
from tests.support.certificates import Certificates

_POM = Path(__file__).with_name("pom.xml")
_MAVEN_SECONDS = 240.0
_FORMAT_SECONDS = 60.0
_READY_SECONDS = 60.0
_JVM = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_LOGGING = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAIN",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.num.partitions": "1",
        "transaction.state.log.min.isr": "1",
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        # A start after a kill waits until the old session has expired: 14 s by default, so 4 s.
        "broker.heartbeat.interval.ms": "200",
        "broker.session.timeout.ms": "2000",
    }
)
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Listener:
    """A door beside the plain one. `advertised_port` names a proxy in front of `port`."""

    name: str
    port: int
    protocol: str = "PLAINTEXT"
    advertised_port: int | None = None


class Kafka:
    """One broker with its data below `folder`. `start` and `stop` may alternate; ports stay.

    `settings` are server properties that go before ours, `listeners` doors beside the plain one,
    `format_args` further words for the first format (`--add-scram`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, str] = _NO_SETTINGS,
        listeners: Sequence[Listener] = (),
        format_args: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.cluster_id = _new_cluster_id()
        self._format_args = tuple(format_args)
        self._properties = {**_SETTINGS, **self._doors(listeners), **settings}
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """Return the plain listener's `127.0.0.1:PORT`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Return the broker's pid; AssertionError when it is not running."""
        assert self._child is not None
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """Tell whether the process lives."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start, formatting first when there is no data, and wait until it answers; blocks.

        Main thread only. RuntimeError with the broker's last words when it does not come up.
        """
        assert not self.is_running
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self.folder / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in self._properties.items()))
        log = open_log(self.folder / "kafka.log")
        try:
            if not (self.folder / "data").exists():
                self._format(properties, log)
            self._child = _java(self.folder, log, "kafka.Kafka", str(properties))
            self._wait_ready(log)
        finally:
            os.close(log)

    def stop(self) -> None:
        """Stop in order (SIGTERM), 0.3 s; a broker that is not running is left alone."""
        if self._child is not None:
            stop(self._child, [(signal.SIGTERM, 30.0)])

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        if self._child is not None:
            stop(self._child, ())

    def restart(self) -> None:
        """Stop in order and start again on the same ports and data."""
        self.stop()
        self.start()

    def _doors(self, listeners: Sequence[Listener]) -> dict[str, str]:
        controller = free_port()
        doors = [Listener("PLAIN", self.port), *listeners]
        every = [*doors, Listener("CONTROLLER", controller)]
        return {
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": ",".join(f"{one.name}://127.0.0.1:{one.port}" for one in every),
            "advertised.listeners": ",".join(
                f"{one.name}://127.0.0.1:{one.advertised_port or one.port}" for one in doors
            ),
            "listener.security.protocol.map": ",".join(f"{one.name}:{one.protocol}" for one in every),
            "log.dirs": str(self.folder / "data"),
        }

    def _format(self, properties: Path, log: int) -> None:
        words = ("format", "-t", self.cluster_id, "-c", str(properties), *self._format_args)
        child = _java(self.folder, log, "kafka.tools.StorageTool", *words)
        try:
            status = child.wait(_FORMAT_SECONDS)
        finally:
            stop(child, ())
        if status != 0:
            shutil.rmtree(self.folder / "data", ignore_errors=True)
            message = f"formatting failed: {last_words(log)}"
            raise RuntimeError(message)

    def _wait_ready(self, log: int) -> None:
        assert self._child is not None
        deadline = time.monotonic() + _READY_SECONDS
        while self._child.poll() is None and time.monotonic() < deadline:
            if ask_cluster_id("127.0.0.1", self.port) == self.cluster_id:
                return
            time.sleep(0.02)
        self.kill()
        message = f"Apache Kafka did not start: {last_words(log)}"
        raise RuntimeError(message)


@dataclass(frozen=True, slots=True)
class Secured:
    """A broker that asks clients for a password over TLS (SASL_SSL, SCRAM-SHA-512)."""

    kafka: Kafka
    port: int
    user: str
    password: str
    authority: Path

    @property
    def bootstrap(self) -> str:
        """Return the secured listener's address, by the name in its certificate."""
        return f"localhost:{self.port}"


def secured(folder: Path, *, user: str = "dispatcher", password: str = "s3cret") -> Secured:
    """Return a broker, not yet started, with a SASL_SSL door beside the plain one."""
    folder.mkdir(parents=True, exist_ok=True)
    certificates = Certificates()
    keystore = folder / "keystore.pem"
    keystore.write_bytes(_with_pkcs8_key(certificates.server_pem))
    door = Listener("SECURED", free_port(), "SASL_SSL")
    prefix = "listener.name.secured"
    kafka = Kafka(
        folder,
        listeners=(door,),
        settings={
            f"{prefix}.ssl.keystore.type": "PEM",
            f"{prefix}.ssl.keystore.location": str(keystore),
            f"{prefix}.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            f"{prefix}.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
        },
        format_args=("--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"),
    )
    authority = certificates.write_authority(folder / "authority.pem")
    return Secured(kafka, door.port, user, password, authority)


def _with_pkcs8_key(pem: bytes) -> bytes:
    # The only form of a private key that Java reads from PEM.
    key, chain = re.split(rb"(?<=PRIVATE KEY-----\n)(?=-----BEGIN CERTIFICATE)", pem, maxsplit=1)
    plain = load_pem_private_key(key, None)
    return plain.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + chain


def _new_cluster_id() -> str:
    # A leading dash would be taken for an option.
    while (fresh := base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return fresh


def _java(folder: Path, log: int, program: str, *words: str) -> subprocess.Popen[bytes]:
    java = shutil.which("java")
    assert java is not None, "no java on the PATH"
    classes = str(jars() / "*")
    argv = (java, *_JVM, _LOGGING, "-cp", classes, program, *words)
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder)}
    return spawn(Command(argv, folder, log, signal.SIGKILL, environment=environment))


def jars() -> Path:
    """Return the folder with Apache Kafka's jars, got from Maven Central when it is not there."""
    version: str = re.findall(r"<version>([\d.]+)</version>", _POM.read_text())[0]
    default = Path(sys.prefix) / "kafka-jars"
    folder = Path(os.environ.get("DISPATCHER_TEST_KAFKA_JARS", default)) / version
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / "lock").open("w") as lock:
            # One of several test workers fetches, the others wait for it.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    goal = ("dependency:copy-dependencies", f"-DoutputDirectory={fresh}")
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", str(_POM), *goal],
        capture_output=True,
        text=True,
        timeout=_MAVEN_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        message = f"Maven could not fetch Apache Kafka: {(done.stdout + done.stderr)[-2000:]}"
        raise RuntimeError(message)
    fresh.rename(folder)


def missing_tools() -> str | None:
    """Return why Apache Kafka cannot run here, None when it can."""
    absent = [name for name in ("java", "mvn") if shutil.which(name) is None]
    return f"Apache Kafka needs {' and '.join(absent)} on the PATH" if absent else None


@pytest.fixture(scope="session")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Give this worker's Apache Kafka with both its doors; tests that kill it must start it again."""
    if reason := missing_tools():
        pytest.skip(reason)
    broker = secured(tmp_path_factory.mktemp("apache-kafka"))
    broker.kafka.start()
    try:
        yield broker
    finally:
        broker.kafka.stop()


@pytest.fixture(scope="session")
def apache_kafka(secured_kafka: Secured) -> Kafka:
    """Give the same broker to tests that come in by the plain door."""
    return secured_kafka.kafka


async def delete_records(bootstrap: str, topic: str, before: Mapping[int, int]) -> None:
    """Delete each partition's records below an offset, as retention would; -1 is all of them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_records(
            {
                TopicPartition(topic, partition): RecordsToDelete(before_offset=offset)
                for partition, offset in before.items()
            }
        )
    finally:
        await admin.close()


async def delete_topic(bootstrap: str, topic: str) -> None:
    """Delete a topic with all its records."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([topic])
    finally:
        await admin.close()


if __name__ == "__main__":
    # Fetching ahead of the tests keeps a cold machine's download out of their time limits.
    print(missing_tools() or jars())
