"""Running daemons from the command line: what was asked for, signals, loop, ready file."""

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson
import structlog

from dispatcher.app import Daemon
from dispatcher.kit.stopping import StopRequest
from dispatcher.ledger.connections import patiently
from dispatcher.ledger.migrate import pending
from dispatcher.model.errors import DispatcherError
from dispatcher.settings import Role, Settings

_log = structlog.get_logger("daemon")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@dataclass(frozen=True, slots=True)
class Course:
    """How `run` was asked to run. `n_dropped_lines` tells how many log lines were lost so far."""

    roles: frozenset[Role]
    n_processes: int
    loop: str
    ready_file: Path | None
    n_dropped_lines: Callable[[], int]


def loop_factory(name: str) -> LoopFactory:
    """Return what makes the event loop; uvloop falls back to asyncio's own where it is not installed."""
    if name == "uvloop":
        try:
            import uvloop
        except ImportError:
            return asyncio.new_event_loop
        return uvloop.new_event_loop
    return asyncio.new_event_loop


def _tame_collector() -> None:
    """Let the garbage collector look at what is new, seldom, and never again at what start-up made.

    Deliveries on their way are tens of thousands of tuples without cycles; walking them with the default thresholds
    took a sixth of the lanes' time (15.3 to 12.6 microseconds per delivery).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


async def serve(
    settings: Settings,
    course: Course,
    *,
    on_ready: Callable[[Daemon], Awaitable[None]],
    check_schema: bool = True,
) -> None:
    """Run a daemon until SIGTERM or Ctrl-C. Raises DispatcherError when it cannot start or has to end."""
    _tame_collector()
    if settings.ignored:
        _log.warning(
            "variables_ignored", names=settings.ignored, hint="no settings; Kubernetes: enableServiceLinks: false"
        )
    stop = StopRequest()
    stop.listen(signal.SIGTERM, signal.SIGINT)
    if check_schema:
        await demand_schema(settings)
    daemon = Daemon(settings, roles=course.roles, stop=stop, on_ready=on_ready, n_dropped_lines=course.n_dropped_lines)
    await daemon.run()


async def demand_schema(settings: Settings) -> None:
    """Raise DispatcherError when the database lacks a migration, or is away for half a minute."""
    if missing := await patiently(lambda: pending(settings.database_url())):
        message = f"the database lacks {len(missing)} migrations; run `dispatcher migrate` first"
        raise DispatcherError(message)


class Places(Protocol):
    """Where a daemon listens."""

    @property
    def api_url(self) -> str | None:
        """Return the API's address, None where there is none."""
        ...

    @property
    def metrics_url(self) -> str:
        """Return the address of the metrics."""
        ...


def describe(settings: Settings, roles: Collection[Role], *daemons: Places, **more: Any) -> dict[str, Any]:
    """Return what the ready file says: where everything is. What is unknown or not there is null.

    `daemons` are all that run under this process, the one with the API first.
    """
    ingests = Role.INGEST in roles
    return {
        "api_url": daemons[0].api_url,
        "dashboard_url": None,
        "login_url": None,
        "metrics_url": daemons[0].metrics_url,
        "metrics_urls": [one.metrics_url for one in daemons],
        "kafka_bootstrap": settings.kafka.bootstrap_servers if ingests else None,
        "topics": list(settings.kafka.topics) if ingests else None,
        "database_url": settings.database.url if settings.database.password_file is None else None,
        "account_id": None,
        "api_keys": None,
        "pid": os.getpid(),
        **more,
    }


async def write_ready_file(path: Path | None, facts: dict[str, Any]) -> None:
    """Write the ready file whole or not at all, readable by us alone: it holds keys. None: nothing to do."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(orjson.dumps(facts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    partial.replace(path)
