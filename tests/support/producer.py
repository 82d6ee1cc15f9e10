"""A producer of verification events as an outside program has it: aiokafka, no code of ours.

async with publishing(bootstrap, topic) as producer:
    await producer.publish(an_event(1, account="acct_5hQ2vN8rTb"))
    await producer.publish(an_event(2, account="acct_5hQ2vN8rTb"), mode="structured")
    await producer.publish_bad(3)
producer.ledger     # what was sent, where it lies, and whether the broker acknowledged it
"""

import asyncio
import base64
import copy
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata

from dispatcher.kit import clock

SOURCE = "/verification-core"
_EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples" / "good"

Mode = Literal["binary", "structured"]
Headers = list[tuple[str, bytes]]
_Answer = asyncio.Future[RecordMetadata]


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event before it is a record. `data` is the value of a binary record."""

    id: str
    source: str
    type: str
    time: str
    subject: str
    account: str
    environment: str
    data: dict[str, Any]

    @property
    def public_id(self) -> str:
        """Return the id that endpoints get: of the SHA-256 of source, newline and id."""
        digest = hashlib.sha256(f"{self.source}\n{self.id}".encode()).digest()[:20]
        return "evt_" + base64.b32encode(digest).decode("ascii").lower()

    def attributes(self) -> dict[str, str]:
        """Return the CloudEvents attributes, named without a prefix."""
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "time": self.time,
            "subject": self.subject,
            "accountid": self.account,
            "environment": self.environment,
        }

    def binary(self) -> tuple[bytes, Headers]:
        """Return value and headers in binary mode."""
        headers = [(f"ce_{name}", text.encode()) for name, text in self.attributes().items()]
        headers.append(("content-type", b"application/json"))
        return json.dumps(self.data, separators=(",", ":")).encode(), headers

    def structured(self) -> tuple[bytes, Headers]:
        """Return value and headers in structured mode."""
        document = {**self.attributes(), "datacontenttype": "application/json", "data": self.data}
        headers = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
        return json.dumps(document, separators=(",", ":")).encode(), headers


@dataclass(frozen=True, slots=True)
class Sent:
    """One record of the ledger. `event_id` is None for a bad one, which can never be an event.

    `partition` and `offset` are None when the broker did not acknowledge: the record may be there
    nevertheless.
    """

    number: int
    event_id: str | None
    type: str
    account: str
    subject: str
    sent_mono: float
    partition: int | None
    offset: int | None

    @property
    def is_acknowledged(self) -> bool:
        """Tell whether the broker has it for certain."""
        return self.offset is not None


def an_event(
    number: int,
    *,
    account: str,
    type: str = "verification.completed",
    environment: str = "live",
    subject: str | None = None,
    n_checks: int = 2,
) -> CloudEvent:
    """Return a sound event; equal numbers give equal events, as a redelivery would.

    `subject` is the verification, one of 64 by `number` unless given: the key, so the partition.
    With 6 checks the value has about 1 KiB.
    """
    verification = subject or f"ver_{number % 64:012d}"
    data = copy.deepcopy(_example_data(type))
    about = data["verification"]
    about["id"] = verification
    data["links"] = {"self": f"https://api.example.com/v1/verifications/{verification}"}
    if checks := about.get("checks"):
        about["checks"] = [{**checks[0], "id": f"chk_{at:012d}"} for at in range(n_checks)]
    stamp = datetime.fromtimestamp(clock.now(), UTC).isoformat(timespec="milliseconds")
    return CloudEvent(
        id=f"event-{number}",
        source=SOURCE,
        type=type,
        time=stamp.replace("+00:00", "Z"),
        subject=verification,
        account=account,
        environment=environment,
        data=data,
    )


@cache
def _example_data(type_name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((_EXAMPLES / f"{type_name}.json").read_text())["data"]
    return data


BAD_VALUES: tuple[bytes | None, ...] = (
    b"{not json",
    b"\xff\xfe\x00",
    None,
    b"[]",
    b"{}",
    b'{"verification": 7}',
)
"""Values that can never be events: not JSON, not UTF-8, null, and breaches of the schema."""


class Publisher:
    """Publishes to one topic and keeps the ledger of it. Not for use by several tasks at once."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self.topic = topic
        self.ledger: list[Sent] = []

    async def publish(self, event: CloudEvent, *, mode: Mode = "binary") -> Sent:
        """Send one event and wait for the broker; a refusal is raised and in the ledger."""
        return (await self.publish_all([event], mode=mode))[0]

    async def publish_all(self, events: Iterable[CloudEvent], *, mode: Mode = "binary") -> list[Sent]:
        """Send events in order, then wait for all of them; the first refusal is raised.

        Whatever was handed to the client is in the ledger, after a refusal or a cancel too.
        """
        waiting = []
        for event in events:
            value, headers = event.binary() if mode == "binary" else event.structured()
            waiting.append(await self._send(event, value, headers, event.public_id))
        return await self._settle(waiting)

    async def publish_bad(self, number: int, *, account: str = "acct_5hQ2vN8rTb") -> Sent:
        """Send a record that can never be an event, one of `BAD_VALUES` by `number`."""
        event = an_event(number, account=account)
        value = BAD_VALUES[number % len(BAD_VALUES)]
        return (await self._settle([await self._send(event, value, event.binary()[1], None)]))[0]

    def acknowledged_ids(self) -> set[str]:
        """Return the ids of all events that the broker has for certain."""
        return {one.event_id for one in self.ledger if one.event_id and one.is_acknowledged}

    async def _send(
        self, event: CloudEvent, value: bytes | None, headers: Headers, event_id: str | None
    ) -> tuple[int, _Answer]:
        line = len(self.ledger)
        self.ledger.append(
            Sent(
                number=int(event.id.rpartition("-")[2]),
                event_id=event_id,
                type=event.type,
                account=event.account,
                subject=event.subject,
                sent_mono=clock.mono(),
                partition=None,
                offset=None,
            )
        )
        key = event.subject.encode()
        try:
            return line, await self._producer.send(self.topic, value, key, headers=headers)
        except KafkaError as fault:
            # Refused before it left: as if the broker had done it.
            refused = _Answer()
            refused.set_exception(fault)
            return line, refused

    async def _settle(self, waiting: Sequence[tuple[int, _Answer]]) -> list[Sent]:
        faults = []
        for line, answer in waiting:
            try:
                place = await answer
            except KafkaError as fault:
                faults.append(fault)
                continue
            self.ledger[line] = replace(self.ledger[line], partition=place.partition, offset=place.offset)
        if faults:
            raise faults[0]
        return [self.ledger[line] for line, _ in waiting]


@asynccontextmanager
async def publishing(bootstrap: str, topic: str, **options: Any) -> AsyncIterator[Publisher]:
    """Connect a producer for the length of the block; everything sent is flushed at its end.

    `options` go to aiokafka; `linger_ms=0` by default. The embedded broker knows no idempotence.
    """
    chosen: dict[str, Any] = {"acks": "all", **options}
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, **chosen)
    try:
        await producer.start()
        yield Publisher(producer, topic)
    finally:
        await producer.stop()


@asynccontextmanager
async def transaction(bootstrap: str, topic: str, transactional_id: str, **options: Any) -> AsyncIterator[Publisher]:
    """Publish inside one transaction: committed at the end of the block, aborted when it raises.

    Apache Kafka only. The ledger of an aborted block names records that nobody may ever deliver.
    """
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=transactional_id, **options)
    try:
        await producer.start()
        async with producer.transaction():
            yield Publisher(producer, topic)
    finally:
        await producer.stop()
