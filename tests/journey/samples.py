"""The producers of README, as they stand there, run against a world of a test."""

import ast
import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.journey.world import World
from tests.support.daemon import REPO

SUBJECT = "ver_8Zk3QmT1xW5n"


async def produce_with_python(world: World, folder: Path) -> None:
    """Run the sample in Python."""
    (folder / "producer.py").write_text(_of_here(_sample(), world, "7c1d-python"))
    await _run_in(folder, sys.executable, "producer.py")


async def produce_with_kcat(world: World, folder: Path) -> None:
    """Run the line for kcat, which must be there, with the data of the sample in Python."""
    (line,) = re.findall(r"```sh\n(kcat (?:[^\n]*\\\n)*[^\n]*)", _readme())
    (folder / "data.json").write_text(json.dumps(_data_of(_sample())))
    await _run_in(folder, "bash", "-euc", _of_here(line, world, "7c1d-kcat"))


def _readme() -> str:
    return (REPO / "README.md").read_text()


def _sample() -> str:
    (sample,) = re.findall(r"```python\n(import asyncio, json\nfrom aiokafka .*?)```", _readme(), re.DOTALL)
    return str(sample)


def _of_here(text: str, world: World, ce_id: str) -> str:
    for written, here in (
        ("127.0.0.1:23199", world.bootstrap),
        ("verification.events.v1", world.topic),
        ("acct_5hQ2vN8rTb", world.account),
        ("7c1d-0006", ce_id),
    ):
        assert text.count(written) == 1, written
        text = text.replace(written, here)
    return text


def _data_of(sample: str) -> Any:
    (found,) = re.findall(r"data = (\{.*?\n    \})", sample, re.DOTALL)
    return ast.literal_eval(found)


async def _run_in(folder: Path, *words: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run, words, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
