"""How long a dead process's deliveries stay with it: until it is found out, and while they are moved."""

import asyncio
import random
import time
from pathlib import Path

import asyncpg

from tests.bench.hot_table import open_hot_table
from tests.bench.lab import Lab
from tests.chaos.processes import replica_of
from tests.support.daemon import Daemon

LEASE_SECONDS = 15
N_OWNED = 10_000
_AT_ONCE = 3
_WATCH_SECONDS = 0.05
_WARM_UP_SECONDS = LEASE_SECONDS + 2.0
"""A process judges others only when it has held its own lease for longer than one."""


async def moving(lab: Lab, n_waiting: int) -> float:
    """Return the seconds that a takeover of 10,000 rows takes in a hot table with `n_waiting` rows of others."""
    async with open_hot_table(lab) as table:
        hosts = await table.hosts(20)
        dead = await table.world.process()
        await table.wait_for(hosts, n_waiting // len(hosts), ago="-1 hour")
        await table.wait_for(hosts, N_OWNED // len(hosts), owner=dead.replica.replica_id)
        await table.world.sql.execute("ANALYZE delivery")
        await table.world.expire(dead)
        await table.process.members.heartbeat()
        table.process.replica._unbroken_since -= 3_600  # it has lived for an hour
        began = time.perf_counter()
        moved = await table.process.members.take_over()
        took = time.perf_counter() - began
        assert moved == (1, N_OWNED), moved
        return took


async def finding_out(lab: Lab, n_kills: int) -> list[float]:
    """Kill processes at random moments of their leases; return the seconds until each is taken over, ascending."""
    settings = lab.settings("none", LEASE__SECONDS=str(LEASE_SECONDS), LOG__LEVEL="info")
    survivor = _daemon(lab.folder, settings, "survivor")
    await survivor.start()
    await asyncio.sleep(_WARM_UP_SECONDS)
    found: list[float] = []
    try:
        while len(found) < n_kills:
            victims = [_daemon(lab.folder, settings, f"victim-{len(found)}-{n}") for n in range(_AT_ONCE)]
            found += await _killed(lab, victims)
        assert await survivor.stop() == 0
    finally:
        if survivor.is_running:
            await survivor.kill()
    return sorted(found)


def _daemon(folder: Path, settings: dict[str, str], name: str) -> Daemon:
    return Daemon(folder, settings, ("--roles", "deliver"), name=name)


async def _killed(lab: Lab, victims: list[Daemon]) -> list[float]:
    async with asyncio.TaskGroup() as group:
        for victim in victims:
            group.create_task(victim.start())
    deaths: dict[int, float] = {}
    for victim in victims:
        await asyncio.sleep(random.uniform(0.0, 2.0))
        await victim.kill()
        number = replica_of(victim.log.read_text())
        assert number is not None
        deaths[number] = time.monotonic()
    return await _gone(lab, deaths)


async def _gone(lab: Lab, deaths: dict[int, float]) -> list[float]:
    """Wait until the rows of all that died are removed; return how long each stood after the death."""
    found = []
    connection = await asyncpg.connect(lab.postgres.url)
    try:
        async with asyncio.timeout(LEASE_SECONDS * 4):
            while deaths:
                rows = await connection.fetch("SELECT replica_id FROM replica")
                living = {row["replica_id"] for row in rows}
                found += [time.monotonic() - deaths.pop(one) for one in list(deaths) if one not in living]
                await asyncio.sleep(_WATCH_SECONDS)
    finally:
        await connection.close()
    return found
