"""Every command against a running embedded dispatcher, as a person would type it."""

import asyncio
import base64
import datetime as dt
import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.journey.samples import SUBJECT, produce_with_python
from tests.journey.test_embedded import started
from tests.journey.world import Message, World
from tests.support.daemon import REPO, clean_environment, command
from tests.support.sink import Sink, Step

pytestmark = pytest.mark.timeout(300)


class Terminal:
    """Runs commands in the data directory of a running dispatcher."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self._environment = clean_environment({"DATA_DIR": str(folder / "data")}) | environment

    async def run(self, *words: str, code: int = 0) -> str:
        """Run a command and return its standard output; `code` is the exit code it must have."""
        done = await asyncio.to_thread(
            subprocess.run,
            command(*words),
            env=self._environment,
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stderr

    async def json(self, *words: str) -> Any:
        """Run a command with JSON output and return what it printed."""
        return json.loads(await self.run(*words, "-o", "json"))

    @asynccontextmanager
    async def following(self, *words: str) -> AsyncIterator["Screen"]:
        """Run a command that goes on until it is told to stop; it must then end well."""
        process = await asyncio.create_subprocess_exec(
            *command(*words),
            env=self._environment,
            cwd=REPO,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            assert process.stdout is not None
            yield Screen(process.stdout)
            process.send_signal(signal.SIGINT)
            await process.communicate()
            assert process.returncode == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


class Screen:
    """What a running command prints, line by line."""

    def __init__(self, lines: asyncio.StreamReader) -> None:
        self._lines = lines

    async def until(self, pattern: str) -> re.Match[str]:
        """Wait for a line that the pattern is found in."""
        seen = []
        async with asyncio.timeout(60):
            while line := (await self._lines.readline()).decode():
                seen.append(line)
                if found := re.search(pattern, line):
                    return found
        raise AssertionError(f"no line has {pattern}: {seen}")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with started(tmp_path, "only") as (daemon, made, _):
        yield made
        assert await daemon.stop() == 0


CURL = re.compile(r"^(?:\$ )?(curl (?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE)


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Give a world to tests that are not in each other's way: each leaves alone what another counts."""
    async with started(tmp_path_factory.mktemp("shared"), "only") as (daemon, made, _):
        yield made
        assert await daemon.stop() == 0


async def test_the_five_minute_tour(world: World) -> None:
    terminal = Terminal(world.folder)
    async with Sink.serving() as sink:
        made = await terminal.json(
            "endpoints", "add", sink.url("/hook"), "-e", "verification.*", "--description", "mine"
        )
        sink.verify("/hook", made["secret"])
        sink.script("/hook", [Step(status=500), Step()])

        told = await terminal.run("trigger", "verification.completed", "--outcome", "declined")

        assert "delivered" in told
        assert len(sink.requests) == 2
        body = json.loads(sink.requests[0].body)
        assert body["data"]["verification"]["outcome"] == "declined"
        assert sink.requests[0].signature == "valid"
        listed = await terminal.json("endpoints", "list")
        assert [(one["id"], one["description"]) for one in listed] == [(made["id"], "mine")]
        assert "secret" not in (await terminal.json("endpoints", "show", made["id"]))
        (delivery,) = await terminal.json("deliveries", "list", "--endpoint", made["id"])
        shown = await terminal.json("deliveries", "show", delivery["id"])
        assert shown["event_id"] == body["id"]
        assert len(shown["attempt_log"]) >= 1
        (event,) = await terminal.json("events", "list", "--type", "verification.completed")
        assert event["id"] == body["id"]
        assert body["id"] in await terminal.run("events", "list", "-o", "jsonl")
        assert made["id"] in await terminal.run("endpoints", "list")
        await terminal.run("endpoints", "delete", made["id"], "--yes")
        assert await terminal.json("endpoints", "list") == []


async def test_an_endpoint_is_watched_paused_and_caught_up_with(world: World, tmp_path: Path) -> None:
    terminal, saved = Terminal(world.folder), tmp_path / "requests"
    async with (
        terminal.following("receive", "--port", "0", "--save", str(saved)) as receiver,
        terminal.following("events", "tail", "-o", "jsonl") as tail,
    ):
        url = (await receiver.until(r"receiving on (\S+)/ "))[1]
        made = await terminal.json("endpoints", "add", f"{url}/hook", "-e", "verification.*")
        await tail.until("following attempts")
        async with terminal.following("listen", "--forward-to", f"{url}/local") as listening:
            await listening.until("^listening")
            (first,) = await terminal.json("trigger", "verification.completed")
            event = first["event_id"]
            await tail.until(f'"event_id":"{event}".*"verdict":"delivered"')
            await listening.until(f"{event} -> 204")

        await terminal.run("endpoints", "pause", made["id"])
        (missed,) = await terminal.json("trigger", "verification.created", "--no-follow")
        async with asyncio.timeout(60):
            while not await terminal.json("events", "list", "--type", "verification.created"):
                await asyncio.sleep(0.05)
        words = ("--endpoint", made["id"], "--since", "1h", "--what", "all", "--dry-run")
        counted = await terminal.json("deliveries", "replay", *words)
        await terminal.run("endpoints", "resume", made["id"])
        await tail.until(f'"event_id":"{missed["event_id"]}".*"verdict":"delivered"')

    assert counted["expected"] >= 1
    (kept,) = [
        path for path in await asyncio.to_thread(lambda: list(saved.iterdir())) if signed_for("hook", path, event)
    ]
    verified = await terminal.json("verify", str(kept), "--secret", made["secret"])
    assert (verified["verified"], verified["id"]) == (True, event)
    await terminal.run("verify", str(kept), "--secret", "whsec_" + "A" * 43 + "=", code=3)


