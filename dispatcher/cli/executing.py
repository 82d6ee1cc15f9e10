"""Hands on events to a command instead of a server: one run for each, the body on its standard input."""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from subprocess import PIPE
from typing import Final

from dispatcher.cli.forwarding import Envelope, Known, Undelivered
from dispatcher.kit.supervise import spawn

RUN_SECONDS: Final = 30.0
"""A run that takes longer is killed: it may be a test suite, but it holds its place in the window."""

_DONE: Final = 204
_STANDARD_ERROR: Final = 2


class Run:
    """Runs a command of the shell. Its output goes to standard error, beside ours.

    The signed headers and the hints are in its environment: WEBHOOK_ID, WEBHOOK_SIGNATURE, X_WEBHOOK_EVENT and so on.
    """

    def __init__(self, command: str, envelope: Envelope) -> None:
        self._command = command
        self._envelope = envelope

    async def __call__(self, event: Known) -> int:
        """Return 204 when the command ends well. Canceled or too late, it is killed with all that it started.

        Raises:
            Undelivered: it ended otherwise.
            TimeoutError: it did not end in time.
        """
        process = await self._start(event)
        try:
            async with asyncio.timeout(RUN_SECONDS):
                await process.communicate(event.body)
        finally:
            if process.returncode is None:
                await _kill(process)
        if process.returncode:
            message = f"exit {process.returncode}"
            raise Undelivered(message)
        return _DONE

    async def _start(self, event: Known) -> asyncio.subprocess.Process:
        starting = spawn(
            asyncio.create_subprocess_shell(
                self._command,
                stdin=PIPE,
                stdout=_STANDARD_ERROR,
                env={**os.environ, **_variables(self._envelope.headers(event))},
                start_new_session=True,
            ),
            name="start-command",
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Canceled itself, the library would kill the shell alone, and leave what that has started by now.
            await _kill(await starting)
            raise


async def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _variables(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.upper().replace("-", "_"): value for name, value in headers.items() if "webhook-" in name}
