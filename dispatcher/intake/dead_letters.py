"""Copies of bad records on a topic of their own, for those who watch topics and not tables."""

from collections.abc import Sequence

import structlog

from dispatcher.intake.consumer import KafkaSettings
from dispatcher.intake.producer import Producer
from dispatcher.kit import clock
from dispatcher.model.batch import DeadRecord
from dispatcher.model.errors import Unavailable
from dispatcher.model.event import Record

_log = structlog.get_logger("intake")


class DeadLetters:
    """Copies bad records to a topic of their own; a copy that fails is logged, the table has the record."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic

    async def send(self, dead: Sequence[tuple[Record, DeadRecord]]) -> None:
        """Send the original key, value and headers, and where and why in `x-dlq-` headers."""
        try:
            async with Producer(self._kafka) as producer:
                for record, one in dead:
                    why = {
                        "reason": one.reason.value,
                        "topic": one.topic,
                        "partition": str(one.partition),
                        "offset": str(one.offset),
                        "at": clock.utcnow().isoformat(),
                    }
                    marks = tuple((f"x-dlq-{name}", text.encode()) for name, text in why.items())
                    await producer.send(self._topic, record.value, key=record.key, headers=(*record.headers, *marks))
        except Unavailable as fault:
            _log.warning("dead_letter_copy_failed", n_records=len(dead), reason=str(fault))
