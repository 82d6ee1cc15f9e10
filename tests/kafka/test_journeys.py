"""The whole daemon on Apache Kafka: the story, encrypted, and through everything that only this broker does."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from dispatcher.kit.supervise import spawn
from tests.journey.samples import SUBJECT, produce_with_kcat
from tests.journey.story import tell
from tests.journey.world import World, open_world, successes
from tests.kafka.broker import Kafka, Secured, delete_records
from tests.support.daemon import Daemon, running
from tests.support.servers import DatabaseServer, fresh_topic, migrated_database
from tests.support.sink import Sink

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture
async def world(postgres_server: DatabaseServer, apache_kafka: Kafka, tmp_path: Path) -> AsyncIterator[World]:
    topic = await fresh_topic(apache_kafka.bootstrap, partitions=4)
    async with (
        migrated_database(postgres_server) as url,
        open_world(
            tmp_path,
            bootstrap=apache_kafka.bootstrap,
            database_url=url,
            topic=topic,
            kafka={"KAFKA__FETCH_MAX_WAIT_MS": "500", "KAFKA__SESSION_TIMEOUT_MS": "6000"},
        ) as made,
    ):
        yield made


@asynccontextmanager
async def subscribed(world: World, daemon: Daemon) -> AsyncIterator[Sink]:
    """Run a daemon with one endpoint that takes everything."""
    async with Sink.serving() as sink, running(daemon):
        made = await world.api(daemon).add_endpoint(sink.url("/hook"), ["*"])
        sink.verify("/hook", made["secret"])
        yield sink


def delivered(sink: Sink) -> set[str]:
    """Return the ids of the events that arrived, each at most once."""
    found = successes(sink)
    assert set(found.values()) <= {1}
    return {event_id for _, event_id in found}


async def test_nothing_is_lost_through_a_stop_a_kill_and_a_failing_endpoint(world: World) -> None:
    await tell(world, 2_000)


@pytest.mark.skipif(shutil.which("kcat") is None, reason="no kcat here (Debian: kcat)")
async def test_kcat_produces_as_the_readme_says(world: World, tmp_path: Path) -> None:
    async with subscribed(world, world.daemon()) as sink:
        await produce_with_kcat(world, tmp_path)
        async with asyncio.timeout(60):
            while len(delivered(sink)) < 1:
                await asyncio.sleep(0.02)

    assert [json.loads(request.body)["data"]["verification"]["id"] for request in sink.requests] == [SUBJECT]


async def test_events_come_through_encryption_and_a_password(
    postgres_server: DatabaseServer, secured_kafka: Secured, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text(secured_kafka.password + "\n")
    plain = secured_kafka.kafka.bootstrap
    topic = await fresh_topic(plain, partitions=2)
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": secured_kafka.bootstrap,
        "KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA__SASL_USERNAME": secured_kafka.user,
        "KAFKA__SASL_PASSWORD_FILE": str(password),
        "KAFKA__CA_FILE": str(secured_kafka.authority),
        "KAFKA__SESSION_TIMEOUT_MS": "6000",
    }
    async with (
        migrated_database(postgres_server) as url,
        open_world(tmp_path, bootstrap=plain, database_url=url, topic=topic, kafka=settings) as world,
        subscribed(world, world.daemon()) as sink,
    ):
        sent = [world.good(number) for number in range(200)]
        await world.publish(sent)
        await sink.arrival(200, seconds=60)

    assert delivered(sink) == {message.event_id for message in sent}


async def test_a_broker_that_dies_and_comes_back_costs_nothing(world: World, apache_kafka: Kafka) -> None:
    async with subscribed(world, world.daemon()) as sink:
        first, second = [world.good(n) for n in range(300)], [world.good(n) for n in range(300, 600)]
        publishing = spawn(world.publish(first, per_second=150), name="publish")
        await publishing
        # Its start blocks this process, and the sink in it: nothing may be under way that could miss its answer.
        await world.until_settled(300)

        apache_kafka.kill()
        apache_kafka.start()
        await world.publish(second)
        await sink.arrival(600, seconds=90)

    assert delivered(sink) == {message.event_id for message in first + second}


async def test_aborted_transactions_between_events_are_never_delivered_and_hold_nothing_up(world: World) -> None:
    async with subscribed(world, world.daemon()) as sink:
        kept: set[str | None] = set()
        producer = AIOKafkaProducer(bootstrap_servers=world.bootstrap, transactional_id=f"tx-{world.topic}")
        await producer.start()
        for block in range(6):
            messages = [world.good(block * 100 + n) for n in range(20)]
            with suppress(ZeroDivisionError):
                async with producer.transaction():
                    for m in messages:
                        await producer.send(world.topic, m.value, key=m.key, headers=m.headers)
                    if block % 2:
                        raise ZeroDivisionError
                    kept |= {m.event_id for m in messages}
        await producer.stop()
        await sink.arrival(60, seconds=60)
        after = world.good(9_999)
        await world.publish([after])
        await sink.arrival(61, seconds=30)

    assert delivered(sink) == kept | {after.event_id}


async def test_records_deleted_before_they_were_read_are_reported_and_the_rest_delivered(world: World) -> None:
    early, late = [world.good(n) for n in range(100)], [world.good(n) for n in range(100, 150)]
    second = world.daemon("second")
    async with Sink.serving() as sink:
        async with running(world.daemon("first")) as first:
            await world.api(first).add_endpoint(sink.url("/hook"), ["*"])
            await world.publish(early[:50])
            # It is killed now: an answer that is not written down would be asked for again.
            await world.until_settled(50, seconds=60)
        await world.publish(early[50:])
        await delete_records(world.bootstrap, world.topic, dict.fromkeys(range(4), -1))

        async with running(second):
            await world.publish(late)
            await sink.arrival(100, seconds=60)
            metrics = await second.metrics()

    assert delivered(sink) == {message.event_id for message in early[:50] + late}
    lost = sum(row["n"] for row in await world.fetch("SELECT to_offset - from_offset AS n FROM lost_range"))
    assert lost == 50
    assert metrics["dispatcher_lost_records_total"] == 50
    assert {line["level"] for line in second.logged("records_lost")} == {"error"}


async def test_partitions_added_while_running_are_read_from_their_beginning(world: World) -> None:
    from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

    async with subscribed(world, world.daemon(KAFKA__START="latest")) as sink:
        # "latest" begins where the log ends at the moment of placing: wait for that.
        while len(await world.fetch("SELECT 1 FROM ingest_progress")) < 4:
            await asyncio.sleep(0.05)
        await world.publish([world.good(1)])
        await sink.arrival(1, seconds=60)
        admin = AIOKafkaAdminClient(bootstrap_servers=world.bootstrap)
        await admin.start()
        await admin.create_partitions({world.topic: NewPartitions(8)})
        await admin.close()
        sent = [world.good(n) for n in range(2, 102)]
        await world.publish(sent)
        await sink.arrival(101, seconds=90)

    assert delivered(sink) == {m.event_id for m in sent} | {world.good(1).event_id}
