"""Intake between a real broker and a real Postgres: stuck consumers, hostile records, tasks that must end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.producer import message_accumulator
from aiokafka.producer import producer as producing
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from dispatcher.embedded.kafka import EmbeddedKafka
from dispatcher.intake.consumer import Consumer, KafkaSettings
from dispatcher.intake.dead_letters import DeadLetters
from dispatcher.intake.producer import Producer
from dispatcher.intake.watchdog import Patience
from dispatcher.kit import failpoints
from dispatcher.kit.failpoints import Failpoint
from dispatcher.model.errors import Unavailable
from dispatcher.model.event import Record
from tests.rooms.intake_room import Meter, Room, reading
from tests.rooms.ledger_world import World, open_ledger
from tests.support.producer import an_event
from tests.support.servers import DatabaseServer, KafkaServer, fresh_topic

SOON = Patience(stuck_seconds=1.5, n_rebuilds=1, within_seconds=600.0)
LATER = Patience(stuck_seconds=6.0, n_rebuilds=1, within_seconds=600.0)
"""Longer than the group takes to be divided on a machine that is busy."""


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


async def publish(kafka: str, topic: str, records: Sequence[tuple[bytes | None, Any]], *, partition: int = 0) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka, max_request_size=16 << 20)
    await producer.start()
    try:
        for value, headers in records:
            await producer.send_and_wait(topic, value, key=b"key", headers=headers, partition=partition)
    finally:
        await producer.stop()


def good(*numbers: int) -> list[tuple[bytes | None, Any]]:
    return [an_event(number, account="acct_5hQ2vN8rTb").binary() for number in numbers]


async def until_events(world: World, n: int) -> None:
    async with asyncio.timeout(40):
        while await world.value("SELECT count(*) FROM event") < n:
            await asyncio.sleep(0.02)


async def test_a_poll_that_never_returns_is_cured_by_a_new_consumer_in_the_same_process(
    world: World, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap, partitions=1)
    await publish(kafka_server.bootstrap, topic, good(1))
    armed = Failpoint.parse("poll:5:park")
    monkeypatch.setattr(failpoints, "_armed", armed)
    async with reading(world, kafka_server.bootstrap, topic, patience=SOON) as (intake, _):
        await until_events(world, 1)
        async with asyncio.timeout(40):
            while armed._left > 0:
                await asyncio.sleep(0.02)
        await publish(kafka_server.bootstrap, topic, good(2))
        await until_events(world, 2)

        assert intake.is_beyond_cure, "one cure was all that was allowed"


async def test_a_consumer_that_sits_alive_and_brings_nothing_is_made_anew(
    world: World, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap, partitions=1)
    poll, deaf = Consumer.poll, list[Consumer]()

    async def poll_of(consumer: Consumer, **options: int) -> dict[tuple[str, int], list[Record]]:
        if not deaf:
            deaf.append(consumer)
        if consumer is not deaf[0]:
            return await poll(consumer, **options)
        await asyncio.sleep(0.1)
        return {}

    monkeypatch.setattr(Consumer, "poll", poll_of)
    async with reading(world, kafka_server.bootstrap, topic, patience=SOON) as (_, meter):
        await publish(kafka_server.bootstrap, topic, good(1, 2, 3))
        await until_events(world, 3)
        await meter.until_lag(0)

    assert len(deaf) == 1


async def test_a_quiet_topic_is_not_taken_for_a_stuck_consumer(
    world: World, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap, partitions=1)
    looks: list[list[Any]] = []
    positions = Consumer.positions

    async def positions_of(consumer: Consumer, partitions: Any) -> Any:
        looks.append(list(partitions))
        return await positions(consumer, partitions)

    monkeypatch.setattr(Consumer, "positions", positions_of)
    async with reading(world, kafka_server.bootstrap, topic, patience=SOON) as (intake, _):
        async with asyncio.timeout(40):
            while len(looks) < 2:
                await asyncio.sleep(0.05)

        assert not intake.is_beyond_cure
        assert intake.joined.is_set()


async def test_a_record_that_comes_while_the_cause_is_looked_for_is_no_cause(
    world: World, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap, partitions=1)
    positions, looks = Consumer.positions, asyncio.Event()

    async def positions_of(consumer: Consumer, partitions: Any) -> Any:
        read = await positions(consumer, partitions)
        if not looks.is_set():
            await publish(kafka_server.bootstrap, topic, good(1))
            looks.set()
        return read

    monkeypatch.setattr(Consumer, "positions", positions_of)
    async with reading(world, kafka_server.bootstrap, topic, patience=SOON) as (intake, _):
        async with asyncio.timeout(40):
            await looks.wait()
        await until_events(world, 1)

        assert not intake.is_beyond_cure
        assert intake.joined.is_set()


async def test_another_cluster_under_the_same_address_is_read_from_its_beginning(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # It lets the consumer into its group and serves its fetches; only its id tells that it is another log.
    broker = EmbeddedKafka.start(tmp_path / "kafka")
    try:
        await fresh_topic(broker.bootstrap, partitions=1, name="events")
        async with reading(world, broker.bootstrap, "events"):
            await publish(broker.bootstrap, "events", good(*range(10)))
            await until_events(world, 10)
            broker.stop()
            # The library asks once who is there now, in vain, and then not before a quarter of a minute is over.
            async with asyncio.timeout(40):
                while "Unable to update metadata" not in caplog.text:
                    await asyncio.sleep(0.02)
            broker = EmbeddedKafka.start(tmp_path / "kafka", port=broker.port)
            # Whoever asks for the topic first makes it.
            await publish(broker.bootstrap, "events", good(*range(10, 30)))
            await until_events(world, 30)
    finally:
        broker.stop()

    reached = await world.rows("SELECT max(next_offset) AS at FROM ingest_progress GROUP BY log_id ORDER BY at")
    assert [row["at"] for row in reached] == [10, 20]


async def test_a_replica_without_a_partition_stays_ready_and_in_its_group(
    world: World, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Made anew, it would take the partitions of all the others away for a moment, every minute.
    topic = await fresh_topic(kafka_server.bootstrap, partitions=1)
    made: list[Consumer] = []
    start = Consumer.start

    async def start_of(consumer: Consumer) -> None:
        made.append(consumer)
        await start(consumer)

    monkeypatch.setattr(Consumer, "start", start_of)
    asked = asyncio.Event()
    is_member = Consumer.is_member

    def ask(consumer: Consumer) -> bool:
        asked.set()
        return is_member(consumer)

    monkeypatch.setattr(Consumer, "is_member", ask)
    async with (
        reading(world, kafka_server.bootstrap, topic, patience=LATER) as (first, _),
        reading(world, kafka_server.bootstrap, topic, patience=LATER) as (second, _),
    ):
        async with asyncio.timeout(40):
            await first.joined.wait()
            await second.joined.wait()
            await asked.wait()
        await publish(kafka_server.bootstrap, topic, good(1))
        await until_events(world, 1)

        assert first.joined.is_set()
        assert second.joined.is_set()
    assert len(made) == 2


async def test_the_lag_grows_while_there_is_no_room_and_comes_to_nothing_again(
    world: World, kafka_server: KafkaServer
) -> None:
    topic, room = await fresh_topic(kafka_server.bootstrap, partitions=1), Room()
    async with reading(world, kafka_server.bootstrap, topic, room=room) as (_, meter):
        await publish(kafka_server.bootstrap, topic, good(0))
        await until_events(world, 1)
        await meter.until_lag(0)
        await room.take_away()

        await publish(kafka_server.bootstrap, topic, good(*range(1, 6)))
        await meter.until_lag(5)
        await publish(kafka_server.bootstrap, topic, good(*range(6, 11)))
        await meter.until_lag(10)

        room.is_there.set()
        await until_events(world, 11)
        await meter.until_lag(0)


async def test_dead_records_are_copied_as_they_came_with_where_and_why(world: World, kafka_server: KafkaServer) -> None:
    kafka = kafka_server.bootstrap
    topic, copies = await fresh_topic(kafka, partitions=1), await fresh_topic(kafka, partitions=1)
    meter = Meter()
    async with (
        DeadLetters(KafkaSettings(kafka, (topic,), "group"), copies, meter) as letters,
        reading(world, kafka, topic, copy=letters.offer),
    ):
        ((_, headers),) = good(1)
        await publish(kafka, topic, [*good(1), (b"{not json", headers), *good(2)])
        await until_events(world, 2)

    async with AIOKafkaConsumer(copies, bootstrap_servers=kafka, auto_offset_reset="earliest") as consumer:
        found = await consumer.getone()
    marks = dict(found.headers[len(headers) :])
    assert (found.key, found.value, list(found.headers[: len(headers)])) == (b"key", b"{not json", headers)
    assert (marks["x-dlq-reason"], marks["x-dlq-topic"], marks["x-dlq-offset"]) == (b"not_json", topic.encode(), b"1")
    assert meter.copies == {"sent": 1}


async def test_nothing_waits_for_a_copy_of_a_dead_record(
    world: World, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap, partitions=1)
    meter, is_given_up = Meter(), asyncio.Event()

    async def wait_in_vain(producer: Producer) -> Producer:
        await is_given_up.wait()
        await producer._stop()
        raise Unavailable("nobody answers")

    monkeypatch.setattr(Producer, "__aenter__", wait_in_vain)
    async with (
        DeadLetters(KafkaSettings(kafka_server.bootstrap, (topic,), "group"), "copies", meter) as letters,
        reading(world, kafka_server.bootstrap, topic, copy=letters.offer),
    ):
        for number in range(3):
            await publish(kafka_server.bootstrap, topic, [(b"{not json", good(1)[0][1]), *good(number)])
            await until_events(world, number + 1)
        ended_meanwhile = meter.copies.total()
        is_given_up.set()

    assert ended_meanwhile == 0
    assert meter.copies.total() == 3
    assert await world.value("SELECT count(*) FROM dead_event") == 3


DEEP = b"[" * 10_000 + b"]" * 10_000
POISON: dict[str, tuple[bytes | None, str]] = {
    "null value": (None, "null_value"),
    "empty": (b"", "not_json"),
    "not JSON": (b"{not json", "not_json"),
    "not UTF-8": (b'{"verification":"\xff\xfe"}', "not_utf8"),
    "half a surrogate": (b'{"verification":"\\ud800"}', ""),
    "10,000 nested arrays": (DEEP, ""),
    "NaN": (b'{"verification":NaN}', "not_json"),
    "duplicate keys": (b'{"verification":{},"verification":{}}', ""),
    "a number of 400 digits": (b'{"verification":' + b"9" * 400 + b"}", ""),
    "a magic byte": (b"\x00\x00\x00\x00\x01abc", "not_json"),
    "a NUL": (b"\x00", "not_json"),
    "not an object": (b"[1]", "schema_invalid"),
    "1 MiB": (b'"' + b"x" * (1 << 20) + b'"', "too_large"),
    "10 MiB": (b'"' + b"x" * (10 << 20) + b'"', "too_large"),
}


async def test_no_record_stops_its_partition(world: World, kafka_server: KafkaServer) -> None:
    topic = await fresh_topic(kafka_server.bootstrap, partitions=1)
    plain = good(0)[0][1]
    records: list[tuple[bytes | None, Any]] = []
    for number, (value, _) in enumerate(POISON.values()):
        records += [(value, plain), *good(number)]
    n = len(POISON)
    huge: list[list[tuple[str, Any]]] = [
        [*plain, ("x", b"y" * 300_000)],
        [*plain, *(("x", b"") for _ in range(5_000))],
        [*plain, ("ce_id", b"twice")],
        [("ce_id", b"\xff")],
        [("", b"")],
        [(name, None) for name, _ in plain],
    ]
    for number, headers in enumerate(huge):
        records += [(b"{}", headers), *good(n + number)]

    async with reading(world, kafka_server.bootstrap, topic) as (intake, meter):
        async with asyncio.timeout(40):
            await intake.joined.wait()
        await publish(kafka_server.bootstrap, topic, records)
        await until_events(world, n + len(huge))

    dead = await world.rows("SELECT off, reason FROM dead_event ORDER BY off")
    assert [row["off"] for row in dead] == list(range(0, len(records), 2)), "each kept at its place"
    for row, (name, (_, reason)) in zip(dead, POISON.items(), strict=False):
        assert not reason or row["reason"] == reason, name
    assert {row["reason"] for row in dead[n:]} == {"bad_headers"}
    assert meter.n_lost == meter.n_skipped == 0


async def test_nothing_of_intake_outlives_it(
    world: World, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait_in_vain(_: AIOKafkaConsumer) -> None:
        await asyncio.Event().wait()

    # The copy of a position, to a broker that does not answer.
    monkeypatch.setattr(AIOKafkaConsumer, "commit", wait_in_vain)
    topic = await fresh_topic(kafka_server.bootstrap, partitions=1)
    before = asyncio.all_tasks()

    async with reading(world, kafka_server.bootstrap, topic) as (intake, _):
        await publish(kafka_server.bootstrap, topic, good(1))
        await until_events(world, 1)
        async with asyncio.timeout(40):
            while intake._copying is None:
                await asyncio.sleep(0.01)

    assert {task.get_name() for task in asyncio.all_tasks() - before} == set()


class _Garbled(str):
    """A header's name as other clients may write it: not UTF-8."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"\xff\xfe"


