"""Kafka away, new and restless: events come later, and nothing else.

`DISPATCHER_TEST_STORM` (2 unless set) is how often a restless member joins and leaves.
"""

import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer

from dispatcher.embedded.kafka import EmbeddedKafka
from dispatcher.kit.supervise import spawn
from tests.journey.world import World, open_world, successes
from tests.support.daemon import Daemon, running
from tests.support.servers import DatabaseServer, KafkaServer, fresh_topic, migrated_database
from tests.support.sink import Sink

pytestmark = pytest.mark.timeout(300)

STORM = int(os.environ.get("DISPATCHER_TEST_STORM", "2"))


def causes(daemon: Daemon) -> Counter[str]:
    """Count what the daemon, or a library in it, complained of, by cause."""
    return Counter(
        str(line.get("reason") or line.get("message")).partition(": ")[2]
        for line in daemon.logged()
        if line["level"] in {"warning", "error"}
    )


async def readiness(daemon: Daemon) -> dict[str, bool]:
    url = daemon.ready["metrics_url"].replace("/metrics", "/readyz")
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        found: dict[str, bool] = await answer.json()
        return found


async def test_a_broker_that_is_away_at_the_start_and_later_only_makes_events_late(
    postgres_server: DatabaseServer, tmp_path: Path
) -> None:
    broker = EmbeddedKafka.start(tmp_path / "kafka")
    broker.stop()
    try:
        async with (
            migrated_database(postgres_server) as url,
            open_world(tmp_path, bootstrap=broker.bootstrap, database_url=url, topic="events") as world,
            Sink.serving() as sink,
            # Ready to serve, though nothing can be read yet.
            running(world.daemon()) as daemon,
        ):
            await world.api(daemon).add_endpoint(sink.url("/hook"), ["*"])
            assert not (await readiness(daemon))["kafka"]

            # Each broker is a new, empty log under the old address.
            for life in (1, 2):
                broker = EmbeddedKafka.start(tmp_path / "kafka", port=broker.port)
                # Whoever asks for the topic first makes it.
                await world.publish([world.good(life * 100 + number) for number in range(20)])
                await sink.arrival(life * 20, seconds=40)
                assert (await readiness(daemon))["kafka"]
                broker.stop()
            assert await world.api(daemon).call("GET", "/v1/webhook_endpoints")
            assert max(causes(daemon).values()) <= 10, "one line per cause in ten seconds"
            assert await daemon.stop() == 0

        assert set(successes(sink).values()) == {1}
    finally:
        broker.stop()


@asynccontextmanager
async def two_daemons(world: World) -> AsyncIterator[list[Daemon]]:
    async with running(world.daemon("first")) as first, running(world.daemon("second")) as second:
        yield [first, second]


async def come_and_go(world: World, times: int) -> None:
    """Join the group, take partitions away from the others, read nothing and leave; again and again."""
    for _ in range(times):
        member = AIOKafkaConsumer(
            world.topic,
            bootstrap_servers=world.bootstrap,
            group_id=world.settings["KAFKA__GROUP_ID"],
            enable_auto_commit=False,
            session_timeout_ms=2_000,
            heartbeat_interval_ms=500,
        )
        try:
            await member.start()
        finally:
            await member.stop()


async def test_a_member_that_comes_and_goes_costs_no_event_and_no_repeat(
    postgres_server: DatabaseServer, kafka_server: KafkaServer, tmp_path: Path
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    async with (
        migrated_database(postgres_server) as url,
        open_world(tmp_path, bootstrap=kafka_server.bootstrap, database_url=url, topic=topic) as world,
        Sink.serving() as sink,
        two_daemons(world) as daemons,
    ):
        await world.api(daemons[0]).add_endpoint(sink.url("/hook"), ["*"])
        storm = spawn(come_and_go(world, STORM), name="storm")
        n = 0
        while not storm.done():
            await world.publish([world.good(n + number) for number in range(50)], per_second=100)
            n += 50
        await storm
        await world.until_settled(n)
        (row,) = await world.fetch(
            "SELECT (SELECT count(*) FROM event) AS n, sum(next_offset) AS at FROM ingest_progress"
        )
        assert (row["n"], row["at"]) == (n, n), "every event once, every position behind its record"
        assert [await daemon.stop() for daemon in daemons] == [0, 0]

    assert len(successes(sink)) == n
    assert set(successes(sink).values()) == {1}
