"""The dispatcher as an outside program sees it: a process, a ready file, Kafka, HTTP."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp

READY_SECONDS = 60.0
REPO = Path(__file__).parents[2]


def command(*words: str) -> list[str]:
    """Return the argument list that runs the `dispatcher` command of this environment."""
    return [sys.executable, "-m", "dispatcher", *words]


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with `settings` and no other setting of the dispatcher."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    return plain | {f"DISPATCHER_{name}": value for name, value in settings.items()}


def run_command(settings: Mapping[str, str], *words: str) -> str:
    """Run one command to its end and return what it printed; fails with its errors when it fails."""
    done = subprocess.run(
        command(*words),
        env=clean_environment(settings),
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"dispatcher {' '.join(words)} ended with {done.returncode}: {done.stderr}"
    return done.stdout


class Running(Protocol):
    """A process: one's own child, or one that somebody else looks after."""

    @property
    def pid(self) -> int:
        """Return its number."""
        ...

    @property
    def returncode(self) -> int | None:
        """Return the exit code, None while it lives."""
        ...

    async def wait(self) -> int:
        """Return the exit code as soon as there is one."""
        ...

    def send_signal(self, number: int, /) -> None:
        """Send it a signal."""
        ...


@dataclass
class Daemon:
    """One dispatcher process. `settings` are named without the `DISPATCHER_` prefix, `environment` with its own."""

    folder: Path
    settings: dict[str, str]
    arguments: tuple[str, ...] = ()
    name: str = "daemon"
    process: Running | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    starts: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Return the file that takes the process's standard error, over all its starts."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Return the process's id."""
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Tell whether it was started and has not ended."""
        return self.process is not None and self.process.returncode is None

    @property
    def is_ready(self) -> bool:
        """Tell whether this start's ready file is there; then `ready` holds it."""
        ready_file = self._ready_file
        if not self.ready and ready_file.exists():
            self.ready = json.loads(ready_file.read_text())
        return bool(self.ready)

    @property
    def _ready_file(self) -> Path:
        return self.folder / f"{self.name}-ready-{self.starts}.json"

    async def start(self) -> Self:
        """Start it and return when its ready file is there."""
        await self.launch()
        async with asyncio.timeout(READY_SECONDS):
            while not self.is_ready:
                assert self.process is not None
                assert self.process.returncode is None, f"it ended: {self.log.read_text()[-4000:]}"
                await asyncio.sleep(0.02)
        return self

    async def launch(self) -> None:
        """Start it, and wait for nothing."""
        self.starts += 1
        self.ready = {}
        self._ready_file.unlink(missing_ok=True)
        await self.spawn(["run", "--ready-file", str(self._ready_file), *self.arguments])

    async def spawn(self, words: Sequence[str]) -> None:
        """Make the process that runs the command with these words."""
        with self.log.open("ab") as log, (self.folder / f"{self.name}.out").open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                *command(*words),
                env=clean_environment(self.settings) | self.environment,
                cwd=REPO,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def wait(self, seconds: float = 40.0) -> int:
        """Return the exit code, at the latest after `seconds`."""
        assert self.process is not None
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def stop(self) -> int:
        """Stop it with SIGTERM and return the exit code."""
        self.send(signal.SIGTERM)
        return await self.wait()

    async def kill(self) -> None:
        """Kill it with SIGKILL and wait for its end."""
        self.send(signal.SIGKILL)
        await self.wait()

    def logged(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of one kind in its log, of every kind for None; one that is being written is none yet."""
        whole = self.log.read_bytes().rpartition(b"\n")[0]
        lines = [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]
        return [line for line in lines if event in (None, line["event"])]

    async def until_logged(self, event: str, n: int = 1) -> None:
        """Return when there are `n` lines of one kind in its log."""
        while len(self.logged(event)) < n:
            await asyncio.sleep(0.02)

    async def metrics(self) -> dict[str, float]:
        """Return every sample of `/metrics`, by its name with labels."""
        async with aiohttp.ClientSession() as session, session.get(self.ready["metrics_url"]) as answer:
            text = await answer.text()
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples


@asynccontextmanager
async def running(daemon: Daemon) -> AsyncIterator[Daemon]:
    """Start a daemon and make sure that it is gone at the end."""
    try:
        yield await daemon.start()
    finally:
        if daemon.process is not None and daemon.process.returncode is None:
            await daemon.kill()


class Api:
    """A plain HTTP client of the management API."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._headers = {"authorization": f"Bearer {key}"}

    async def call(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        """Make one call, expect `status`, return the decoded answer; come back when told to."""
        async with aiohttp.ClientSession(headers=self._headers) as session:
            while True:
                async with session.request(method, self.url + path, json=body) as answer:
                    text = await answer.text()
                    if answer.status != 429 or status == 429:
                        assert answer.status == status, f"{method} {path}: {answer.status} {text}"
                        return json.loads(text) if text else None
                    wait = int(answer.headers["retry-after"])
                await asyncio.sleep(wait)

    async def add_endpoint(self, url: str, events: list[str], **more: Any) -> dict[str, Any]:
        """Register an endpoint and return it with its secret."""
        made: dict[str, Any] = await self.call(
            "POST", "/v1/webhook_endpoints", {"url": url, "events": events, **more}, status=201
        )
        return made
