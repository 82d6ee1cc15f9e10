"""The daemons of a run: numbered slots, each start under a name of its own, and what became of every one."""

import asyncio
import contextlib
import itertools
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from dispatcher.kit.failpoints import VARIABLE
from tests.chaos.history import KILLED, Fault
from tests.chaos.links import Links
from tests.chaos.nursery import TELL
from tests.chaos.toxics import Link
from tests.chaos.wards import Nursery, Nursling
from tests.journey.world import World
from tests.support.daemon import Daemon
from tests.support.sink import SinkProcess

_STOP_SECONDS: Final = 30.0
"""What is under way may take 10 s here; the rest of a stop is bounded, too."""

_JUST_BEFORE_SECONDS: Final = 0.02
_ARRIVED_SECONDS: Final = 0.5
"""By then the endpoints have written down whatever had left a process that was stopped; far less than a lease."""
_LAST_WORDS: Final = re.compile(r"^failpoint \S+ exposed=(\d+)$", re.MULTILINE)
_TAKEN_OVER: Final = "was taken over"
_AWAY: Final = "cannot connect to Postgres"
_TAIL_BYTES: Final = 2_000_000


@dataclass
class Processes:
    """The daemons: as many slots as are filled now, numbered from 0."""

    world: World
    sink: SinkProcess
    nursery: Nursery
    links: Links | None = None
    slots: list[Daemon] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    deaths: dict[int, Fault] = field(default_factory=dict)
    fallen: list[str] = field(default_factory=list)
    """Processes that ended without being asked to, with the end of their log."""
    ends: Counter[str] = field(default_factory=Counter)
    """How often a process ended in which way."""
    born: dict[str, float] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _launching: set[str] = field(default_factory=set)

    def make(self, slot: int, failpoint: str = "") -> Daemon:
        """Put a fresh daemon into a slot, not started. Its name is in the User-Agent of its requests."""
        self.look_at(slot)
        name = f"p{slot}-{next(self._numbers)}"
        settings = {**self.world.settings, "HTTP__PUBLIC_URL": f"http://{name}.test", **self._servers(name)}
        made = Nursling(self.world.folder, settings, name=name, nursery=self.nursery)
        if failpoint:
            made.environment[VARIABLE] = failpoint
        self.slots[slot : slot + 1] = [made]
        self.born[name] = time.monotonic()
        return made

    def is_free(self, slot: int) -> bool:
        """Tell whether a slot's process has ended, and no other is on its way into it."""
        daemon = self.slots[slot]
        return not daemon.is_running and daemon.name not in self._launching

    async def launch(self, slot: int, *, after: Daemon | None = None) -> None:
        """Start a fresh daemon in a slot; not where somebody else has put one in the place of `after` meanwhile.

        Several faults are at work at once, and each fills the slots that it empties.
        """
        if after is not None and not any(one is after for one in self.slots[slot : slot + 1]):
            return
        made = self.make(slot)
        self._launching.add(made.name)
        try:
            await made.launch()
        finally:
            self._launching.discard(made.name)

    def living(self) -> dict[str, int]:
        """Return the process ids of those that were started and have not ended, by name."""
        return {one.name: one.pid for one in list(self.slots) if one.is_running}

    def ready(self) -> list[int]:
        """Return the slots whose process says that it is ready, oldest first."""
        slots = [slot for slot, one in enumerate(self.slots) if one.is_running and one.is_ready]
        return sorted(slots, key=lambda slot: self.born[self.slots[slot].name])

    def look_at(self, slot: int) -> None:
        """Take note of a process that has ended: by itself is a fault of ours, unless it was cut off for too long."""
        for old in self.slots[slot : slot + 1]:
            code = None if old.process is None else old.process.returncode
            if code is None:
                continue
            self._close_links(old.name)
            if code and old.name not in {fault.sender for fault in self.faults}:
                self._judge(old, code)

    async def freeze(self, daemon: Daemon, what: str) -> Fault:
        """Stop a process in its tracks and note what it had in flight or unwritten.

        That is what it says itself, and all that it sent since it was asked. One that is not ready cannot be asked.
        """
        asked = 0.0
        n = 0.0
        with contextlib.suppress(aiohttp.ClientError, OSError):
            if daemon.is_ready:
                asked = time.time() - _JUST_BEFORE_SECONDS
                seen = await daemon.metrics()
                n = seen["dispatcher_in_flight"] + seen["dispatcher_unsettled"]
        daemon.send(signal.SIGSTOP)
        await asyncio.sleep(_ARRIVED_SECONDS)
        return self.died(daemon, what, round(n) + self.sent_since(daemon.name, asked))

    async def kill(self, daemon: Daemon) -> Fault:
        """Kill a process at no particular moment."""
        fault = await self.freeze(daemon, KILLED)
        await daemon.kill()
        self.ends["kill -9"] += 1
        return fault

    def sent_since(self, name: str, when: float) -> int:
        """Return how many requests of a process came to the endpoints since a Unix time."""
        return sum(bool(one["at_unix"] >= when and sender_of(one) == name) for one in tail(self.sink.log))

    def died(self, daemon: Daemon, what: str, exposed: int | None = None) -> Fault:
        """Note a fault of a process after which it should be taken over; None: it said itself what it exposed."""
        log = daemon.log.read_text(errors="replace")
        if exposed is None:
            words = _LAST_WORDS.findall(log)
            exposed = int(words[-1]) if words else 0
        fault = self.blame(daemon, what, exposed)
        if (replica := replica_of(log)) is not None:
            self.deaths[replica] = fault
        return fault

    def went_on(self, daemon: Daemon) -> None:
        """Note that a process lives on after its fault: nobody has to take it over."""
        for replica in [one for one, fault in self.deaths.items() if fault.sender == daemon.name]:
            del self.deaths[replica]

    def blame(self, daemon: Daemon, what: str, exposed: int) -> Fault:
        """Note that a process may repeat more than was known when it died."""
        fault = Fault(daemon.name, what, time.time(), exposed)
        self.faults.append(fault)
        return fault

    async def stop(self, daemon: Daemon) -> int:
        """Stop one in good order and return its exit code; one that does not end says why in its log, and is killed."""
        daemon.send(signal.SIGTERM)
        try:
            code = await daemon.wait(_STOP_SECONDS)
        except TimeoutError:
            daemon.send(TELL)
            await asyncio.sleep(1.0)
            await daemon.kill()
            code = -signal.SIGKILL
        self.ends[f"SIGTERM, exit {code}"] += 1
        return code

    async def end(self) -> list[int]:
        """Stop all that live and return their exit codes."""
        for slot in range(len(self.slots)):
            self.look_at(slot)
        living = [one for one in self.slots if one.is_running]
        async with asyncio.TaskGroup() as group:
            stops = [group.create_task(self.stop(one)) for one in living]
        return [stop.result() for stop in stops]

    async def kill_all(self) -> None:
        """Leave nothing behind."""
        for one in self.slots:
            if one.is_running:
                await one.kill()

    def _servers(self, name: str) -> dict[str, str]:
        if self.links is None:
            return {}
        database = urlsplit(self.world.database_url)
        assert database.port is not None
        broker = int(self.world.bootstrap.rpartition(":")[2])
        ports = self.links.open(name, {Link.POSTGRES: database.port, Link.KAFKA: broker})
        return {
            "DATABASE__URL": self.world.database_url.replace(f":{database.port}/", f":{ports[Link.POSTGRES]}/"),
            "KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{ports[Link.KAFKA]}",
        }

    def _close_links(self, name: str) -> None:
        if self.links is not None:
            self.links.close(name)

    def _judge(self, old: Daemon, code: int) -> None:
        if code == -signal.SIGTERM and not old.is_ready:
            self.ends["SIGTERM before it listened"] += 1
            return
        log = old.log.read_text(errors="replace")
        cut = [
            harm.began
            for harm in (self.links.harms if self.links else ())
            if harm.name == old.name and harm.link is Link.POSTGRES
        ]
        if cut and _TAKEN_OVER in log[-4_000:]:
            self.blame(old, "cut off by several toxics", self.sent_since(old.name, cut[-1] - 1.0))
            self.ends["taken over while cut off"] += 1
            return
        if not old.is_ready and _AWAY in log[-4_000:]:
            # Whoever supervises it starts it again; so do we.
            self.ends["no start while Postgres was away"] += 1
            return
        words = " | ".join(log.splitlines()[-3:])
        self.fallen.append(f"{old.name} ended by itself with {code}: {words[-300:]}")


def replica_of(log: str) -> int | None:
    """Return the number that a process's log says it registered under."""
    for line in log.splitlines():
        if "replica_registered" in line and (found := re.search(r'"?replica"?[=:]\s*(\d+)', line)):
            return int(found[1])
    return None


def sender_of(logged: dict[str, Any]) -> str:
    """Return the name of the process that made a request."""
    headers = {name.lower(): value for name, value in logged["headers"].items()}
    found = re.search(r"http://([^.]+)\.test", headers.get("user-agent", ""))
    return found[1] if found else ""


def tail(log: Path, size: int = _TAIL_BYTES) -> list[dict[str, Any]]:
    """Return the last whole lines of the sink's log."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - size))
        lines = file.read().split(b"\n")
    return [json.loads(line) for line in lines[1:-1]]
