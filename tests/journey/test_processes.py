"""Several processes: by role, under one parent, and replaced one by one while events flow."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from dispatcher.kit.supervise import spawn
from tests.journey.world import Message, World, open_world, successes
from tests.support.daemon import Api, Daemon, clean_environment, command, running
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
        yield made


def several(world: World, name: str, **settings: str) -> Daemon:
    """Return two processes under one parent, not started."""
    daemon = world.daemon(name, **settings)
    daemon.arguments = ("--processes", "2")
    return daemon


def children_of(daemon: Daemon) -> dict[int, psutil.Process]:
    """Return the child processes of a parent by their number."""
    children = {}
    for child in psutil.Process(daemon.pid).children():
        words = child.cmdline()
        if "--child" in words:
            children[int(words[words.index("--child") + 1])] = child
    return children


async def readiness(metrics_url: str) -> dict[str, bool]:
    """Ask one process whether it can do its job."""
    url = metrics_url.replace("/metrics", "/readyz")
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        facts: dict[str, bool] = await answer.json()
        return facts


async def stream(world: World, sent: list[Message], enough: asyncio.Event, *, per_second: float) -> None:
    """Produce events at a pace until there are enough; `sent` grows with them."""
    async with world.producer() as kafka:
        while not enough.is_set():
            message = world.good(len(sent))
            await kafka.send_and_wait(world.topic, message.value, key=message.key, headers=message.headers)
            sent.append(message)
            await asyncio.sleep(1 / per_second)


def check_nothing_lost(sink: Sink, sent: Sequence[Message], *paths: str) -> None:
    got = successes(sink)
    wanted = {message.event_id for message in sent}
    for path in paths:
        assert {event for where, event in got if where == path} == wanted, f"lost or invented at {path}"


async def test_three_processes_with_a_role_each_deliver_together(world: World) -> None:
    without_kafka = {name: value for name, value in world.settings.items() if not name.startswith("KAFKA__")}
    ingest = Daemon(world.folder, world.settings, ("--roles", "ingest"), name="ingest")
    deliver = Daemon(world.folder, without_kafka, ("--roles", "deliver"), name="deliver")
    api = Daemon(world.folder, without_kafka, ("--roles", "api"), name="api")
    sent = [world.good(number) for number in range(100)]
    async with Sink.serving() as sink, running(api), running(ingest), running(deliver):
        made = await world.api(api).add_endpoint(sink.url("/hook"), ["*"])
        sink.verify("/hook", made["secret"])
        await world.publish(sent)
        await world.until_settled(100, seconds=30)

        check_nothing_lost(sink, sent, "/hook")
        assert set(successes(sink).values()) == {1}
        assert {request.signature for request in sink.requests} == {"valid"}
        there = [(one.ready["api_url"] is not None, one.ready["kafka_bootstrap"]) for one in (ingest, deliver, api)]
        assert there == [(False, world.bootstrap), (False, None), (True, None)]
        conditions = [set(await readiness(one.ready["metrics_url"])) for one in (ingest, deliver, api)]
        always = {"not_stopping", "lease"}
        assert conditions == [always | {"kafka"}, always | {"postgres"}, always]
        rows = await world.fetch("SELECT delivers FROM replica ORDER BY replica_id")
        assert [row["delivers"] for row in rows] == [False, False, True]
        for one in (ingest, deliver, api):
            assert await one.stop() == 0
    assert not await world.fetch("SELECT 1 FROM replica")


async def test_a_process_that_only_ingests_stores_deliveries_waiting(world: World) -> None:
    ingest = Daemon(world.folder, world.settings, ("--roles", "ingest,api"), name="ingest")
    async with Sink.serving() as sink, running(ingest):
        await world.api(ingest).add_endpoint(sink.url("/hook"), ["*"])
        await world.publish([world.good(number) for number in range(20)])
        while not (rows := await world.fetch("SELECT owner FROM delivery")) or len(rows) < 20:
            await asyncio.sleep(0.05)

        assert {row["owner"] for row in rows} == {None}
        assert await ingest.stop() == 0
        assert not sink.requests


async def rewritten(file: Path, old: list[str]) -> dict[str, Any]:
    """Return what the ready file says once the child that came back is ready: it listens elsewhere."""
    async with asyncio.timeout(60):
        while True:
            ready: dict[str, Any] = json.loads(file.read_text())  # noqa: ASYNC240 - a small file
            if ready["metrics_urls"] != old:
                return ready
            await asyncio.sleep(0.1)


async def test_a_killed_child_comes_back_and_its_rows_are_taken_over(world: World) -> None:
    daemon = several(world, "several")
    async with Sink.serving() as sink, running(daemon):
        await world.api(daemon).add_endpoint(sink.url("/hook"), ["*"])
        sink.script("/hook", [Step(delay_seconds=0.3)])
        assert len(set(daemon.ready["metrics_urls"])) == 2
        before = children_of(daemon)
        sent = [world.good(number) for number in range(800)]
        publishing = spawn(world.publish(sent, per_second=200), name="publish")
        await sink.arrival(200, seconds=30)
        before[1].kill()
        await publishing
        await world.until_settled(800)

        check_nothing_lost(sink, sent, "/hook")
        assert sum(count - 1 for count in successes(sink).values()) <= COST_OF_A_KILL
        assert [(one["process"], one["exit_code"]) for one in daemon.logged("process_ended")] == [(1, -9)]
        assert sum(one["n_deliveries"] for one in daemon.logged("replicas_taken_over")) > 0
        ready = await rewritten(world.folder / "several-ready-1.json", daemon.ready["metrics_urls"])
        assert ready["pid"] == daemon.pid
        after = children_of(daemon)
        assert (after[0].pid, len(after)) == (before[0].pid, 2)
        assert after[1].pid != before[1].pid
        for url in ready["metrics_urls"]:
            assert all((await readiness(url)).values())
        assert await daemon.stop() == 0


async def test_a_stop_of_the_parent_ends_all_children_without_a_duplicate(world: World) -> None:
    first, second = several(world, "first"), several(world, "second")
    sent = [world.good(number) for number in range(600)]
    async with Sink.serving() as sink:
        async with running(first):
            await world.api(first).add_endpoint(sink.url("/hook"), ["*"])
            sink.script("/hook", [Step(delay_seconds=0.1)])
            children = list(children_of(first).values())
            publishing = spawn(world.publish(sent, per_second=200), name="publish")
            await sink.arrival(150, seconds=30)

            assert await first.stop() == 0
            assert len(children) == 2
            assert not [child for child in children if child.is_running()]
            assert not await world.fetch("SELECT 1 FROM replica")
        await publishing
        async with running(second):
            await world.until_settled(600)
            assert await second.stop() == 0

    check_nothing_lost(sink, sent, "/hook")
    assert set(successes(sink).values()) == {1}


async def test_a_second_signal_to_the_parent_cuts_what_hangs_in_a_child(world: World) -> None:
    daemon = several(world, "several")
    async with Sink.serving() as sink, running(daemon):
        await world.api(daemon).add_endpoint(sink.url("/hook"), ["*"])
        sink.script("/hook", [Step(delay_seconds=4.5)])
        await world.publish([world.good(1)])
        await sink.arrival(1, seconds=20)
        daemon.send(signal.SIGINT)
        await daemon.until_logged("stop_asked", 2)
        daemon.send(signal.SIGINT)

        assert await daemon.wait() == 0
        (attempt,) = await world.fetch("SELECT outcome FROM attempt")
        assert attempt["outcome"] == "interrupted"


async def test_a_child_that_cannot_start_ends_the_parent_with_its_exit_code(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = {**world.settings, "HTTP__BIND": f"127.0.0.1:{taken.getsockname()[1]}"}
        process = await asyncio.create_subprocess_exec(
            *command("run", "--processes", "2"),
            env=clean_environment(settings),
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        async with asyncio.timeout(30):
            _, told = await process.communicate()

    assert process.returncode == 1
    assert told.decode().count("cannot listen on") == 1
    assert "process_ended" not in told.decode()


async def test_embedded_processes_and_servers_end_with_a_killed_parent(tmp_path: Path) -> None:
    settings = {"HTTP__BIND": "127.0.0.1:0", "METRICS__BIND": "127.0.0.1:0", "DATA_DIR": str(tmp_path / "data")}
    daemon = Daemon(tmp_path, settings, ("--embedded", "--processes", "2"))
    async with Sink.serving() as sink, running(daemon):
        ready = daemon.ready
        key = ready["api_keys"]["test"]
        world = World(
            tmp_path, ready["kafka_bootstrap"], ready["database_url"], ready["topics"][0], ready["account_id"], key, {}
        )
        await Api(ready["api_url"], key).add_endpoint(sink.url("/hook"), ["*"])
        sent = [world.good(number) for number in range(40)]
        await world.publish(sent)
        await world.until_settled(40, seconds=30)
        check_nothing_lost(sink, sent, "/hook")
        assert set(successes(sink).values()) == {1}
        owners = await world.fetch("SELECT count(*) AS n FROM replica WHERE lease_until > now()")
        assert owners[0]["n"] == 2

        family = psutil.Process(daemon.pid).children(recursive=True)
        await daemon.kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, family, 40)
        assert len(family) > 4, "two children and two servers at least"
        assert not alive


@asynccontextmanager
async def replicas(world: World, n: int) -> AsyncIterator[list[Daemon]]:
    """Run `n` dispatchers side by side."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running(world.daemon(f"replica-{number}"))) for number in range(n)]


