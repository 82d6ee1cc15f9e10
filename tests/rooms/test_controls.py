"""Every guard is needed: the tests that are said to need it fail when it is taken out."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tests.chaos.controls import GUARDS
from tests.support.servers import DatabaseServer

ROOT = Path(__file__).parents[2]
TESTS_FAILED = int(pytest.ExitCode.TESTS_FAILED)
FAILED = re.compile(r"^FAILED (\S+?::\w+)", re.MULTILINE)

pytestmark = pytest.mark.timeout(120)


def _environment() -> dict[str, str]:
    """Return ours, but for the tally: failures that are meant are no failures."""
    return {name: value for name, value in os.environ.items() if name != "DISPATCHER_TEST_TALLY"}


IN_EVERY_RUN = {"fence", "flush-number"}
NAMES = [
    pytest.param(name, marks=() if name in IN_EVERY_RUN else pytest.mark.sweep)
    for name, guard in GUARDS.items()
    if guard.broken
]


@pytest.mark.parametrize("name", NAMES)
async def test_without_a_guard_the_tests_that_need_it_fail(name: str, postgres_server: DatabaseServer) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.without", name, *GUARDS[name].broken, "-q", "-p", "no:cacheprovider"),
        cwd=ROOT,
        env=_environment() | {"DISPATCHER_TEST_DATABASE_URL": postgres_server.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()

    assert process.returncode == TESTS_FAILED, said[-2_000:]
    # A failure, not an error: one that comes before the act would prove nothing.
    assert set(FAILED.findall(said)) == set(GUARDS[name].broken), said[-2_000:]
