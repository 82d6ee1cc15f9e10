"""Endpoints out of service and back, and replays, from outside: everything once, whatever dies on the way."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dispatcher.kit.failpoints import VARIABLE, Point
from tests.journey.world import World, open_world, successes
from tests.support.daemon import Daemon, running
from tests.support.servers import DatabaseServer, KafkaServer, fresh_topic, migrated_database
from tests.support.sink import Sink, Step

pytestmark = pytest.mark.timeout(300)

# What a kill can cost: requests under way to one host, results that wait to be written, and those being written.
COST_OF_A_KILL = 64 + 1_000 + 500


@pytest.fixture
async def world(postgres_server: DatabaseServer, kafka_server: KafkaServer, tmp_path: Path) -> AsyncIterator[World]:
    topic = await fresh_topic(kafka_server.bootstrap)
    async with (
        migrated_database(postgres_server) as url,
        open_world(tmp_path, bootstrap=kafka_server.bootstrap, database_url=url, topic=topic) as made,
    ):
        # A failed delivery waits for longer than any test: what moves it is what the test does.
        made.settings["RETRY__TEST"] = "0,3600,3600"
        yield made


async def endpoint_at(world: World, daemon: Daemon, sink: Sink, path: str) -> str:
    """Register an endpoint that has had a success, so that it is not on probation, and return its path in the API."""
    made = await world.api(daemon).add_endpoint(sink.url(path), ["*"])
    sink.verify(path, made["secret"])
    await world.publish([world.good(0)])
    await sink.arrival(1, path=path, seconds=30)
    await world.until_settled(1)
    return f"/v1/webhook_endpoints/{made['id']}"


async def test_what_an_endpoint_misses_while_it_is_paused_arrives_exactly_once(world: World) -> None:
    failing, missed = [world.good(n) for n in range(1, 101)], [world.good(n) for n in range(101, 2_101)]
    async with Sink.serving() as sink, running(world.daemon()) as daemon:
        api = world.api(daemon)
        path = await endpoint_at(world, daemon, sink, "/hook")
        sink.script("/hook", [Step(status=404)])
        await world.publish(failing)
        await world.until("SELECT count(*) FROM delivery WHERE owner IS NULL AND attempts = 1", 100)
        sink.script("/hook", [Step()])

        await api.call("PATCH", path, {"status": "paused"})
        n_before = len(sink.requests)
        await world.publish(missed)
        await world.until("SELECT count(*) FROM event", 2_101)
        held = await api.call("GET", f"{path}/held")
        n_paused = len(sink.requests) - n_before
        await api.call("PATCH", path, {"status": "enabled"})
        await world.until("SELECT count(*) FROM attempt WHERE verdict = 'delivered'", 2_101)
        await world.until("SELECT state FROM replay", "done")
        assert await daemon.stop() == 0

    assert (held["count"], held["at_least"], n_paused) == (2_100, False, 0)
    wanted = {message.event_id for message in [world.good(0), *failing, *missed]}
    assert successes(sink) == {("/hook", event): 1 for event in wanted}
    assert len(sink.requests) == 2_101 + 100
    assert {request.signature for request in sink.requests} == {"valid"}
    assert not await world.fetch("SELECT FROM delivery")


async def test_a_replay_whose_process_is_killed_in_mid_step_sends_everything_once_more(world: World) -> None:
    first, second = world.daemon("first"), world.daemon("second")
    first.environment[VARIABLE] = f"{Point.REPLAY_STEPPED}:3:kill"
    sent = [world.good(n) for n in range(1, 1_000)]
    async with Sink.serving() as sink, running(first):
        path = await endpoint_at(world, first, sink, "/hook")
        await world.publish(sent)
        await world.until_settled(1_000)
        before = successes(sink)

        job = await world.api(first).call(
            "POST", f"{path}/replay", {"since": "2026-01-01T00:00:00Z", "what": "all", "rate": 200}, status=202
        )
        # Alone: beside another it might never come to its third step.
        await first.wait()
        async with running(second):
            await world.until("SELECT state FROM replay", "done")
            await world.until_settled(1_000)
            done = await world.api(second).call("GET", f"/v1/replays/{job['id']}")
            assert await second.stop() == 0

    assert (job["expected"], done["made"], done["skipped"]) == (1_000, 1_000, 0)
    wanted = {("/hook", message.event_id) for message in [world.good(0), *sent]}
    assert set(before) == wanted
    assert set(before.values()) == {1}
    after = successes(sink)
    assert set(after) == wanted
    assert min(after.values()) == 2
    assert sum(after.values()) - 2_000 <= COST_OF_A_KILL
    rows = await world.fetch(
        "SELECT array_agg(attempt_no ORDER BY attempt_no) AS numbers FROM attempt WHERE verdict = 'delivered'"
        " GROUP BY delivery_id"
    )
    assert [list(row["numbers"]) for row in rows] == [[1, 2]] * 1_000
    repeated = [request.header("x-webhook-attempt") for request in sink.requests]
    assert set(repeated) == {"1/3", "2/4"}
