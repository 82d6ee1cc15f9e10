"""A process that starts: while Postgres ends its sessions, beside others, and where it cannot."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dispatcher import app
from dispatcher.app import Daemon, Deliverer
from dispatcher.kit.stopping import StopRequest
from dispatcher.ledger.connections import Link
from dispatcher.ledger.replicas import Membership
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.endpoint import HostLimits
from dispatcher.model.errors import DispatcherError
from dispatcher.settings import EVERY_ROLE, Role, load
from dispatcher.vault import Vault
from tests.rooms.ledger_world import World, open_ledger
from tests.support.servers import DatabaseServer

ROLES = EVERY_ROLE - {Role.INGEST}


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


def a_daemon(
    world: World,
    folder: Path,
    stop: StopRequest,
    on_ready: Callable[[Daemon], Awaitable[None]],
    *,
    metrics_port: int = 0,
) -> Daemon:
    ring = folder / "ring.json"
    if not ring.exists():
        Vault.create_file(ring)
    settings = load(
        {
            "DISPATCHER_DATABASE__URL": world.url,
            "DISPATCHER_SECRETS__KEY_FILE": str(ring),
            "DISPATCHER_HTTP__BIND": "127.0.0.1:0",
            "DISPATCHER_METRICS__BIND": f"127.0.0.1:{metrics_port}",
        },
        roles=ROLES,
    )
    return Daemon(settings, roles=ROLES, stop=stop, on_ready=on_ready, n_dropped_lines=lambda: 0)


async def statements_of_a_start(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, before: Callable[[int], Awaitable[None]]
) -> int:
    """Start a process and stop it once it is ready; return how many statements came before. `before` hears of each."""
    run, n = Link._run, 0

    async def counted(link: Link, statement: str, work: Any) -> Any:
        nonlocal n
        n += 1
        number = n

        async def worked(connection: asyncpg.Connection) -> Any:
            # The link has looked whether it is still connected.
            await before(number)
            return await work(connection)

        return await run(link, statement, worked)

    stop = StopRequest()

    async def ready(_: Daemon) -> None:
        monkeypatch.setattr(Link, "_run", run)
        stop.asked.set()

    monkeypatch.setattr(Link, "_run", counted)
    async with asyncio.timeout(60):
        await a_daemon(world, folder, stop, ready).run()
    return n


async def test_a_start_goes_on_whatever_step_its_sessions_are_ended_at(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end_nothing(_: int) -> None:
        """Let the statement pass."""

    n_reached = 0
    for step in range(1, await statements_of_a_start(world, tmp_path, monkeypatch, end_nothing) + 1):

        async def end_sessions(n: int, step: int = step) -> None:
            if n == step:
                await world.sql.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )

        # What a process does before it says that it is ready differs by a statement or two.
        n_reached += await statements_of_a_start(world, tmp_path, monkeypatch, end_sessions) >= step
    assert n_reached >= 5


async def test_a_start_that_finds_another_at_the_tables_of_days_registers_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = "728113001"
    assert turn in STATEMENTS["make_days"]
    await world.sql.execute(f"SELECT pg_advisory_lock({turn})")
    n_replicas, tries = 0, 0

    async def count(_: int) -> None:
        nonlocal n_replicas
        n_replicas = max(n_replicas, await world.value("SELECT count(*) FROM replica"))

    make = Membership.make_days

    async def make_days(members: Membership) -> Any:
        nonlocal tries
        tries += 1
        if tries == 3:
            await world.sql.execute(f"SELECT pg_advisory_unlock({turn})")
        return await make(members)

    monkeypatch.setattr(Membership, "make_days", make_days)
    await statements_of_a_start(world, tmp_path, monkeypatch, count)

    assert tries >= 3
    assert n_replicas == 1


async def test_a_start_that_cannot_listen_leaves_no_replica_behind(world: World, tmp_path: Path) -> None:
    # Others would share hosts' caps with it for as long as a lease is.
    async def never(_: Daemon) -> None:
        raise AssertionError

    with socket.create_server(("127.0.0.1", 0)) as taken:
        daemon = a_daemon(world, tmp_path, StopRequest(), never, metrics_port=taken.getsockname()[1])
        with pytest.raises(DispatcherError, match=r"cannot listen on 127\.0\.0\.1:0 and 127"):
            await daemon.run()

    assert await world.value("SELECT count(*) FROM replica") == 0


async def test_limits_that_the_keeper_hears_of_hold_in_a_lane_that_is_opened_later(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, heard = HostLimits(2.0, 1, 1), {}

    class Middle(Deliverer):
        """A deliverer whose keeper hears of new limits at once, and that tells what lanes are opened with."""

        def __init__(self, *parts: Any) -> None:
            super().__init__(*parts)
            self.keeper._on_limits(7, limits)
            heard["limits"] = self.directory.limits_of(7)

    stop = StopRequest()

    async def ready(_: Daemon) -> None:
        stop.asked.set()

    monkeypatch.setattr(app, "Deliverer", Middle)
    await a_daemon(world, tmp_path, stop, ready).run()

    assert heard == {"limits": limits}
