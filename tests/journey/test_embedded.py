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

from tests.journey.world import World, successes
from tests.support.daemon import Api, Daemon, clean_environment, command, running
from tests.support.sink import Sink, Step

pytestmark = pytest.mark.timeout(300)

SETTINGS = {
    "HTTP__BIND": "127.0.0.1:0",
    "METRICS__BIND": "127.0.0.1:0",
    "RETRY__TEST": "0,1,1,1,1,1",
    "LEASE__SECONDS": "6",
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
            await api.add_endpoint(sink.url("/hook"), ["*"])
            sink.script("/hook", [Step(status=503)])
            sent = [world.good(number) for number in range(3)]
            await world.publish(sent)
            await sink.arrival(3, seconds=20)
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
