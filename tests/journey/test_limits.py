"""One host's limits over several replicas, through a kill, and set anew while they send."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dispatcher.kit import clock
from dispatcher.kit.supervise import spawn
from tests.journey.world import World, open_world, successes
from tests.support.daemon import Daemon, run_command, running
from tests.support.servers import DatabaseServer, KafkaServer, fresh_topic, migrated_database
from tests.support.sink import Sink, Step

pytestmark = pytest.mark.timeout(300)

RATE, BURST = 40.0, 30
ROUND_SECONDS = 0.5
LOOK_SECONDS = 0.02
LIMITS = {"LIMITS__HOST_RATE": str(RATE), "LIMITS__HOST_BURST": str(BURST), "LEASE__SECONDS": "6"}


def most_over(times: Sequence[float], rate: float, burst: int) -> float:
    """Return by how many requests the worst window exceeds burst + rate * W."""
    ordered = sorted(times)
    return max(
        last - first + 1 - burst - rate * (ordered[last] - ordered[first])
        for first in range(len(ordered))
        for last in range(first, len(ordered))
    )


@asynccontextmanager
async def pauses() -> AsyncIterator[list[float]]:
    """Give the seconds for which this process, and the sink in it, was held up at each look so far."""
    found: list[float] = []

    async def look() -> None:
        while True:
            began = clock.mono()
            await asyncio.sleep(LOOK_SECONDS)
            found.append(clock.mono() - began - LOOK_SECONDS)

    looking = spawn(look(), name="look")
    try:
        yield found
    finally:
        looking.cancel()


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
        async with pauses() as held_up:
            await world.publish(sent)
            await sink.arrival(150, seconds=30)
            await first.kill()
            await world.until_settled(401)

        # What came while the sink was held up bears a later time than it was sent at, and so may seem too soon before
        # the next; the sender may be late by some milliseconds, too.
        late = RATE * max(0.1, *held_up)
        assert most_over([request.at_mono for request in sink.requests], RATE, BURST) <= late
        assert {event for _, event in successes(sink)} >= {message.event_id for message in sent}


async def test_limits_set_while_running_hold_on_every_replica_within_five_seconds(
    postgres_server: DatabaseServer, kafka_server: KafkaServer, tmp_path: Path
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    limits = {"LIMITS__HOST_RATE": "1000", "LIMITS__HOST_BURST": "1000", "LIMITS__HOST_IN_FLIGHT": "40"}
    async with (
        migrated_database(postgres_server) as url,
        open_world(tmp_path, bootstrap=kafka_server.bootstrap, database_url=url, topic=topic) as world,
        Sink.serving() as sink,
        running(world.daemon("first", **limits)) as first,
        running(world.daemon("second", **limits)) as second,
    ):
        await proven_endpoint(world, first, sink)
        sink.script("/hook", [Step(delay_seconds=ROUND_SECONDS)])
        await world.publish([world.good(number) for number in range(1_500)])
        async with asyncio.timeout(60):
            while min([(await one.metrics())["dispatcher_in_flight"] for one in (first, second)]) < 10:
                await asyncio.sleep(0.1)

        command = ("hosts", "set", sink.url().rstrip("/"), "--in-flight", "2")
        await asyncio.to_thread(run_command, world.settings, *command)
        n_before = len(sink.requests)
        async with asyncio.timeout(60):
            while n_lately(sink) > 3 * 2:
                await asyncio.sleep(0.02)

        # A connection has one request under way: each answer is a round, and no round is shorter on a slow machine.
        # The first was under way, and two went by before it was seen that there are fewer.
        rounds = Counter(request.connection for request in sink.requests[n_before:])
        assert max(rounds.values(), default=0) <= 5 / ROUND_SECONDS + 3


def n_lately(sink: Sink) -> int:
    """Count the requests that began in the time of two rounds; three rounds may touch it."""
    since = clock.mono() - 2 * ROUND_SECONDS
    return sum(request.at_mono > since for request in sink.requests[-200:])
