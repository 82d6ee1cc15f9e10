"""Log set-up: one JSON object per line on standard error, secrets struck out, never in the way of the loop.

Event names are static snake_case, noun and past participle; ids are fields. Lines are written by a thread from a
bounded queue: a pipe that nobody reads costs log lines, which are counted, and not deliveries.
"""

import logging
import queue
import re
import sys
import threading
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any, BinaryIO, Final

import orjson
import structlog

from dispatcher.kit import clock

_QUEUE: Final = 10_000
_SECRETS: Final = re.compile(
    r"whsec_[A-Za-z0-9+/=]{8,}|whd_(?:live|test|op)_[A-Za-z0-9_]{12,}|(?<=://)[^/\s?#]*(?=@)|(?i:bearer\s+)\S+"
)
_QUERY: Final = re.compile(r"(\w+://[^\s?\"']+)\?[^\s\"']*")
_LIMITED: Final = ("aiokafka", "asyncpg", "asyncio")
_LIMIT_SECONDS: Final = 10.0
_REPEATED: Final = frozenset(
    {
        "claim_failed",
        "dead_letter_copies_dropped",
        "dead_letter_copy_failed",
        "directory_stale",
        "directory_unavailable",
        "duty_failed",
        "hosts_unavailable",
        "intake_waits",
        "postgres_awaited",
        "replay_refused",
        "replays_unavailable",
        "settle_failed",
        "tokens_unavailable",
    }
)
"""Lines of loops that go on while Postgres or Kafka is away: each would come round with every turn."""
_MOST_FRAMES: Final = 20


class LineWriter:
    """Writes lines from a thread; drops and counts them when the reader is gone or slow."""

    def __init__(self, stream: BinaryIO) -> None:
        self.dropped = 0
        self._stream = stream
        self._lines: queue.Queue[bytes | None] = queue.Queue(_QUEUE)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Take one line; never waits."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    def flush(self, seconds: float = 2.0) -> None:
        """Write what was taken so far and end; waits at most `seconds`."""
        try:
            self._lines.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line)
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                self.dropped += 1


class _Limit:
    """Lets the same thing be said once per ten seconds."""

    def __init__(self) -> None:
        self._last: dict[object, float] = {}

    def passes(self, what: object) -> bool:
        now = clock.mono()
        if now - self._last.get(what, -_LIMIT_SECONDS) < _LIMIT_SECONDS:
            return False
        if len(self._last) > 1_000:
            self._last.clear()
        self._last[what] = now
        return True


class _RateLimited(logging.Filter):
    """Limits libraries: some say the same thing fifty times per second."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = _Limit()

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.name.startswith(_LIMITED) or self._limit.passes((record.name, record.msg))


def _once_per_cause() -> Callable[[object, str, MutableMapping[str, Any]], MutableMapping[str, Any]]:
    """Return a step that lets one line per cause through, whoever of those that wait for it says it first."""
    limit = _Limit()

    def step(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        reason = str(line.get("reason"))
        # Before the colon stands which statement met the fault; they all meet the same one.
        if line["event"] in _REPEATED and not limit.passes(reason.partition(": ")[2] or reason):
            raise structlog.DropEvent
        return line

    return step


def strike_secrets(text: str) -> str:
    """Return the text without signing secrets, API keys, what stands before the @ of a URL, and URL queries."""
    return _QUERY.sub(r"\1?…", _SECRETS.sub("…", text))


def _redact(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in line.items():
        line[name] = _struck(value)
    return line


def _struck(value: Any) -> Any:
    if isinstance(value, str):
        return strike_secrets(value) if len(value) > 8 else value
    if isinstance(value, list | tuple | set | frozenset):
        return [_struck(part) for part in value]
    if isinstance(value, dict):
        return {str(name): _struck(part) for name, part in value.items()}
    # Others are written as their repr, which is to be struck, too.
    return value if value is None or isinstance(value, bool | int | float) else strike_secrets(repr(value))


def _tell_exception(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Name an exception's class and the frames it came through; its message and the locals can hold values."""
    given = line.pop("exc_info", None)
    fault = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(fault, BaseException):
        frames = traceback.extract_tb(fault.__traceback__)[-_MOST_FRAMES:]
        line["error_type"] = type(fault).__name__
        line["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return line


def set_up_logs(level: str, form: str, *, stream: BinaryIO | None = None) -> LineWriter:
    """Configure structlog and the standard library's logging; return the writer, to be flushed at the end.

    `form` is json, console or auto (console when standard error is a terminal).
    """
    writer = LineWriter(stream or sys.stderr.buffer)
    is_console = form == "console" or (form == "auto" and stream is None and sys.stderr.isatty())
    shared: list[Any] = [
        _once_per_cause(),
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _tell_exception,
        _redact,
    ]
    rendering: list[Any]
    if is_console:
        rendering = [structlog.dev.ConsoleRenderer(colors=True), lambda _, __, text: text.encode() + b"\n"]
    else:
        rendering = [structlog.processors.JSONRenderer(_json), lambda _, __, line: line + b"\n"]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *names: _Logger(writer, names),
        cache_logger_on_first_use=False,
    )
    _take_over_standard_logging(number)
    return writer


def _json(line: Any, **_: Any) -> bytes:
    return orjson.dumps(line, default=repr)


class _Logger:
    """Hands rendered lines to the writer."""

    def __init__(self, writer: LineWriter, _: tuple[Any, ...]) -> None:
        self.msg = writer.write
        self.debug = self.info = self.warning = self.error = self.critical = self.exception = self.msg


class _Standard(logging.Handler):
    """Sends what libraries log through the same pipeline."""

    def emit(self, record: logging.LogRecord) -> None:
        is_error, is_warning = record.levelno >= logging.ERROR, record.levelno >= logging.WARNING
        structlog.get_logger().log(
            logging.ERROR if is_error else logging.WARNING if is_warning else logging.INFO,
            "library_reported",
            logger=record.name,
            # The first line alone: asyncio appends the exception's repr, and that can quote values and URLs.
            message=record.getMessage().partition("\n")[0][:2_000],
            exc_info=record.exc_info,
        )


def _take_over_standard_logging(level: int) -> None:
    handler = _Standard()
    handler.addFilter(_RateLimited())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
