"""A look at a cluster from outside: which topics there are, and where their partitions end."""

import asyncio
import re
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from dispatcher.intake.consumer import KafkaSettings
from dispatcher.intake.positions import Partition
from dispatcher.kit import clock
from dispatcher.model.errors import Unavailable

_SECONDS: Final = 10.0


class Survey(NamedTuple):
    """A cluster at one moment. `missing` are wanted topics that it does not have."""

    log_id: str
    n_brokers: int
    connect_seconds: float
    ends: dict[Partition, int]
    beginnings: dict[Partition, int]
    missing: tuple[str, ...]


async def survey(settings: KafkaSettings) -> Survey:
    """Look at the topics that are read. Joins no group and makes no topic.

    Raises:
        Unavailable: the cluster cannot be reached or does not let us in; its reason is in the message.
    """
    consumer = AIOKafkaConsumer(**settings.connection(), request_timeout_ms=5_000)
    found: list[str] = []
    cluster: Any = consumer._client.cluster  # noqa: SLF001 - the library throws the cluster's id away
    update = cluster.update_metadata

    def observed(metadata: Any) -> None:
        found.append(getattr(metadata, "cluster_id", None) or "")
        update(metadata)

    cluster.update_metadata = observed
    try:
        async with asyncio.timeout(_SECONDS):
            began = clock.mono()
            await consumer.start()
            seconds = clock.mono() - began
            there = await consumer.topics()
            topics, missing = _chosen(settings.topics, there)
            places = [TopicPartition(topic, part) for topic in topics for part in consumer.partitions_for_topic(topic)]
            ends = await consumer.end_offsets(places) if places else {}
            beginnings = await consumer.beginning_offsets(places) if places else {}
    except (KafkaError, OSError, TimeoutError) as fault:
        message = f"Kafka does not answer at {settings.bootstrap_servers}: {type(fault).__name__}: {fault}"
        raise Unavailable(message) from fault
    finally:
        await consumer.stop()
    return Survey(
        next((one for one in found if one), ""),
        len(cluster.brokers()),
        seconds,
        {tuple(place): offset for place, offset in ends.items()},
        {tuple(place): offset for place, offset in beginnings.items()},
        missing,
    )


def _chosen(wanted: tuple[str, ...], there: set[str]) -> tuple[list[str], tuple[str, ...]]:
    first = wanted[0]
    if first.startswith("/"):
        pattern = re.compile(first[1:-1])
        topics = sorted(topic for topic in there if pattern.match(topic))
        return topics, () if topics else (first,)
    return [topic for topic in wanted if topic in there], tuple(topic for topic in wanted if topic not in there)