async def publish_garbled(kafka: str, topic: str, partition: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish a good event with one header more that no client in Python can read."""
    with monkeypatch.context() as patch:
        # Only the builder in Python asks a name how it is written.
        for module in (message_accumulator, producing):
            patch.setattr(module, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
        [(value, headers)] = good(1_000)
        await publish(kafka, topic, [(value, [*headers, (_Garbled("x"), b"1")])], partition=partition)


async def test_a_record_that_the_library_cannot_read_costs_no_other_partition_its_records(
    world: World, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap, partitions=3)
    await publish(kafka_server.bootstrap, topic, good(*range(5)), partition=0)
    await publish(kafka_server.bootstrap, topic, good(10, 11), partition=1)
    await publish_garbled(kafka_server.bootstrap, topic, 1, monkeypatch)
    await publish(kafka_server.bootstrap, topic, good(12), partition=1)
    poll, was_held = Consumer.poll, asyncio.Event()

    async def poll_when_all_is_fetched(consumer: Consumer, **options: int) -> dict[tuple[str, int], list[Record]]:
        fetched = consumer._consumer._fetcher._records if consumer.assignment() else {}
        while consumer.assignment() and not was_held.is_set():
            if {TopicPartition(topic, 0), TopicPartition(topic, 1)} <= fetched.keys():
                # The library goes through them in this order, and falls with the first one in hand.
                fetched[TopicPartition(topic, 1)] = fetched.pop(TopicPartition(topic, 1))
                was_held.set()
            await asyncio.sleep(0.01)
        return await poll(consumer, **options)

    monkeypatch.setattr(Consumer, "poll", poll_when_all_is_fetched)
    async with reading(world, kafka_server.bootstrap, topic) as (intake, _):
        async with asyncio.timeout(40):
            await was_held.wait()
        assert intake._consumer is not None
        assert intake._consumer.partitions(topic) == [(topic, 0), (topic, 1), (topic, 2)]
        await until_events(world, 8)
        await publish(kafka_server.bootstrap, topic, good(5), partition=0)
        await until_events(world, 9)

    assert await world.value("SELECT count(*) FROM event") == 9
    dead = await world.rows("SELECT part, off, reason FROM dead_event")
    assert [tuple(row.values()) for row in dead] == [(1, 2, "bad_headers")]
    rows = await world.rows("SELECT part, next_offset FROM ingest_progress WHERE part < 2 ORDER BY part")
    assert [tuple(row.values()) for row in rows] == [(0, 6), (1, 4)]


async def test_an_event_that_the_database_refuses_is_kept_as_it_was_read_and_its_neighbours_pass(
    world: World, kafka_server: KafkaServer
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap, partitions=1)
    records = good(*range(5))
    refused = an_event(3, account="acct_5hQ2vN8rTb")
    await world.sql.execute(f"ALTER TABLE event ADD CHECK (subject <> '{refused.subject}')")
    await publish(kafka_server.bootstrap, topic, records)

    async with reading(world, kafka_server.bootstrap, topic):
        await until_events(world, 4)
        async with asyncio.timeout(40):
            while await world.value("SELECT next_offset FROM ingest_progress") < 5:
                await asyncio.sleep(0.02)

    [row] = await world.rows("SELECT off, reason, key, headers, sealed_value FROM dead_event")
    assert (row["off"], row["reason"], row["key"], row["sealed_value"]) == (
        3,
        "refused_by_database",
        b"key",
        records[3][0],
    )
    assert [name for name, _ in orjson.loads(row["headers"])] == [name for name, _ in records[3][1]]
