"""Delivery latency while the API is read from, against that without; by one process, and with the API in its own."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from dispatcher.ledger.accounts import AccountLedger, Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.keys import KeyLedger
from tests.bench.drain import add_endpoints, remove_endpoints
from tests.bench.lab import ACCOUNT, Lab, SinkProcess, cpu_seconds, sink
from tests.bench.latency import event_id, send
from tests.support.daemon import Daemon, running

PER_SECOND: Final = 100
ROUNDS: Final = 5
"""Times without readers and with them, in turn: the machine's speed changes within minutes and must change both."""

LAYOUTS: Final = (
    ("one process", ((),)),
    ("the API in a process of its own", (("--roles", "ingest,deliver"), ("--roles", "api"))),
)
"""What a layout is called, and the arguments of its processes; the last one serves the API."""

_N_KEYS: Final = 16
"""One key may make 20 requests a second."""

_READS: Final = (
    "/v1/webhook_endpoints",
    "/v1/deliveries",
    "/v1/deliveries?status=delivered&type=verification.*",
    "/v1/webhook_endpoints/{endpoint}",
    "/v1/webhook_endpoints/{endpoint}/deliveries",
    "/v1/webhook_endpoints/{endpoint}/attempts?outcome=2xx",
    "/v1/webhook_endpoints/{endpoint}/stats",
    "/v1/events?limit=5",
)


@dataclass
class Course:
    """What was met in the times of one kind: each delivery's latency in milliseconds, and CPU seconds by who used them.

    `late` are requests that were not made, since all connections still waited for an answer.
    """

    milliseconds: list[float] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)
    answers: int = 0
    refused: int = 0
    late: int = 0

    def more_per_answer(self, quiet: "Course") -> dict[str, float]:
        """Return the CPU milliseconds that one answer took, by who used them: what was used more than in quiet."""
        return {who: (used - quiet.cpu.get(who, 0.0)) * 1_000 / self.answers for who, used in self.cpu.items()}


@dataclass(frozen=True)
class _Stage:
    """Where it happens: `daemons` together do what one does alone."""

    lab: Lab
    to: SinkProcess
    topic: str
    daemons: list[Daemon]

    async def play(self, phase: str, course: Course, seconds: int, readers: "subprocess.Popen[bytes] | None") -> None:
        """Add to a course what `seconds` of events are like, read by `readers` meanwhile, where there are any."""
        before = self._used()
        if readers is not None:
            _say(readers)
        sent = await send(self.lab, self.topic, PER_SECOND, seconds, phase)
        after = self._used()
        if readers is not None:
            told = json.loads(await asyncio.to_thread(_say, readers, is_answered=True))
            course.answers += told["answers"]
            course.refused += told["refused"]
            course.late += told["late"]
            after["load"] = told["cpu_seconds"]
        for who, used in after.items():
            course.cpu[who] = course.cpu.get(who, 0.0) + used - before.get(who, 0.0)
        await self.to.have({event_id(name) for name in sent}, seconds=30)
        received = await self.to.ask("times")
        course.milliseconds += [(received[event_id(name)] - at) / 1e6 for name, at in sent.items()]

    def _used(self) -> dict[str, float]:
        daemons = sum(cpu_seconds(one.pid) for one in self.daemons)
        return {"daemon": daemons, "PostgreSQL": cpu_seconds(self.lab.postgres.pid)}


async def api_load(lab: Lab, processes: tuple[tuple[str, ...], ...], seconds: int) -> tuple[Course, Course]:
    """Return what `seconds` without readers were like, and as many with them, in turn, of one layout."""
    topic = f"api-load-{len(processes)}"
    await lab.make_topic(topic)
    settings = lab.settings(topic)
    keys = await _make_keys(lab)
    async with sink(lab.folder, n_ports=1, tls=True, times=True) as to:
        (endpoint,) = await add_endpoints(lab, settings, to, "https")
        plan = {"keys": keys, "paths": [path.format(endpoint=endpoint) for path in _READS]}
        async with AsyncExitStack() as stack:
            daemons = [
                await stack.enter_async_context(
                    running(Daemon(lab.folder, settings, (*words, "--loop", "uvloop"), name=f"{topic}-{number}"))
                )
                for number, words in enumerate(processes)
            ]
            readers = await stack.enter_async_context(_readers(lab, daemons[-1].ready["api_url"], plan))
            quiet, read = await _in_turn(_Stage(lab, to, topic, daemons), max(1, seconds // ROUNDS), readers)
            for daemon in reversed(daemons):
                assert await daemon.stop() == 0
        await remove_endpoints(lab, settings, [endpoint], "https")
    return quiet, read


async def _in_turn(stage: _Stage, seconds: int, readers: "subprocess.Popen[bytes]") -> tuple[Course, Course]:
    quiet, read = Course(), Course()
    # Not counted: each connection to Postgres plans each statement once.
    await stage.play("warm", Course(), 2, None)
    await stage.play("warm-read", Course(), 2, readers)
    for n in range(ROUNDS):
        await stage.play(f"quiet-{n}", quiet, seconds, None)
        await stage.play(f"read-{n}", read, seconds, readers)
    for course in (quiet, read):
        course.milliseconds.sort()
    return quiet, read


async def _make_keys(lab: Lab) -> list[str]:
    pool = await Pool.open(lab.postgres.url)
    account = await AccountLedger(pool).find(ACCOUNT)
    assert account is not None
    made = [(await KeyLedger(pool).create(Tenant(account.account_id, "live"))).text for _ in range(_N_KEYS)]
    await pool.aclose()
    return made


def _say(readers: "subprocess.Popen[bytes]", *, is_answered: bool = False) -> bytes:
    """Begin a time of reading, or end it and return what is told of it."""
    assert readers.stdin is not None
    assert readers.stdout is not None
    readers.stdin.write(b"\n")
    readers.stdin.flush()
    return readers.stdout.readline() if is_answered else b""


@asynccontextmanager
async def _readers(lab: Lab, url: str, plan: dict[str, list[str]]) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """Give a process that reads when it is told to."""
    file = lab.folder / "readers.json"
    file.write_text(json.dumps(plan))
    words = (sys.executable, "-m", "tests.bench.readers", "--url", url, "--plan", str(file))
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        await asyncio.to_thread(process.communicate, timeout=20)
