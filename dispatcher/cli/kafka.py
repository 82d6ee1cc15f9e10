"""Where Kafka is, for commands that publish or look: as configured, else as this data directory's dispatcher says."""

import os
from typing import TYPE_CHECKING, NamedTuple

from dispatcher.cli.client import read_ready_file
from dispatcher.model.errors import DispatcherError

if TYPE_CHECKING:
    from dispatcher.intake.consumer import KafkaSettings


class KafkaPlace(NamedTuple):
    """How to reach Kafka, the topic to publish to, and the embedded dispatcher's account, None elsewhere."""

    settings: "KafkaSettings"
    topic: str
    account: str | None


def kafka_place() -> KafkaPlace:
    """Return where Kafka is.

    Raises:
        DispatcherError: nobody says.
    """
    from dispatcher.intake.consumer import KafkaSettings, kafka_settings
    from dispatcher.settings import load

    if "DISPATCHER_KAFKA__BOOTSTRAP_SERVERS" not in os.environ and "DISPATCHER_CONFIG" not in os.environ:
        ready = read_ready_file() or {}
        topics = tuple(ready.get("topics") or ())
        if topics and ready.get("kafka_bootstrap"):
            place = KafkaSettings(ready["kafka_bootstrap"], topics, "cli")
            return KafkaPlace(place, topics[0], ready.get("account_id"))
    settings = load(os.environ, required=False)
    if not settings.kafka.bootstrap_servers:
        message = "no Kafka is known: start `dispatcher run --embedded`, or set DISPATCHER_KAFKA__BOOTSTRAP_SERVERS"
        raise DispatcherError(message)
    return KafkaPlace(kafka_settings(settings), settings.kafka.topics[0], None)
