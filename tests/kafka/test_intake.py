"""Intake on Apache Kafka: a topic that is not there, and a log that ends in what nobody may read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from aiokafka import AIOKafkaProducer

from dispatcher.intake.watchdog import Patience
from tests.kafka.broker import Kafka, delete_topic
from tests.rooms.intake_room import Room, reading
from tests.rooms.ledger_world import World, open_ledger
from tests.support.producer import an_event
from tests.support.servers import DatabaseServer, fresh_topic

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

SESSION_MS = 6_000


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


async def until_events(world: World, n: int) -> None:
    async with asyncio.timeout(60):
        while await world.value("SELECT count(*) FROM event") < n:
            await asyncio.sleep(0.05)


async def test_a_topic_that_is_missing_is_waited_for_and_is_not_ready(world: World, apache_kafka: Kafka) -> None:
    topic = f"late-{id(world)}"
    async with reading(world, apache_kafka.bootstrap, topic, session_ms=SESSION_MS) as (intake, _):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await intake.joined.wait()

        await fresh_topic(apache_kafka.bootstrap, partitions=2, name=topic)
        async with AIOKafkaProducer(bootstrap_servers=apache_kafka.bootstrap) as producer:
            value, headers = an_event(1, account="acct_5hQ2vN8rTb").binary()
            await producer.send_and_wait(topic, value, headers=headers)
        await until_events(world, 1)
        async with asyncio.timeout(60):
            await intake.joined.wait()


async def test_a_stop_does_not_wait_for_a_missing_topic(world: World, apache_kafka: Kafka) -> None:
    async with asyncio.timeout(20):
        async with reading(world, apache_kafka.bootstrap, f"never-{id(world)}", session_ms=SESSION_MS) as (intake, _):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await intake.joined.wait()


async def test_the_lag_comes_to_nothing_behind_an_aborted_transaction_and_grows_without_room(
    world: World, apache_kafka: Kafka
) -> None:
    topic, room = await fresh_topic(apache_kafka.bootstrap, partitions=1), Room()
    value, headers = an_event(1, account="acct_5hQ2vN8rTb").binary()
    producer = AIOKafkaProducer(bootstrap_servers=apache_kafka.bootstrap, transactional_id=f"tx-{topic}")
    await producer.start()
    try:
        async with reading(world, apache_kafka.bootstrap, topic, session_ms=SESSION_MS, room=room) as (_, meter):
            async with producer.transaction():
                await producer.send_and_wait(topic, value, headers=headers)
            with suppress(ZeroDivisionError):
                async with producer.transaction():
                    await producer.send_and_wait(topic, value, headers=headers)
                    raise ZeroDivisionError
            await until_events(world, 1)
            await meter.until_lag(0)
            assert await world.value("SELECT next_offset FROM ingest_progress") == 1, "the log ends at 4"

            await room.take_away()
            async with producer.transaction():
                await producer.send_and_wait(topic, value, headers=headers)
            # The record and its marker.
            await meter.until_lag(2)
    finally:
        await producer.stop()


async def test_a_topic_made_anew_in_the_same_cluster_is_told_and_read_from_its_beginning(
    world: World, apache_kafka: Kafka
) -> None:
    async def publish(*numbers: int) -> None:
        async with AIOKafkaProducer(bootstrap_servers=apache_kafka.bootstrap) as producer:
            for number in numbers:
                value, headers = an_event(number, account="acct_5hQ2vN8rTb").binary()
                await producer.send_and_wait(topic, value, headers=headers)

    topic = await fresh_topic(apache_kafka.bootstrap, partitions=1)
    async with reading(world, apache_kafka.bootstrap, topic, session_ms=SESSION_MS):
        await publish(*range(5))
        await until_events(world, 5)
    await delete_topic(apache_kafka.bootstrap, topic)
    await fresh_topic(apache_kafka.bootstrap, partitions=1, name=topic)
    await publish(5, 6, 7)

    async with reading(world, apache_kafka.bootstrap, topic, session_ms=SESSION_MS) as (_, meter):
        await until_events(world, 8)

    assert meter.beyond_log == [(topic, 0, 5)]
    assert await world.value("SELECT next_offset FROM ingest_progress") == 3


async def test_a_log_that_ends_in_an_aborted_transaction_is_no_stuck_consumer(
    world: World, apache_kafka: Kafka
) -> None:
    topic = await fresh_topic(apache_kafka.bootstrap, partitions=1)
    value, headers = an_event(1, account="acct_5hQ2vN8rTb").binary()
    producer = AIOKafkaProducer(bootstrap_servers=apache_kafka.bootstrap, transactional_id=f"tx-{topic}")
    await producer.start()
    async with producer.transaction():
        await producer.send_and_wait(topic, value, headers=headers)
    with suppress(ZeroDivisionError):
        async with producer.transaction():
            await producer.send_and_wait(topic, value, headers=headers)
            raise ZeroDivisionError
    await producer.stop()

    looks: list[bool] = []
    async with reading(world, apache_kafka.bootstrap, topic, session_ms=SESSION_MS, patience=Patience(1.0, 1)) as (
        intake,
        _,
    ):
        look = intake._is_to_be_made_anew

        async def looked(consumer: object) -> bool:
            looks.append(await look(consumer))  # type: ignore[arg-type]
            return looks[-1]

        intake._is_to_be_made_anew = looked  # type: ignore[method-assign]
        await until_events(world, 1)
        async with asyncio.timeout(60):
            while len(looks) < 2:
                await asyncio.sleep(0.05)

    assert not any(looks)
