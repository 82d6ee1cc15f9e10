"""A hot table of any size, filled by SQL, and one replica on it: what the database's part of the work costs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from tests.bench.lab import Lab
from tests.rooms.ledger_world import Process, World, open_ledger
from tests.support.servers import DatabaseServer


class HotTable(NamedTuple):
    """A ledger of its own, one replica, one account with one stored event that all rows are of."""

    world: World
    process: Process
    account: str

    async def hosts(self, n: int, *, paused_seconds: float = -1.0) -> list[int]:
        """Make `n` hosts with one endpoint each, hardly limited; return their numbers."""
        made = []
        for _ in range(n):
            host = await self.world.host(paused_seconds=paused_seconds)
            await self.world.endpoint(self.account, host=host)
            made.append(host)
        return made

    async def wait_for(self, hosts: list[int], n_each: int, *, ago: str = "1 second", owner: int | None = None) -> None:
        """Insert `n_each` deliveries for each host, due since a moment up to `ago` before now; waiting or owned."""
        await self.world.sql.execute(
            "INSERT INTO delivery (event_day, event_id, account_id, environment, endpoint_id, host_id, owner, due_at)"
            " SELECT ev.event_day, ev.event_id, ev.account_id, 'live', e.endpoint_id, e.host_id, $4::bigint,"
            "        now() - random() * $3::text::interval"
            " FROM (SELECT * FROM event LIMIT 1) ev, endpoint e, generate_series(1, $2)"
            " WHERE e.host_id = ANY($1::int[])",
            hosts,
            n_each,
            ago,
            owner,
        )


@asynccontextmanager
async def open_hot_table(lab: Lab) -> AsyncIterator[HotTable]:
    """Give an empty one in a database of its own."""
    async with open_ledger(DatabaseServer(lab.postgres.url)) as world:
        account = await world.account()
        # The one event that every row is of.
        await world.waiting(account, await world.endpoint(account), 1)
        await world.sql.execute("DELETE FROM delivery")
        yield HotTable(world, await world.process(), account)
