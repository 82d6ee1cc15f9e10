"""What is asked of a cluster beside reading and writing."""

import asyncio
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from dispatcher.intake.consumer import KafkaSettings
from dispatcher.model.errors import Unavailable

_SECONDS: Final = 15.0
_ALREADY_EXISTS: Final = 36


async def make_topics(settings: KafkaSettings, topics: dict[str, int]) -> None:
    """Make topics with their numbers of partitions; those that exist stay as they are.

    Raises:
        Unavailable: the cluster cannot be reached or refuses; its reason is in the message.
    """
    admin = AIOKafkaAdminClient(**settings.connection())
    try:
        async with asyncio.timeout(_SECONDS):
            await admin.start()
            answer = await admin.create_topics([NewTopic(name, n, 1) for name, n in topics.items()])
    except (KafkaError, OSError, TimeoutError) as fault:
        message = f"Kafka does not make the topics {', '.join(topics)}: {fault}"
        raise Unavailable(message) from fault
    finally:
        await admin.close()
    # The library puts errors into the answer and raises nothing.
    faults = [f"{one[0]}: error {one[1]}" for one in answer.topic_errors if one[1] not in (0, _ALREADY_EXISTS)]
    if faults:
        message = f"Kafka refuses topics: {'; '.join(faults)}"
        raise Unavailable(message)
