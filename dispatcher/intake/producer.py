"""A small producer: for sample events, redriven records and the dead-letter topic."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from dispatcher.intake.consumer import KafkaSettings
from dispatcher.model.errors import Unavailable

_SEND_SECONDS: Final = 10.0
_BRAKE_SECONDS: Final = 0.1

Headers = Sequence[tuple[str, bytes | None]]


class Producer:
    """Sends records, one at a time or many at once; an async context manager.

    Idempotence stays off: with it the library never times a record out.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._producer = AIOKafkaProducer(
            **settings.connection(), enable_idempotence=False, acks="all", request_timeout_ms=8_000
        )
        self._brake()

    def _brake(self) -> None:
        """Slow the library's search for a leader: 4,000 tries per second when a broker leaves politely."""
        client = self._producer.client
        update = client._metadata_update  # noqa: SLF001 - there is no public way to slow it

        async def braked(*arguments: Any) -> Any:
            found = await update(*arguments)
            if not found:
                await asyncio.sleep(_BRAKE_SECONDS)
            return found

        client._metadata_update = braked  # noqa: SLF001 - see above

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self._producer.start()
        except BaseException as fault:
            # It never stops what it did not start, connections and all.
            await self._stop()
            if not isinstance(fault, (KafkaError, OSError, TimeoutError)):
                raise
            message = f"Kafka does not let us in: {fault}"
            raise Unavailable(message) from fault
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _stop(self) -> None:
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self._producer.stop()
        except TimeoutError:
            return

    async def send(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Headers = ()
    ) -> tuple[int, int]:
        """Send one record and return its partition and offset. One with neither key nor value gets an empty key.

        Raises:
            Unavailable: not acknowledged within ten seconds; it may still arrive.
        """
        if key is None and value is None:
            # Brokers take such a record; the library asserts that there is none.
            key = b""
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                done = await self._producer.send_and_wait(topic, value, key=key, headers=list(headers))
        except (KafkaError, TimeoutError) as fault:
            message = f"Kafka did not acknowledge the record ({type(fault).__name__}); it may still arrive"
            raise Unavailable(message) from fault
        return done.partition, done.offset

    async def send_many(self, topic: str, records: Sequence[tuple[bytes | None, bytes | None, Headers]]) -> None:
        """Send records, each a value, a key and headers, and return when all are acknowledged.

        Raises:
            Unavailable: not within ten seconds; any of them may still arrive.
        """
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                sent = [
                    await self._producer.send(topic, value, key=key, headers=list(headers))
                    for value, key, headers in records
                ]
                for one in sent:
                    await one
        except (KafkaError, TimeoutError) as fault:
            message = f"Kafka did not acknowledge the records ({type(fault).__name__}); any may still arrive"
            raise Unavailable(message) from fault


async def publish(
    settings: KafkaSettings, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Headers = ()
) -> tuple[int, int]:
    """Send one record over a connection of its own, as `Producer.send` does."""
    async with Producer(settings) as producer:
        return await producer.send(topic, value, key=key, headers=headers)
