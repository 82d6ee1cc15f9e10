import ssl
from contextlib import suppress

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from dispatcher.embedded.kafka import ask_cluster_id
from tests.kafka.broker import Kafka, Secured, delete_records
from tests.support.producer import an_event, publishing, transaction
from tests.support.servers import fresh_topic

# The broker's start alone may take two minutes before it is given up.
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
ACCOUNT = "acct_5hQ2vN8rTb"


async def committed_values(bootstrap: str, topic: str) -> int:
    """Count what a careful reader sees of a one-partition topic, up to its stable end."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False)
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        end = (await consumer.end_offsets([partition]))[partition]
        seen = 0
        while await consumer.position(partition) < end:
            polled = await consumer.getmany(timeout_ms=200)
            seen += sum(map(len, polled.values()))
        return seen
    finally:
        await consumer.stop()


async def test_acknowledged_records_survive_a_kill_on_the_same_port(apache_kafka: Kafka) -> None:
    topic = await fresh_topic(apache_kafka.bootstrap, partitions=1)
    async with publishing(apache_kafka.bootstrap, topic, enable_idempotence=True) as producer:
        await producer.publish_all(an_event(number, account=ACCOUNT) for number in range(20))
    port, first_pid = apache_kafka.port, apache_kafka.pid

    apache_kafka.kill()
    assert ask_cluster_id("127.0.0.1", port) is None
    apache_kafka.start()

    assert apache_kafka.pid != first_pid
    assert ask_cluster_id("127.0.0.1", port) == apache_kafka.cluster_id
    assert await committed_values(apache_kafka.bootstrap, topic) == 20


async def test_aborted_transactions_are_invisible_and_committed_ones_are_not(
    apache_kafka: Kafka,
) -> None:
    topic = await fresh_topic(apache_kafka.bootstrap, partitions=1)
    events = [an_event(number, account=ACCOUNT) for number in range(5)]

    async with transaction(apache_kafka.bootstrap, topic, "kept") as producer:
        await producer.publish_all(events)
    with suppress(ZeroDivisionError):
        async with transaction(apache_kafka.bootstrap, topic, "given-up") as producer:
            await producer.publish_all(events)
            raise ZeroDivisionError

    assert await committed_values(apache_kafka.bootstrap, topic) == 5


async def test_deleted_records_are_gone_and_offsets_go_on(apache_kafka: Kafka) -> None:
    topic = await fresh_topic(apache_kafka.bootstrap, partitions=1)
    async with publishing(apache_kafka.bootstrap, topic) as producer:
        await producer.publish_all(an_event(number, account=ACCOUNT) for number in range(10))

        await delete_records(apache_kafka.bootstrap, topic, {0: 7})

        assert await committed_values(apache_kafka.bootstrap, topic) == 3
        assert (await producer.publish(an_event(10, account=ACCOUNT))).offset == 10


async def test_the_secured_door_takes_the_right_password_alone(secured_kafka: Secured) -> None:
    topic = await fresh_topic(secured_kafka.kafka.bootstrap, partitions=1)
    door, password = secured_kafka.bootstrap, secured_kafka.password
    options = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": secured_kafka.user,
        "ssl_context": ssl.create_default_context(cafile=str(secured_kafka.authority)),
    }

    async with publishing(door, topic, sasl_plain_password=password, **options) as producer:
        sent = await producer.publish(an_event(1, account=ACCOUNT))

    assert sent.is_acknowledged
    with pytest.raises(Exception, match="Unable to bootstrap"):
        async with publishing(door, topic, sasl_plain_password="wrong", **options):
            pass
