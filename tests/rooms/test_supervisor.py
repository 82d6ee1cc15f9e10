"""The supervisor with real child processes that do as little as a shell can."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Sequence
from pathlib import Path

import pytest

from dispatcher.cli import supervisor
from dispatcher.cli.daemon import Places
from dispatcher.cli.supervisor import Child, Crew, start_child
from dispatcher.kit.stopping import StopRequest
from dispatcher.kit.supervise import spawn

READY = 'echo \'{"api_url":null,"metrics_url":"http://m"}\' >&$0; '
LIVE = "exec sleep 30"
# What a shell starts keeps the pipe open, too: only for a moment.
LOOP = "while true; do sleep 0.05; done"
SHELL = "/bin/bash"


class Ground:
    """Starts shell scripts as children, the last script again and again, and remembers all of them."""

    def __init__(self, *scripts: str) -> None:
        self._scripts = list(scripts)
        self.children: list[Child] = []
        self.started = asyncio.Condition()
        self.told: list[int] = []

    async def start(self, _: int) -> Child:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        child = await start_child(lambda pipe: (SHELL, "-c", script, str(pipe)), os.environ)
        self.children.append(child)
        return child

    async def tell(self, places: Sequence[Places]) -> None:
        self.told.append(len(places))
        async with self.started:
            self.started.notify_all()

    async def until_told(self, times: int) -> None:
        async with asyncio.timeout(20), self.started:
            await self.started.wait_for(lambda: len(self.told) >= times)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_FIRST_SECONDS", 0.01)
    # pytest's capture has no descriptor: children get the real one.
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)


def crew(ground: Ground, stop: StopRequest, *, n: int = 1, patience: float = 20.0) -> Crew:
    return Crew(n, ground.start, ground.tell, stop=stop, patience=patience)


async def ended(running: Awaitable[int]) -> int:
    async with asyncio.timeout(20):
        return await running


async def test_readiness_is_told_once_all_are_ready_and_again_after_a_restart() -> None:
    ground, stop = Ground(READY + LIVE), StopRequest()
    running = spawn(crew(ground, stop, n=2).run(), name="crew")
    await ground.until_told(1)

    ground.children[0].send(signal.SIGKILL)
    await ground.until_told(2)
    stop.ask()

    # A shell that is told to end says so: nobody here finishes anything.
    assert await ended(running) == 128 + signal.SIGTERM
    assert ground.told == [2, 2]
    assert len(ground.children) == 3


@pytest.mark.parametrize(
    ("first_script", "n_starts"),
    [("exit 3", 1), ("kill -9 $$", 2), (READY + "exit 3", 2), (READY + "exit 0", 2)],
    ids=["refuses to start", "is killed at its start", "fails later", "ends for no reason"],
)
async def test_only_a_child_that_refuses_to_start_ends_the_whole(first_script: str, n_starts: int) -> None:
    polite = "trap 'exit 0' TERM; " + READY + LOOP
    ground, stop = Ground(first_script, polite), StopRequest()
    running = spawn(crew(ground, stop).run(), name="crew")
    if n_starts > 1:
        await ground.until_told(2 if READY in first_script else 1)
        stop.ask()

    assert await ended(running) == (3 if n_starts == 1 else 0)
    assert len(ground.children) == n_starts


async def test_a_restart_that_the_system_refuses_is_tried_again_and_ends_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop, n_refusals = StopRequest(), 0
    ground = Ground(READY + LIVE)
    start = ground.start

    async def refusing(number: int) -> Child:
        nonlocal n_refusals
        if len(ground.children) == 2 and n_refusals < 3:
            n_refusals += 1
            raise BlockingIOError("Resource temporarily unavailable")
        return await start(number)

    monkeypatch.setattr(ground, "start", refusing)
    running = spawn(crew(ground, stop, n=2).run(), name="crew")
    await ground.until_told(1)

    ground.children[0].send(signal.SIGKILL)
    await ground.until_told(2)

    assert n_refusals == 3
    assert ground.children[1].process.poll() is None
    stop.ask()
    await ended(running)


async def test_a_first_start_that_the_system_refuses_ends_the_whole_and_leaves_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ground, begun = Ground(READY + LIVE), asyncio.Event()
    start = ground.start

    async def refusing(number: int) -> Child:
        if number:
            await begun.wait()
            raise BlockingIOError("Resource temporarily unavailable")
        child = await start(number)
        begun.set()
        return child

    monkeypatch.setattr(ground, "start", refusing)

    with pytest.raises(ExceptionGroup):
        await crew(ground, StopRequest(), n=2).run()

    assert ground.children[0].process.returncode == -signal.SIGTERM


async def test_a_child_made_while_a_stop_is_asked_is_told_too() -> None:
    ground, stop = Ground(READY + LIVE), StopRequest()

    async def start(number: int) -> Child:
        child = await ground.start(number)
        await asyncio.sleep(0)
        stop.ask()
        await asyncio.sleep(0.05)
        return child

    whole = Crew(1, start, ground.tell, stop=stop, patience=30.0)

    assert await ended(whole.run()) in {0, 128 + signal.SIGTERM}
    assert len(ground.children) == 1


async def test_a_child_that_does_not_listen_is_killed_when_patience_ends() -> None:
    deaf = "trap '' TERM; " + READY + LOOP
    ground, stop = Ground(deaf), StopRequest()
    running = spawn(crew(ground, stop, patience=0.3).run(), name="crew")
    await ground.until_told(1)

    stop.ask()

    assert await ended(running) == 128 + signal.SIGKILL


async def code_after_two_requests(folder: Path, then: str) -> int:
    """Return the code of a crew whose child hears the first request, does `then` for a trap, and is sent the second."""
    heard = folder / "heard"
    program = f"trap '{then} TERM; : > {heard}' TERM; " + READY + LOOP
    ground, stop = Ground(program), StopRequest()
    running = spawn(crew(ground, stop).run(), name="crew")
    await ground.until_told(1)
    stop.ask()
    while not heard.exists():
        await asyncio.sleep(0.01)
    stop.ask()
    return await ended(running)


async def test_a_second_request_is_passed_on(tmp_path: Path) -> None:
    assert await code_after_two_requests(tmp_path, 'trap "exit 7"') == 7


async def test_a_child_that_a_second_request_finds_at_its_very_end_ended_well(tmp_path: Path) -> None:
    # By the second it listens no more.
    assert await code_after_two_requests(tmp_path, "trap -") == 0
