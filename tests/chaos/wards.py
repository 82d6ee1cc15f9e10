"""Daemons that a nursery starts, for a run of chaos."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from tests.support.daemon import REPO, Daemon, clean_environment

_END_SECONDS: Final = 5.0


class Ward:
    """A process that the nursery forked: what `asyncio.subprocess.Process` is for one's own children."""

    def __init__(self, pid: int) -> None:
        self.pid: Final[int] = pid
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        """Return the exit code, the negative signal number of one that was killed; None while it lives."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Return the exit code as soon as there is one."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        """Send it a signal; one that has just ended is left alone."""
        if not self._ended.done():
            # The nursery may know of its end, and we not yet.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self, code: int) -> None:
        """Note its end."""
        self._ended.set_result(code)


class Nursery:
    """The nursery's process, and its wards by name and by process id."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._births: dict[str, asyncio.Future[Ward]] = {}
        self._wards: dict[int, Ward] = {}

    async def fork(self, order: dict[str, Any]) -> Ward:
        """Have a daemon forked and return it."""
        assert self._process.stdin is not None
        birth: asyncio.Future[Ward] = asyncio.get_running_loop().create_future()
        self._births[order["name"]] = birth
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return await birth

    async def listen(self) -> None:
        """Follow what the nursery tells until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            fact = json.loads(line)
            if "order" in fact:
                ward = self._wards[fact["pid"]] = Ward(fact["pid"])
                self._births.pop(fact["order"]).set_result(ward)
            else:
                self._wards.pop(fact["pid"]).end(fact["code"])


@dataclass
class Nursling(Daemon):
    """A daemon that is forked instead of started. Its environment is its own all the same."""

    nursery: Nursery | None = None

    async def spawn(self, words: Sequence[str]) -> None:
        """Have it forked."""
        assert self.nursery is not None
        self.log.touch()
        self.process = await self.nursery.fork(
            {
                "name": self.name,
                "words": list(words),
                "environment": clean_environment(self.settings) | self.environment,
                "stdout": str(self.folder / f"{self.name}.out"),
                "stderr": str(self.log),
            }
        )


@asynccontextmanager
async def open_nursery(without: str | None = None) -> AsyncIterator[Nursery]:
    """Run a nursery for the length of the block; what it forked ends with it. `without` names a guard to take out."""
    words = [] if without is None else ["--without", without]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.nursery", *words),
        cwd=REPO,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    nursery = Nursery(process)
    listening = asyncio.get_running_loop().create_task(nursery.listen())
    try:
        yield nursery
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
        await listening