def signed_for(path: str, file: Path, event: str) -> bool:
    """Tell whether a saved request went to `/path` with that event."""
    return file.read_bytes().startswith(f"POST /{path} ".encode()) and event in file.name


async def test_trigger_follows_each_delivery_to_its_end(world: World) -> None:
    terminal = Terminal(world.folder)
    async with Sink.serving() as sink:
        made = await terminal.json("endpoints", "add", sink.url("/good"), "-e", "verification.*")
        none = await terminal.json("trigger", "check.completed")
        many = await terminal.json("trigger", "verification.created", "--count", "30", "--rate", "200")
        sink.script("/good", [Step(status=410)])
        told = await terminal.run("trigger", "verification.completed", code=3)
        await terminal.run("trigger", "verification.completed", "--account", "acct_0123456789", "--wait", "2s", code=3)

    assert none == []
    assert [one["status"] for one in many] == ["delivered"] * 30
    assert {one["endpoint_id"] for one in many} == {made["id"]}
    assert len({one["event_id"] for one in many}) == 30
    assert "published" in told


async def test_doctor_finds_an_embedded_dispatcher_well(shared: World) -> None:
    terminal = Terminal(shared.folder)

    found = await terminal.json("doctor", "--resolve", "localhost")

    levels = {one["check"]: one["level"] for one in found}
    assert levels.pop("egress-private") == "warn"
    assert set(levels.values()) == {"ok"}
    assert {"database", "schema", "partitions", "replicas", "due", "key-ring", "kafka", "lag", "api"} <= levels.keys()


async def test_a_producer_that_knows_no_cloudevents_is_read_by_the_configured_mapping(shared: World) -> None:
    data = json.loads(shared.good(77).value or b"")
    when = dt.datetime.now(dt.UTC).isoformat()
    plain = {
        "meta": {"id": "77"},
        "kind": "verification.completed",
        "at": when,
        "tenant": shared.account,
        "world": "test",
    }

    await shared.publish([Message(b"77", json.dumps({**plain, "body": data}).encode(), [], None)])

    async with asyncio.timeout(30):
        while not await shared.fetch("SELECT 1 FROM event WHERE subject = $1", data["verification"]["id"]):
            await asyncio.sleep(0.05)


async def test_a_dead_record_is_listed_opened_redriven_and_discarded(shared: World) -> None:
    terminal = Terminal(shared.folder)
    await shared.publish([shared.bad(1), shared.bad(2)])
    await shared.until("SELECT count(*) FROM dead_event WHERE reason IN ('not_json', 'not_utf8')", 2)

    listed = {one["reason"]: one["id"] for one in await terminal.json("dead-events", "list")}
    assert listed.keys() >= {"not_json", "not_utf8"}
    name = listed["not_json"]
    shown = await terminal.json("dead-events", "show", name, "--value")
    assert base64.b64decode(shown["value_base64"]) == b"{not json"
    assert {"name": "ce_accountid", "value": shared.account} in shown["headers"]
    assert "{not json" in await terminal.run("dead-events", "show", name, "--value")
    await terminal.run("dead-events", "redrive", name)
    await shared.until("SELECT count(*) FROM dead_event WHERE reason = 'not_json'", 2)
    assert "redriven before" in await terminal.run("dead-events", "redrive", name, code=1)
    await terminal.run("dead-events", "discard", name, "--yes")

    assert "no dead event" in await terminal.run("dead-events", "show", name, code=1)


async def test_a_dead_record_with_neither_key_nor_value_is_redriven_too(shared: World) -> None:
    """No producer of the library can send one; others can, and Kafka takes it."""
    terminal = Terminal(shared.folder)
    bad = "reason = 'null_value' AND redriven_at IS NULL"
    await shared.fetch(
        "INSERT INTO dead_event (log_id, topic, part, off, reason, detail, headers) "
        "SELECT log_id, topic, 0, 4000000000, 'null_value', '', '[]' FROM ingest_progress LIMIT 1"
    )
    (row,) = await shared.fetch(f"SELECT topic FROM dead_event WHERE {bad}")

    await terminal.run("dead-events", "redrive", f"{row['topic']}/0/4000000000")

    # It cannot become an event this time either, and so comes back.
    while not (back := await shared.fetch(f"SELECT key, off FROM dead_event WHERE {bad}")):
        await asyncio.sleep(0.05)
    assert (back[0]["key"], back[0]["off"] < 4_000_000_000) == (b"", True)


