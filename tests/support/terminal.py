"""The command line inside the test's process: a command costs no interpreter, and talks to servers of the test."""

import asyncio
import io
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

from dispatcher.cli.main import main


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return standard output as one document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Return standard output as one object per line."""
        return [json.loads(line) for line in self.out.splitlines()]


def run(*words: str, environment: Mapping[str, str], typed: str = "") -> Said:
    """Run one command to its end, with nobody at a terminal. One at a time: it borrows the process's streams."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    code = 0
    with (
        mock.patch.dict(os.environ, {**plain, **environment}, clear=True),
        mock.patch.multiple(sys, stdout=out, stderr=err, stdin=io.StringIO(typed)),
    ):
        try:
            main(words)
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return Said(code, *texts)


class Terminal:
    """Runs commands in an environment, beside the loop that serves what they call."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)

    async def run(self, *words: str, code: int | None = 0, typed: str = "") -> Said:
        """Run one command, which must end with `code`."""
        said = await asyncio.to_thread(run, *words, environment=self.environment, typed=typed)
        assert code is None or said.code == code, f"{words}: {said.code}\n{said.out}\n{said.err}"
        return said
