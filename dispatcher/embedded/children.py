"""Child servers on a leash: they never outlive the process that started them.

A child is started through this file run as a script, so that nothing of ours runs between fork and
exec. The script gives up root, asks the kernel to be signalled when its parent dies, looks whether
the parent died meanwhile, and becomes the server:

    us --fork/exec--> this file as a script --exec (same pid)--> server

A child has its own session: Ctrl-C in a terminal reaches us alone, and we stop it in our own order.

The kernel's death signal is tied to the *thread* that forked. `spawn` therefore insists on the main
thread; a worker thread that ends would take the server with it. Where there is no such signal (not
Linux) a child survives a SIGKILL of ours.
"""

import ctypes
import os
import pwd
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

_PR_SET_PDEATHSIG: Final = 1
_PARENT_IS_GONE: Final = 75
# Below Linux' and macOS' range for outgoing connections, so that a port which a server left for a
# restart is not taken by somebody's client meanwhile.
_PORTS: Final = range(20_000, 32_000)
_PORT_TRIES: Final = 200
_LOG_BYTES: Final = 1 << 20
_LAST_WORDS_BYTES: Final = 2000


@dataclass(frozen=True, slots=True)
class ServerUser:
    """An existing account of the machine that a server runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, in which folder, with its output going to the open file `log`.

    `user` None keeps ours. `environment` is all that the child gets. `kept_files` stay open in it,
    under the same numbers.
    """

    argv: Sequence[str]
    folder: Path
    log: int
    death_signal: signal.Signals
    user: ServerUser | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: int = subprocess.DEVNULL
    kept_files: tuple[int, ...] = ()


class _Leash(NamedTuple):
    parent: int
    death_signal: int
    uid: int
    gid: int


def spawn(command: Command) -> subprocess.Popen[bytes]:
    """Start a child with its output in `log`; the caller waits for it. Main thread only.

    The child's pid is the server's own. Raises RuntimeError on any other thread.
    """
    if threading.current_thread() is not threading.main_thread():
        message = "a child server must be started from the main thread: it would die with this one"
        raise RuntimeError(message)
    user = command.user
    owner = (user.uid, user.gid) if user else (-1, -1)
    leash = map(str, _Leash(os.getpid(), int(command.death_signal), *owner))
    return subprocess.Popen(  # noqa: S603 - no shell, and the words are ours
        [sys.executable, "-I", "-S", __file__, *leash, *command.argv],
        cwd=command.folder,
        env=dict(command.environment),
        stdin=command.stdin,
        stdout=command.log,
        stderr=command.log,
        pass_fds=command.kept_files,
        start_new_session=True,
    )


def unprivileged_user(*names: str) -> ServerUser | None:
    """Return the first account of `names` that exists when we are root, None when we are not root.

    Never creates one. Raises LookupError when root has none of them.
    """
    if os.geteuid() != 0:
        return None
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServerUser(name, entry.pw_uid, entry.pw_gid)
    raise LookupError(", ".join(names))


def free_port() -> int:
    """Return a loopback port that nobody listens on now; the caller must survive losing it.

    Outside the range of outgoing connections, unless that is all there is.
    """
    for port in random.sample(_PORTS, _PORT_TRIES):
        if _is_free(port):
            return port
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port), reuse_port=False).close()
    except OSError:
        return False
    return True


def stop(child: subprocess.Popen[bytes], steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Send each signal and wait its seconds until the child ends; kill one that outlives them all.

    Blocks. A child that has ended is left alone.
    """
    for sign, seconds in steps:
        child.send_signal(sign)
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        return
    child.kill()
    child.wait()


def open_log(path: Path) -> int:
    """Open a child's log for appending, mode 0600; the caller closes the descriptor.

    A file beyond 1 MiB is set aside first, as `NAME.1`.
    """
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_name(f"{path.name}.1"))
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def log_end(log: int) -> int:
    """Return where an open log ends now."""
    return os.fstat(log).st_size


def last_words(log: int, start: int = 0) -> str:
    """Return what a log holds from `start` on, at most its last 2,000 bytes, for a message."""
    begin = max(start, log_end(log) - _LAST_WORDS_BYTES)
    return os.pread(log, _LAST_WORDS_BYTES, begin).decode(errors="replace").strip()


def _become(leash: _Leash, argv: list[str]) -> None:
    # Opened while still allowed to: a binary that `uid` cannot reach runs through its descriptor.
    binary = os.open(argv[0], os.O_RDONLY)
    if leash.uid >= 0:
        os.setgroups([])
        os.setgid(leash.gid)
        os.setuid(leash.uid)
    # After the change of user, which clears it.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, leash.death_signal, 0, 0, 0)
    if os.getppid() != leash.parent:
        os._exit(_PARENT_IS_GONE)
    try:
        os.execv(argv[0], argv)  # noqa: S606
    except PermissionError:
        os.execve(binary, argv, os.environ)  # noqa: S606


if __name__ == "__main__":
    _become(_Leash(*map(int, sys.argv[1:5])), sys.argv[5:])
