"""`run --embedded`, driven by an outside program that knows nothing but the ready file."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from dispatcher.embedded.demo import run_demo
from dispatcher.kit.supervise import spawn
from dispatcher.model.errors import Unavailable
from tests.journey.world import World, successes
from tests.support.daemon import Api, Daemon, clean_environment, command, running
from tests.support.sink import Sink, Step

pytestmark = pytest.mark.timeout(300)

SETTINGS = {
    "HTTP__BIND": "127.0.0.1:0",
    "METRICS__BIND": "127.0.0.1:0",
    "RETRY__TEST": "0,1,1,1,1,1",
    "LEASE__SECONDS": "6",
    "INTAKE__PLAIN_JSON": "source=/old, id=meta.id, type=kind, time=at, account=tenant, environment=world, data=body",
}


def embedded(folder: Path, name: str) -> Daemon:
    """Return an embedded dispatcher on the data of `folder`, not started."""
    return Daemon(folder, {**SETTINGS, "DATA_DIR": str(folder / "data")}, ("--embedded",), name=name)


@asynccontextmanager
async def started(folder: Path, name: str) -> AsyncIterator[tuple[Daemon, World, Api]]:
    """Run one; give it with what the ready file says."""
    daemon = embedded(folder, name)
    async with running(daemon):
        ready = daemon.ready
        key = ready["api_keys"]["test"]
        world = World(
            folder, ready["kafka_bootstrap"], ready["database_url"], ready["topics"][0], ready["account_id"], key, {}
        )
        yield daemon, world, Api(ready["api_url"], key)


async def test_an_outside_program_needs_nothing_but_the_ready_file(tmp_path: Path) -> None:
    async with started(tmp_path, "only") as (daemon, world, api), Sink.serving() as sink:
        made = await api.add_endpoint(sink.url("/hook"), ["verification.*"])
        sink.verify("/hook", made["secret"])
        await world.publish([world.good(number) for number in range(20)])
        await sink.arrival(20, seconds=20)

        assert set(daemon.ready) == {
            "api_url", "dashboard_url", "login_url", "metrics_url", "metrics_urls", "kafka_bootstrap", "topics",
            "database_url", "account_id", "api_keys", "pid",
        }  # fmt: skip
        assert daemon.ready["pid"] == daemon.pid
        assert {request.signature for request in sink.requests} == {"valid"}
        assert (await daemon.metrics())['dispatcher_records_total{result="accepted"}'] == 20
        children = psutil.Process(daemon.pid).children(recursive=True)
        assert await daemon.stop() == 0
        assert not [child for child in children if child.is_running()]


async def test_a_restart_forgets_the_broker_and_nothing_else(tmp_path: Path) -> None:
    async with Sink.serving() as sink:
        async with started(tmp_path, "first") as (daemon, world, api):
            made = await api.add_endpoint(sink.url("/hook"), ["*"])
            sink.verify("/hook", made["secret"])
            old = [world.good(number) for number in range(40)]
            await world.publish(old)
            await sink.arrival(40, seconds=20)
            sink.script("/hook", [Step(status=503)])
            # An endpoint that fails gets about one request a second.
            pending = [world.good(number) for number in range(40, 43)]
            await world.publish(pending)
            await sink.arrival(43, seconds=20)
            keys = daemon.ready["api_keys"]
            assert await daemon.stop() == 0

        sink.script("/hook", [Step()])
        async with started(tmp_path, "second") as (daemon, world, api):
            assert daemon.ready["api_keys"] == keys
            listed = await api.call("GET", "/v1/webhook_endpoints")
            assert [one["id"] for one in listed["data"]] == [made["id"]]
            # The broker begins at offset 0 again; a producer that is unsure sends everything again.
            new = [world.good(number) for number in range(50, 60)]
            await world.publish([*old, *new])
            await world.until_settled(53, seconds=30)
            assert await daemon.stop() == 0

    got = successes(sink)
    assert {event for _, event in got} == {message.event_id for message in [*old, *pending, *new]}
    assert set(got.values()) == {1}


async def test_after_a_kill_the_children_are_gone_and_the_next_start_goes_on(tmp_path: Path) -> None:
    async with Sink.serving() as sink:
        async with started(tmp_path, "first") as (daemon, world, api):
            await api.add_endpoint(sink.url("/hook"), ["*"], schedule=[0, *[3] * 8])
            sink.script("/hook", [Step(status=503)])
            sent = [world.good(number) for number in range(3)]
            await world.publish(sent)
            await sink.arrival(1, seconds=20)
            # The broker forgets what is in nobody's hands yet.
            await world.until("SELECT count(*) FROM event", 3)
            children = psutil.Process(daemon.pid).children(recursive=True)
            await daemon.kill()
            gone, alive = await asyncio.to_thread(psutil.wait_procs, children, 10)
            assert gone
            assert not alive

        sink.script("/hook", [Step()])
        async with started(tmp_path, "second") as (daemon, world, _):
            await world.until_settled(3)

    assert {event for _, event in successes(sink)} == {message.event_id for message in sent}


async def test_the_demo_shows_how_to_begin_and_ends_with_one_signal(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command("run", "--embedded", "--demo"),
        env=clean_environment({**SETTINGS, "DATA_DIR": str(tmp_path / "data")}),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(60):
        while sum(bool(re.match(r"\d\d:\d\d:\d\d\.\d{3}  \w+\.\w+ +we_", line)) for line in lines) < 2:
            lines.append((await process.stdout.readline()).decode())
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    await process.stdout.read()

    assert await process.wait() == 0
    assert not [child for child in children if child.is_running()]
    text = "".join(lines)
    curl = re.search(r"curl .*\n.*Bearer (whd_test_\w+)", text)
    assert curl is not None
    assert curl[1] == json.loads((tmp_path / "data" / "keys.json").read_text())["api_keys"]["test"]
    assert "trigger verification.completed" in text


@pytest.mark.parametrize(("program", "name"), [("postgres", "PostgreSQL"), ("tansu", "the broker")])
async def test_a_server_that_ends_ends_the_program_with_its_name(program: str, name: str, tmp_path: Path) -> None:
    async with started(tmp_path, "only") as (daemon, _, _):
        children = psutil.Process(daemon.pid).children()
        next(child for child in children if child.name().startswith(program)).kill()

        assert daemon.process is not None
        assert await asyncio.wait_for(daemon.process.wait(), 60) == 1
        (log,) = re.findall(rf"{name} has ended; what it said last is in (\S+\.log)", daemon.log.read_text())
        assert log in {str(path) for path in (tmp_path / "data").rglob("*.log")}
        assert not [child for child in children if child.is_running()]


async def test_the_demo_says_what_is_away_and_goes_on(tmp_path: Path) -> None:
    published: list[str] = []
    told: list[str] = []

    async def publish(event_type: str) -> None:
        if len(told) < 2:
            raise Unavailable("Kafka did not acknowledge the record")
        published.append(event_type)

    async with started(tmp_path, "only") as (daemon, _, api):
        key = daemon.ready["api_keys"]["test"]
        demo = spawn(run_demo(daemon.ready["api_url"], key, publish, told.append), name="demo")
        async with asyncio.timeout(30):
            while not published:
                await asyncio.sleep(0.05)
        demo.cancel()
        endpoints = (await api.call("GET", "/v1/webhook_endpoints"))["data"]
        assert await daemon.stop() == 0
        with pytest.raises(Unavailable, match=r"GET /v1"):
            await run_demo(daemon.ready["api_url"], key, publish, told.append)

    assert told == ["no event of the demo this time: Kafka did not acknowledge the record"] * 2
    assert len(endpoints) == 2
