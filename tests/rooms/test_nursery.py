"""What a nursery forks is the program as its command starts it: with its words, its environment, its end."""

import signal
from pathlib import Path

import pytest

from dispatcher import __version__
from tests.chaos.wards import Nursery, Nursling, open_nursery
from tests.support.ending import ends_within

pytestmark = pytest.mark.timeout(120)


def a_nursling(folder: Path, nursery: Nursery, name: str, **settings: str) -> Nursling:
    return Nursling(folder, settings, name=name, nursery=nursery)


async def test_a_fork_runs_the_command_in_its_own_environment_and_tells_its_end(tmp_path: Path) -> None:
    async with open_nursery() as nursery:
        first, second = (a_nursling(tmp_path, nursery, name, LOG__LEVEL=name) for name in ("debug", "louder"))
        await first.spawn(["version"])
        await second.spawn(["config", "check"])

        assert await first.wait() == 0
        assert await second.wait() == 1
    assert (tmp_path / "debug.out").read_text() == f"dispatcher {__version__}\n"
    assert "LOG__LEVEL" in (tmp_path / "louder.log").read_text()


async def test_a_fork_that_is_killed_says_so_and_the_others_go_with_the_nursery(tmp_path: Path) -> None:
    async with open_nursery() as nursery:
        killed, left = (a_nursling(tmp_path, nursery, name) for name in ("killed", "left"))
        for one in (killed, left):
            await one.spawn(["receive", "--port", "0"])
        await killed.kill()

        assert killed.process is not None
        assert killed.process.returncode == -signal.SIGKILL
        assert left.is_running
    assert ends_within(left.pid, 20.0)


async def test_an_armed_point_of_one_is_nobody_elses(tmp_path: Path) -> None:
    async with open_nursery() as nursery:
        armed, other = (a_nursling(tmp_path, nursery, name) for name in ("armed", "other"))
        armed.environment["FAILPOINT"] = "no.such.point"
        for one in (armed, other):
            await one.spawn(["version"])

        assert (await armed.wait(), await other.wait()) == (1, 0)
    assert "no.such.point" in armed.log.read_text()
