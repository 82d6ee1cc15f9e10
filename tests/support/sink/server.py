"""The scripted sink: which request gets which step, and what came."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tests.support.sink.listening import listening_sockets, url_of
from tests.support.sink.script import OK, Request, Step
from tests.support.sink.visit import Visit

CONTROL_PATH = "/_control"


@dataclass(slots=True)
class _Path:
    """The script of one path: what comes next, and which secrets may sign."""

    steps: tuple[Step, ...] = (OK,)
    is_cycle: bool = False
    at: int = 0
    secrets: tuple[str, ...] = ()

    def next_step(self) -> Step:
        step = self.steps[min(self.at, len(self.steps) - 1)]
        self.at += 1
        if self.is_cycle:
            self.at %= len(self.steps)
        return step


class Sink:
    """A scripted endpoint; `serving` starts one. `requests` grows in the order of arrival."""

    def __init__(self, *, hosts: Sequence[str], port: int, scheme: str, log: BinaryIO | None) -> None:
        self.hosts = tuple(hosts)
        self.port = port
        self.scheme = scheme
        self.requests: list[Request] = []
        self.n_connections = 0
        self._log = log
        self._paths: dict[str, _Path] = {}
        self._arrived = asyncio.Event()
        self._visits: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def serving(
        cls,
        *,
        hosts: Sequence[str] = ("127.0.0.1",),
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        log: Path | None = None,
    ) -> AsyncIterator["Sink"]:
        """Serve on every host under one port for the length of the block, then cut all connections.

        `log` gets a JSON line for each request before it is answered.
        """
        sockets = listening_sockets(hosts, port)
        scheme = "https" if tls else "http"
        with log.open("ab", buffering=0) if log else nullcontext() as file:
            sink = cls(hosts=hosts, port=sockets[0].getsockname()[1], scheme=scheme, log=file)
            servers = [await asyncio.start_server(sink._visit, sock=one, ssl=tls) for one in sockets]
            try:
                yield sink
            finally:
                for server in servers:
                    server.close()
                await sink._end_visits()

    def url(self, path: str = "/", *, host: str | None = None) -> str:
        """Return the address of a path here."""
        return url_of(self.scheme, host or self.hosts[0], self.port, path)

    def script(self, path: str, steps: Iterable[Step], *, cycle: bool = False) -> None:
        """Answer the next requests to `path` by `steps`; then the last one stays, or all cycle."""
        plan = self._plan(path)
        plan.steps, plan.is_cycle, plan.at = tuple(steps) or (OK,), cycle, 0

    def verify(self, path: str, *secrets: str) -> None:
        """Check signatures of requests to `path` from now on; any one of `secrets` will do."""
        self._plan(path).secrets = secrets

    def received(self, path: str | None = None) -> list[Request]:
        """Return what came to `path`, whatever the query; everything for None."""
        return [one for one in self.requests if path in (None, _bare(one.path))]

    async def arrival(self, count: int, *, path: str | None = None, seconds: float = 10.0) -> None:
        """Wait until `count` requests have come; TimeoutError otherwise."""
        async with asyncio.timeout(seconds):
            while len(self.received(path)) < count:
                self._arrived.clear()
                await self._arrived.wait()

    def counts(self) -> dict[str, int]:
        """Return how many requests, connections, breaches of HTTP and bad signatures there were."""
        return {
            "requests": len(self.requests),
            "connections": self.n_connections,
            "faults": sum(bool(one.fault) for one in self.requests),
            "invalid_signatures": sum(one.signature == "invalid" for one in self.requests),
        }

    def step_for(self, path: str) -> tuple[Step, Sequence[str]]:
        """Return the next step of a path and the secrets that may sign there."""
        plan = self._plan(_bare(path))
        return plan.next_step(), plan.secrets

    def next_number(self) -> int:
        """Return the number of the next request, from 1."""
        return len(self.requests) + 1

    def take(self, request: Request) -> None:
        """Remember a request, in the log first."""
        if self._log:
            self._log.write(json.dumps(request.to_json()).encode() + b"\n")
        self.requests.append(request)
        self._arrived.set()

    def answer_control(self, method: str, body: bytes) -> tuple[int, bytes]:
        """Apply a control message (POST) and return the counts; 400 when it is not one."""
        try:
            if method == "POST":
                self._apply(json.loads(body))
        except (ValueError, KeyError, TypeError) as fault:
            return 400, json.dumps({"fault": repr(fault)}).encode()
        return 200, json.dumps(self.counts()).encode()

    def _apply(self, message: dict[str, object]) -> None:
        path = str(message["path"])
        if isinstance(steps := message.get("steps"), list):
            self.script(path, map(Step.from_json, steps), cycle=bool(message.get("cycle")))
        if isinstance(secrets := message.get("secrets"), list):
            self.verify(path, *secrets)

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._visits.add(task)
        self.n_connections += 1
        visit = Visit(
            self,
            reader,
            writer,
            number=self.n_connections,
            is_control=lambda path: _bare(path) == CONTROL_PATH,
        )
        try:
            await visit.run()
        except (OSError, asyncio.CancelledError):
            # Clients that leave, and the end of the sink: both are ordinary here.
            pass
        finally:
            self._visits.discard(task)
            writer.transport.abort()

    async def _end_visits(self) -> None:
        for visit in self._visits:
            visit.cancel()
        if self._visits:
            await asyncio.wait(self._visits)

    def _plan(self, path: str) -> _Path:
        return self._paths.setdefault(path, _Path())


def _bare(path: str) -> str:
    return path.partition("?")[0]
