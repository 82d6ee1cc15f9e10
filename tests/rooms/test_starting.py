"""A process that starts while Postgres ends its sessions."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dispatcher.app import Daemon
from dispatcher.kit.stopping import StopRequest
from dispatcher.ledger.connections import Link
from dispatcher.ledger.replicas import Membership
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.settings import EVERY_ROLE, Role, load
from dispatcher.vault import Vault
from tests.rooms.ledger_world import World, open_ledger
from tests.support.servers import DatabaseServer

ROLES = EVERY_ROLE - {Role.INGEST}


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


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

    ring, stop = folder / "ring.json", StopRequest()
    if not ring.exists():
        Vault.create_file(ring)
    settings = load(
        {
            "DISPATCHER_DATABASE__URL": world.url,
            "DISPATCHER_SECRETS__KEY_FILE": str(ring),
            "DISPATCHER_HTTP__BIND": "127.0.0.1:0",
            "DISPATCHER_METRICS__BIND": "127.0.0.1:0",
        },
        roles=ROLES,
    )

    async def ready(_: Daemon) -> None:
        monkeypatch.setattr(Link, "_run", run)
        stop.asked.set()

    monkeypatch.setattr(Link, "_run", counted)
    async with asyncio.timeout(60):
        await Daemon(settings, roles=ROLES, stop=stop, on_ready=ready, n_dropped_lines=lambda: 0).run()
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
