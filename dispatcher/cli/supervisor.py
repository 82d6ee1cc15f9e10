"""`run --processes N`: one parent that keeps N daemons alive, each a replica of its own.

    parent --fork/exec--> child 0: ingest, deliver, api
                     `--> child 1 … N-1: ingest, deliver

A child writes one line of JSON into its pipe when it is ready and keeps the pipe open until it ends, however it ends:
the line is its readiness, the end of the pipe its end. A child that dies is started again, the sooner the longer it
lived; the surviving children take over its rows when its lease ends. A child that refuses to start at all ends
everything with its exit code, as it would alone: no restart mends a wrong configuration.

The parent passes SIGTERM and SIGINT on, a second one too, and waits for all. When it dies itself the kernel sends
SIGTERM to the children: they drain.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
import structlog

from dispatcher.app import Daemon
from dispatcher.cli.daemon import Course, Places, demand_schema, describe, loop_factory, serve, write_ready_file
from dispatcher.embedded import children
from dispatcher.kit import clock
from dispatcher.kit.stopping import StopRequest
from dispatcher.kit.supervise import sleep_until_set, spawn
from dispatcher.model.errors import ConfigurationError
from dispatcher.setting_values import Bind
from dispatcher.settings import Role, Settings

_log = structlog.get_logger("supervisor")

_FIRST_SECONDS: Final = 0.5
_MOST_SECONDS: Final = 10.0
_PROVEN_SECONDS: Final = 60.0
_END_SECONDS: Final = 30.0
"""How long after its drain seconds a child may need to end; one that does not answer is killed then."""

Tell = Callable[[Sequence[Places]], Awaitable[object]]


class Backoff:
    """How long to wait before a child starts again.

    | death | 1 | 2 | 3 | 4 | 5 | 6 and later |
    | --- | --- | --- | --- | --- | --- | --- |
    | seconds | 0.5 | 1 | 2 | 4 | 8 | 10 |

    A child that lived for a minute begins the table anew.
    """

    def __init__(self) -> None:
        self._next = _FIRST_SECONDS

    def after(self, lived_seconds: float) -> float:
        """Return the seconds to wait now that a child died after `lived_seconds`."""
        if lived_seconds >= _PROVEN_SECONDS:
            self._next = _FIRST_SECONDS
        wait, self._next = self._next, min(self._next * 2, _MOST_SECONDS)
        return wait


class Place(NamedTuple):
    """Where one child listens."""

    api_url: str | None
    metrics_url: str


class Child:
    """One child process and the reading end of its pipe."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: asyncio.StreamReader) -> None:
        self.process: Final = process
        self._pipe = pipe

    async def ready(self) -> Place | None:
        """Return where it listens as soon as it is ready, None when it ended before."""
        line = await self._pipe.readline()
        return Place(**orjson.loads(line)) if line.endswith(b"\n") else None

    async def end(self) -> int:
        """Wait for its end and return its exit code, the negative signal number of one that was killed."""
        await self._pipe.read()
        # The pipe ends a moment before the process does.
        return await asyncio.to_thread(self.process.wait)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; one that ended is left alone."""
        self.process.send_signal(number)


class Crew:
    """The children of one supervisor. `start` starts the child of a number, `tell` is told where all listen.

    `tell` is called once all are ready, and again whenever a new child is: it may listen elsewhere.
    """

    def __init__(
        self,
        n_children: int,
        start: Callable[[int], Awaitable[Child]],
        tell: Tell,
        *,
        stop: StopRequest,
        patience: float,
    ) -> None:
        self._start = start
        self._tell = tell
        self._stop = stop
        self._patience = patience
        self._telling = asyncio.Lock()
        # Written by the task of each number.
        self._living: dict[int, Child] = {}
        self._places: list[Place | None] = [None] * n_children
        self._code = 0

    async def run(self) -> int:
        """Keep all children alive until asked to stop; return the exit code of the whole."""
        passing = [spawn(self._pass_on(), name="pass-signals"), spawn(self._lose_patience(), name="patience")]
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(len(self._places)):
                    group.create_task(self._keep(number), name=f"child-{number}")
        finally:
            for task in passing:
                task.cancel()
            await self._send_away()
        return self._code

    async def _send_away(self) -> None:
        """End those that still live when a fault of ours ends the whole, and wait: they may stand on our servers."""
        living = list(self._living.values())
        for child in living:
            child.send(signal.SIGTERM)
        ends = {spawn(child.end(), name="child-end") for child in living}
        if ends and (await asyncio.wait(ends, timeout=self._patience))[1]:
            for child in living:
                child.send(signal.SIGKILL)
            await asyncio.wait(ends)

    async def _keep(self, number: int) -> None:
        backoff = Backoff()
        while not self._stop.asked.is_set():
            started = clock.mono()
            try:
                child = self._living[number] = await self._start(number)
            except OSError as fault:
                if self._places[number] is None:
                    raise
                # The system has no process or file for another one just now: no reason to end those that live.
                wait = backoff.after(0.0)
                _log.warning("process_not_started", process=number, reason=str(fault), restart_in_seconds=wait)
                await sleep_until_set(self._stop.asked, wait)
                continue
            if self._stop.asked.is_set():
                # Asked while it was made: nobody has told it yet.
                child.send(signal.SIGTERM)
            place = await child.ready()
            if place is not None:
                self._places[number] = place
                await self._tell_places()
            code = await child.end()
            del self._living[number]
            if self._stop.asked.is_set():
                # One that did not listen to signals yet had nothing to finish; one that listened no more when the
                # second came had finished.
                had_nothing = place is None or (self._stop.pressed.is_set() and code == -signal.SIGTERM)
                self._code = self._code or (0 if had_nothing else _shell_code(code))
            elif self._places[number] is None and code > 0:
                self._code = code
                self._stop.ask()
            else:
                wait = backoff.after(clock.mono() - started)
                _log.warning("process_ended", process=number, exit_code=code, restart_in_seconds=wait)
                await sleep_until_set(self._stop.asked, wait)

    async def _tell_places(self) -> None:
        async with self._telling:
            places = [place for place in self._places if place is not None]
            if len(places) == len(self._places):
                await self._tell(places)

    async def _pass_on(self) -> None:
        for event in (self._stop.asked, self._stop.pressed):
            await event.wait()
            for child in list(self._living.values()):
                child.send(signal.SIGTERM)

    async def _lose_patience(self) -> None:
        await self._stop.asked.wait()
        await asyncio.sleep(self._patience)
        for number, child in self._living.items():
            _log.error("process_killed", process=number)
            child.send(signal.SIGKILL)


def _shell_code(code: int) -> int:
    return code if code >= 0 else 128 - code


async def supervise_configured(settings: Settings, course: Course) -> int:
    """Supervise children on configured servers; return the exit code."""
    await demand_schema(settings)

    async def tell(places: Sequence[Places]) -> None:
        await write_ready_file(course.ready_file, describe(settings, course.roles, *places))

    return await supervise(settings, course, {}, on_ready=tell)


async def supervise(
    settings: Settings, course: Course, environment: Mapping[str, str], *, on_ready: Tell, words: Sequence[str] = ()
) -> int:
    """Keep the children of `course` alive until SIGTERM or Ctrl-C; return the exit code. Main thread only.

    `environment` is added to ours, `words` to the command line of each child.
    """
    _check_ports(settings, course)
    stop = StopRequest()
    stop.listen(signal.SIGTERM, signal.SIGINT)

    async def start(number: int) -> Child:
        roles = course.roles if number == 0 else course.roles - {Role.API}
        options = ("--roles", ",".join(sorted(roles)), "--loop", course.loop, *words)

        def argv(report_to: int) -> Sequence[str]:
            own = ("--child", str(number), "--report-to", str(report_to))
            return (sys.executable, "-m", "dispatcher", "run", *own, *options)

        return await start_child(argv, {**os.environ, **environment})

    patience = settings.shutdown.drain_seconds + _END_SECONDS
    return await Crew(course.n_processes, start, on_ready, stop=stop, patience=patience).run()


def _check_ports(settings: Settings, course: Course) -> None:
    bind = settings.metrics.bind
    if bind.port + course.n_processes - 1 > 65_535:
        fault = f"DISPATCHER_METRICS__BIND: {course.n_processes} processes count up from port {bind.port}, beyond 65535"
        raise ConfigurationError([fault])


async def start_child(argv: Callable[[int], Sequence[str]], environment: Mapping[str, str]) -> Child:
    """Start one child whose words follow from the number of its pipe. Main thread only."""
    reading, writing = os.pipe()
    try:
        # SIGTERM, so that children of a killed parent finish what is under way.
        leash = children.Command(
            argv(writing),
            Path.cwd(),
            sys.stderr.fileno(),
            signal.SIGTERM,
            environment=environment,
            kept_files=(writing,),
        )
        process = children.spawn(leash)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    pipe = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(pipe), os.fdopen(reading, "rb", 0)
    )
    return Child(process, pipe)


def run_child(settings: Settings, course: Course, number: int, report_to: int, *, embedded: bool) -> None:
    """Run the daemon of one child until told to stop, and report to the parent when it is ready. Main thread only."""
    # It stays open until this process ends, and reaches nobody that this process starts.
    os.set_inheritable(report_to, False)
    own = _own_settings(settings, number, embedded=embedded)

    async def report(daemon: Daemon) -> None:
        place: dict[str, Any] = Place(daemon.api_url, daemon.metrics_url)._asdict()
        os.write(report_to, orjson.dumps(place, option=orjson.OPT_APPEND_NEWLINE))

    with asyncio.Runner(loop_factory=loop_factory(course.loop)) as runner:
        # The parent has looked at the schema once for all.
        runner.run(serve(own, course, on_ready=report, check_schema=False))


def _own_settings(settings: Settings, number: int, *, embedded: bool) -> Settings:
    """Return the settings of one child: a metrics port of its own, and the parent's servers known as embedded."""
    host, port = settings.metrics.bind
    bind = Bind(host, port + number if port else 0)
    sources = {**settings.sources, "KAFKA__BOOTSTRAP_SERVERS": "embedded"} if embedded else settings.sources
    metrics = settings.metrics.model_copy(update={"bind": bind})
    return settings.model_copy(update={"metrics": metrics, "sources": sources})
