"""A sink in a process of its own, driven over its control path."""

import json
import os
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

from dispatcher.embedded.children import Command, open_log, spawn, stop
from tests.support.sink.listening import url_of
from tests.support.sink.script import Step

_REPOSITORY = Path(__file__).parents[3]
_READY_SECONDS = 15.0


class SinkProcess:
    """A running sink; `sink_process` starts one. `authority` is its CA file, None over http."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        facts: dict[str, Any],
        authority: Path | None,
        log: Path,
    ) -> None:
        self.pid = child.pid
        self.port: int = facts["port"]
        self.hosts: tuple[str, ...] = tuple(facts["hosts"])
        self.scheme: str = facts["scheme"]
        self.authority = authority
        self.log = log
        self._context = ssl.create_default_context(cafile=str(authority)) if authority else None

    def url(self, path: str = "/", *, host: str | None = None) -> str:
        """Return the address of a path here."""
        return url_of(self.scheme, host or self.hosts[0], self.port, path)

    def script(self, path: str, steps: Iterable[Step], *, cycle: bool = False) -> None:
        """Answer the next requests to `path` by `steps`; blocks for the round trip."""
        plan = {"path": path, "steps": [asdict(step) for step in steps], "cycle": cycle}
        self._ask("/_control", json.dumps(plan).encode())

    def verify(self, path: str, *secrets: str) -> None:
        """Check signatures of requests to `path` from now on; any one of `secrets` will do."""
        self._ask("/_control", json.dumps({"path": path, "secrets": secrets}).encode())

    def counts(self) -> dict[str, int]:
        """Return the sink's counts; blocks for the round trip."""
        counts: dict[str, int] = json.loads(self._ask("/_control"))
        return counts

    def times(self) -> list[tuple[float, str]]:
        """Return monotonic seconds and `webhook-id` of the requests since the last call."""
        lines = self._ask("/_times").decode().splitlines()
        return [(float(at), identity) for at, _, identity in (one.partition(" ") for one in lines)]

    def requests(self) -> list[dict[str, Any]]:
        """Return what the log holds, in order of arrival: `Request.to_json` of each."""
        if not self.log.exists():
            return []
        # A line that a kill cut short is no request: it was not answered.
        whole = self.log.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def _ask(self, path: str, message: bytes | None = None) -> bytes:
        question = urllib.request.Request(self.url(path), data=message)
        with urllib.request.urlopen(question, context=self._context, timeout=10) as answer:
            content: bytes = answer.read()
            return content


@contextmanager
def sink_process(
    folder: Path, *words: str, tls: bool = False, hosts: Sequence[str] = ("127.0.0.1",)
) -> Iterator[SinkProcess]:
    """Run a sink for the length of the block; it dies with us. Main thread only; blocks.

    `words` are further options (`--fast`, `--times`). `folder` takes its log and its files.
    """
    ready, authority, log = folder / "ready.json", folder / "authority.pem", folder / "sink.jsonl"
    ready.unlink(missing_ok=True)
    options = [word for host in hosts for word in ("--host", host)]
    options += ["--tls-ca-out", str(authority)] if tls else []
    options += [] if "--fast" in words else ["--log", str(log)]
    argv = (
        sys.executable,
        "-m",
        "tests.support.sink",
        "--ready-file",
        str(ready),
        *options,
        *words,
    )
    output = open_log(folder / "sink.out")
    child = spawn(Command(argv, _REPOSITORY, output, SIGKILL, environment=os.environ))
    os.close(output)
    try:
        _wait_for(ready, child)
        facts = json.loads(ready.read_text())
        yield SinkProcess(child, facts, authority if tls else None, log)
    finally:
        stop(child, [(SIGTERM, 5.0)])


def _wait_for(ready: Path, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not ready.exists():
        assert child.poll() is None, "the sink ended"
        assert time.monotonic() < deadline, "the sink is not ready"
        time.sleep(0.01)