async def test_three_replicas_replaced_one_by_one_lose_nothing_and_repeat_nothing(world: World) -> None:
    sent: list[Message] = []
    enough = asyncio.Event()
    async with Sink.serving() as sink, replicas(world, 3) as daemons:
        for path in ("/hook", "/flaky"):
            await world.api(daemons[0]).add_endpoint(sink.url(path), ["*"])
        sink.script("/hook", [Step(delay_seconds=0.05)])
        # Seldom enough that nothing is paused for it, so that retries wait while replicas come and go.
        sink.script("/flaky", [Step(status=500), *[Step()] * 9], cycle=True)
        publishing = spawn(stream(world, sent, enough, per_second=100), name="publish")
        await sink.arrival(100, path="/hook", seconds=30)
        for daemon in daemons:
            n_before = len(sent)
            assert await daemon.stop() == 0
            await daemon.start()
            await sink.arrival(len(sent), path="/hook", seconds=30)
            assert len(sent) > n_before, "a replica was replaced without load"
        enough.set()
        await publishing
        await world.until_settled(len(sent), seconds=60)
        for daemon in daemons:
            assert await daemon.stop() == 0

    check_nothing_lost(sink, sent, "/hook", "/flaky")
    assert set(successes(sink).values()) == {1}
    (row,) = await world.fetch("SELECT count(*) AS n FROM attempt WHERE verdict = 'delivered'")
    assert row["n"] == 2 * len(sent)
