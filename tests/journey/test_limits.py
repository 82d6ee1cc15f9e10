"""One host's limits over several replicas, through a kill, and set anew while they send."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.journey.world import World, open_world, successes
from tests.support.daemon import Daemon, running
from tests.support.servers import DatabaseServer, KafkaServer, fresh_topic, migrated_database
from tests.support.sink import Sink

pytestmark = pytest.mark.timeout(300)

RATE, BURST = 40.0, 30
LIMITS = {"LIMITS__HOST_RATE": str(RATE), "LIMITS__HOST_BURST": str(BURST), "LEASE__SECONDS": "6"}


def most_over(times: Sequence[float], rate: float, burst: int) -> float:
    """Return by how many requests the worst window exceeds burst + rate * W."""
    ordered = sorted(times)
    return max(
        last - first + 1 - burst - rate * (ordered[last] - ordered[first])
        for first in range(len(ordered))
        for last in range(first, len(ordered))
    )


async def proven_endpoint(world: World, daemon: Daemon, sink: Sink) -> None:
    """Register an endpoint and let it answer once, so that it is known to work."""
    made = await world.api(daemon).add_endpoint(sink.url("/hook"), ["*"])
    sink.verify("/hook", made["secret"])
    await world.publish([world.good(1_000_000)])
    await sink.arrival(1, seconds=20)


async def test_two_replicas_together_keep_a_hosts_limits_through_a_kill(
    postgres_server: DatabaseServer, kafka_server: KafkaServer, tmp_path: Path
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    async with (
        migrated_database(postgres_server) as url,
        open_world(tmp_path, bootstrap=kafka_server.bootstrap, database_url=url, topic=topic) as world,
        Sink.serving() as sink,
        running(world.daemon("first", **LIMITS)) as first,
        running(world.daemon("second", **LIMITS)),
    ):
        await proven_endpoint(world, first, sink)
        sent = [world.good(number) for number in range(400)]
        await world.publish(sent)
        await sink.arrival(150, seconds=30)
        await first.kill()
        await world.until_settled(401)

        # The sink's clock is not the sender's: a request may be late by a few milliseconds on a busy machine.
        late = RATE * 0.1
        assert most_over([request.at_mono for request in sink.requests], RATE, BURST) <= late
        assert {event for _, event in successes(sink)} >= {message.event_id for message in sent}


async def test_limits_set_while_running_hold_within_five_seconds(
    postgres_server: DatabaseServer, kafka_server: KafkaServer, tmp_path: Path
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    async with (
        migrated_database(postgres_server) as url,
        open_world(tmp_path, bootstrap=kafka_server.bootstrap, database_url=url, topic=topic) as world,
        Sink.serving() as sink,
        running(world.daemon("only", LIMITS__HOST_RATE="5", LIMITS__HOST_BURST="5")) as daemon,
    ):
        await proven_endpoint(world, daemon, sink)
        await world.publish([world.good(number) for number in range(300)])
        await sink.arrival(10, seconds=30)
        await world.fetch(
            "UPDATE host SET rate = 500, burst = 500, interval_us = 2000, grant_burst = 250, changed_at = now()"
        )
        began = asyncio.get_running_loop().time()

        # At five per second this would take a minute.
        await world.until_settled(301, seconds=20)

        assert asyncio.get_running_loop().time() - began < 20