async def test_a_host_gets_limits_of_its_own_and_the_defaults_again(shared: World) -> None:
    terminal = Terminal(shared.folder)
    async with Sink.serving() as sink:
        await terminal.json("endpoints", "add", sink.url("/hook"), "-e", "verification.*")
    (listed,) = [one for one in await terminal.json("hosts", "list") if sink.url() == f"{one['host']}/"]
    assert (listed["rate"], listed["burst"], listed["in_flight"], listed["endpoints"]) == (100.0, 100, 64, 1)

    changed = await terminal.json("hosts", "set", listed["host"], "--rate", "10", "--burst", "20", "--resume")
    assert (changed["rate"], changed["burst"], changed["in_flight"], changed["own_limits"]) == (10.0, 20, 64, True)
    assert await terminal.json("hosts", "show", listed["host"]) == changed
    again = await terminal.json("hosts", "set", listed["host"], "--defaults")

    assert (again["rate"], again["own_limits"]) == (100.0, False)
    assert "at least" in await terminal.run("hosts", "set", listed["host"], "--rate", "1000", "--burst", "2", code=2)
    assert "--defaults" in await terminal.run("hosts", "set", listed["host"], code=2)
    assert "hosts list" in await terminal.run("hosts", "show", "https://nobody.example:443", code=1)


async def test_the_operators_commands(shared: World) -> None:
    terminal = Terminal(shared.folder)

    account = await terminal.json("accounts", "create", "--id", "acct_tour000001", "--name", "Tour")
    key = await terminal.json(
        "keys", "create", "--account", account["id"], "--env", "live", "--scope", "endpoints:read"
    )
    assert key["key"].startswith("whd_live_")
    assert "acct_tour000001" in await terminal.run("accounts", "list")
    (listed,) = await terminal.json("keys", "list", "--account", account["id"])
    assert listed["scopes"] == ["endpoints:read"]
    await terminal.run("keys", "revoke", key["id"], "--account", account["id"], "--yes")
    assert (await terminal.json("keys", "list", "--account", account["id"]))[0]["revoked_at"] is not None
    assert "exists already" in await terminal.run("accounts", "create", "--id", "acct_tour000001", code=1)
    assert "version" in await terminal.run("version", "--json")


MISTAKES = (
    (("trigger", "verification.complete"), 2, "verification.completed"),
    (("trigger", "endpoint.disabled"), 2, "dispatcher itself"),
    (("endpoints", "add", "http://10.0.0.1/x", "-e", "*"), 1, "url_forbidden_address"),
    (("endpoints", "show", "we_nobody"), 1, "404"),
    (("endpoints", "add", "https://example.com/x", "-e", "verification.finished"), 1, "verification."),
    (("deliveries", "show", "dlv_nobody"), 1, "404"),
    (("dead-events", "show", "nonsense"), 2, "named like"),
    (("keys", "create", "--database"), 2, "--operator"),
)


async def test_a_mistake_is_answered_with_what_to_do(shared: World) -> None:
    terminal = Terminal(shared.folder)

    for words, code, told in MISTAKES:
        assert told in await terminal.run(*words, code=code), words


async def test_a_bench_brings_servers_of_its_own_and_leaves_nothing(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, TMPDIR=str(tmp_path))

    found = await terminal.json("bench", "--events", "100", "--rate", "20", "--seconds", "16")

    assert found["deliveries"] == 100
    assert found["is_complete"] is True
    assert 0 < found["latency_events"] <= 80
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert await asyncio.to_thread(os.listdir, tmp_path) == []


async def test_without_a_dispatcher_commands_say_so(tmp_path: Path) -> None:
    assert "no dispatcher is known" in await Terminal(tmp_path).run("endpoints", "list", code=1)


async def test_the_calls_of_the_readme_do_what_they_say(shared: World, tmp_path: Path) -> None:
    ready = json.loads((shared.folder / "data" / "ready.json").read_text())
    (tmp_path / ".curlrc").write_text('write-out = "\\n%{http_code}"\n')
    environment = {**os.environ, "CURL_HOME": str(tmp_path), "API": ready["api_url"], "KEY": ready["api_keys"]["test"]}
    written = [text.replace("http://127.0.0.1:8080", "$API") for text in CURL.findall((REPO / "README.md").read_text())]

    made: list[str] = []
    for text in written:
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-euc", text],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        body, _, status = done.stdout.rpartition("\n")
        assert (done.returncode, status[:1]) == (0, "2"), f"{text}\n{done.stdout}{done.stderr}"
        answer = json.loads(body)
        if answer.get("object") == "webhook_endpoint" and "secret" in answer and answer["id"] not in made:
            made.append(answer["id"])
            environment["EP"] = answer["id"]
    for one in made:
        await Terminal(shared.folder).run("endpoints", "delete", one, "--yes")

    assert len(written) >= 7
    assert len(made) == 2


async def test_the_producer_of_the_readme_is_understood(shared: World, tmp_path: Path) -> None:
    await produce_with_python(shared, tmp_path)

    terminal = Terminal(shared.folder)
    async with asyncio.timeout(60):
        while SUBJECT not in await terminal.run("events", "list", "-o", "json"):
            await asyncio.sleep(0.05)
