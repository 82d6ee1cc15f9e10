"""Named points at which a process dies when it is told to."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher.kit import failpoints
from dispatcher.kit.failpoints import VARIABLE, Failpoint, FailpointReached, Point

ROOT = Path(__file__).parents[3]
PROGRAM = """
import asyncio, sys
from dispatcher.kit import failpoints
failpoints.testify(lambda: {"exposed": 7})
async def main():
    for number in range(5):
        print("before", number, flush=True)
        failpoints.reach_soon(failpoints.Point.ACCEPT_SENT)
        print("sent", number, flush=True)
        await asyncio.sleep(0.1)
        failpoints.reach(failpoints.Point.ACCEPT_ANSWERED)
asyncio.run(main())
"""


def run(asked: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=dict(os.environ) | {VARIABLE: asked, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_nth_hit_kills_and_the_last_words_say_what_was_in_flight() -> None:
    done = run("accept.answered:2")

    assert done.returncode == -signal.SIGKILL
    assert done.stdout.splitlines()[-1] == "sent 1"
    assert done.stderr == "failpoint accept.answered exposed=7\n"


def test_a_point_in_flight_kills_after_the_sending_and_before_the_answer() -> None:
    done = run("accept.sent:3:kill")

    assert done.returncode == -signal.SIGKILL
    assert done.stdout.splitlines()[-1] == "sent 2"


def test_to_raise_is_an_exception_where_the_point_is() -> None:
    done = run("accept.sent:1:raise")

    assert done.returncode == 1
    assert done.stdout.splitlines() == ["before 0"]
    assert "FailpointReached: accept.sent" in done.stderr


@pytest.mark.parametrize("asked", ["", "stopping"])
def test_other_points_are_passed(asked: str) -> None:
    assert run(asked).returncode == 0


def test_a_misspelt_point_ends_the_process_at_once() -> None:
    assert "accept.send" in run("accept.send").stderr


@pytest.mark.parametrize(
    "asked", ["nowhere", "accept.sent:x", "accept.sent:1:explode", "stopping:1:park", "stopping:1:hang:x"]
)
def test_what_is_no_failpoint_is_refused(asked: str) -> None:
    with pytest.raises(ValueError, match=r"nowhere|invalid literal|explode|parked|could not convert"):
        Failpoint.parse(asked)


@pytest.mark.parametrize(("asked", "seconds"), [("hang", failpoints.HANG_SECONDS), ("hang:9.5", 9.5)])
def test_hanging_blocks_the_whole_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], asked: str, seconds: float
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("dispatcher.kit.failpoints.time.sleep", slept.append)
    armed = Failpoint.parse(f"stopping:2:{asked}")

    armed.hit()
    assert slept == []
    armed.hit()
    armed.hit()

    assert slept == [seconds]
    assert "failpoint stopping" in capfd.readouterr().err


def test_a_point_acts_once() -> None:
    armed = Failpoint.parse("stopping::raise")

    with pytest.raises(FailpointReached):
        armed.hit()
    armed.hit()


def test_every_point_stands_in_the_program_once() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "dispatcher").rglob("*.py")))

    assert {point: text.count(f"failpoints.Point.{point.name})") for point in Point} == dict.fromkeys(Point, 1)


async def test_who_is_parked_stays_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(failpoints, "_armed", Failpoint.parse("poll:2:park"))
    await failpoints.park(Point.POLL)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await failpoints.park(Point.POLL)
    await failpoints.park(Point.POLL)

    assert "failpoint poll" in capfd.readouterr().err
