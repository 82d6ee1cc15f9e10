"""Postgres away while the daemon works: late, and nothing else."""

from pathlib import Path

import pytest

from dispatcher.embedded.postgres import EmbeddedPostgres
from dispatcher.kit.supervise import spawn
from tests.journey.world import open_world, successes
from tests.support.daemon import running
from tests.support.servers import DatabaseServer, KafkaServer, fresh_topic, frozen, migrated_database
from tests.support.sink import Sink, Step

pytestmark = pytest.mark.timeout(300)


async def test_a_postgres_that_crashes_and_comes_back_costs_nothing(kafka_server: KafkaServer, tmp_path: Path) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    postgres = EmbeddedPostgres.start(tmp_path / "postgres", durable=True)
    try:
        async with (
            open_world(tmp_path, bootstrap=kafka_server.bootstrap, database_url=postgres.url, topic=topic) as world,
            Sink.serving() as sink,
            running(world.daemon()) as daemon,
        ):
            made = await world.api(daemon).add_endpoint(sink.url("/hook"), ["*"])
            sink.verify("/hook", made["secret"])
            sent = [world.good(number) for number in range(1_000)]
            publishing = spawn(world.publish(sent, per_second=200), name="publish")
            await sink.arrival(200, seconds=30)
            port = postgres.port
            postgres.kill()
            await publishing
            postgres = EmbeddedPostgres.start(tmp_path / "postgres", durable=True, port=port)
            await world.until_settled(1_000)
            assert await daemon.stop() == 0

            got = successes(sink)
            assert {event for _, event in got} == {message.event_id for message in sent}
            assert set(got.values()) == {1}, "the process lived: its results waited for Postgres"
    finally:
        postgres.stop()


async def test_a_frozen_postgres_holds_everything_up_and_loses_nothing(
    kafka_server: KafkaServer, tmp_path: Path
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    postgres = EmbeddedPostgres.start(tmp_path / "postgres", durable=True)
    try:
        async with (
            open_world(tmp_path, bootstrap=kafka_server.bootstrap, database_url=postgres.url, topic=topic) as world,
            Sink.serving() as sink,
            running(world.daemon()) as daemon,
        ):
            await world.api(daemon).add_endpoint(sink.url("/hook"), ["*"])
            sent = [world.good(number) for number in range(600)]
            publishing = spawn(world.publish(sent, per_second=200), name="publish")
            await sink.arrival(100, seconds=30)
            with frozen(postgres.pid):
                # Longer than the lease of six seconds: nobody may take over, nobody may send without it.
                await publishing
                await spawn(_seconds(8.0), name="outage")
            await world.until_settled(600)
            assert await daemon.stop() == 0

            got = successes(sink)
            assert {event for _, event in got} == {message.event_id for message in sent}
            assert set(got.values()) == {1}
    finally:
        postgres.stop()


@pytest.mark.sweep
async def test_an_outage_longer_than_every_lease_lets_nobody_take_over_the_living(
    kafka_server: KafkaServer, tmp_path: Path
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    postgres = EmbeddedPostgres.start(tmp_path / "postgres", durable=True)
    try:
        async with (
            open_world(tmp_path, bootstrap=kafka_server.bootstrap, database_url=postgres.url, topic=topic) as world,
            Sink.serving() as sink,
            running(world.daemon("first")) as first,
            running(world.daemon("second")) as second,
            running(world.daemon("third")) as third,
        ):
            await world.api(first).add_endpoint(sink.url("/hook"), ["*"])
            sent = [world.good(number) for number in range(900)]
            publishing = spawn(world.publish(sent, per_second=100), name="publish")
            await sink.arrival(200, seconds=30)
            port = postgres.port
            assert postgres.stop(), "an orderly stop: every session is told"
            await spawn(_seconds(8.0), name="outage")
            postgres = EmbeddedPostgres.start(tmp_path / "postgres", durable=True, port=port)
            await publishing
            await world.until_settled(900)
            metrics = [await daemon.metrics() for daemon in (first, second, third)]
            assert [await daemon.stop() for daemon in (first, second, third)] == [0, 0, 0]

            assert [one["dispatcher_takeovers_total"] for one in metrics] == [0, 0, 0]
            got = successes(sink)
            assert {event for _, event in got} == {message.event_id for message in sent}
            assert set(got.values()) == {1}
    finally:
        postgres.stop()


async def _seconds(seconds: float) -> None:
    # The outage itself has to last; nothing in the world tells when it was long enough.
    import asyncio

    await asyncio.sleep(seconds)


async def test_a_second_signal_cuts_what_hangs_and_it_is_sent_again_later(
    postgres_server: DatabaseServer, kafka_server: KafkaServer, tmp_path: Path
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    async with (
        migrated_database(postgres_server) as url,
        open_world(tmp_path, bootstrap=kafka_server.bootstrap, database_url=url, topic=topic) as world,
        Sink.serving() as sink,
    ):
        import signal

        async with running(world.daemon("first")) as first:
            await world.api(first).add_endpoint(sink.url("/hook"), ["*"])
            sink.script("/hook", [Step(delay_seconds=4.0)])
            await world.publish([world.good(1)])
            await sink.arrival(1, seconds=20)
            first.send(signal.SIGTERM)
            # Two that come before it looks up would be one.
            await first.until_logged("stop_asked")
            first.send(signal.SIGTERM)
            assert await first.wait() == 0
        (row,) = await world.fetch("SELECT owner, attempts FROM delivery")
        assert tuple(row) == (None, 0), "an interrupted attempt costs nothing"
        (attempt,) = await world.fetch("SELECT outcome, verdict FROM attempt")
        assert tuple(attempt) == ("interrupted", "interrupted")

        sink.script("/hook", [Step()])
        async with running(world.daemon("second")):
            await world.until_settled(1, seconds=30)
