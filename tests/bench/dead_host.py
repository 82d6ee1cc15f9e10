"""What a host with a million due rows costs the claims of all others."""

import time
from dataclasses import dataclass

from dispatcher.model.batch import ClaimWish
from tests.bench.hot_table import HotTable, open_hot_table
from tests.bench.lab import Lab

N_OTHERS = 200
_ROUNDS = 40
_WISH = ClaimWish(50, 40)
"""As the due-reader claims."""


@dataclass(frozen=True)
class Claims:
    """Milliseconds of each claim, ascending, and of each look for backlogs; the rows that a claim took on average."""

    claims: list[float]
    backlogs: list[float]
    rows_each: float


async def dead_host(lab: Lab, n_rows: int) -> dict[str, Claims]:
    """Claim rows of 200 hosts beside nothing, beside a paused host's `n_rows`, and beside the same out of tokens."""
    found = {}
    async with open_hot_table(lab) as table:
        others = await table.hosts(N_OTHERS)
        (dead,) = await table.hosts(1)
        sql = table.world.sql
        found["nothing else"] = await _claims(table, others)
        await table.wait_for([dead], n_rows, ago="6 hours")
        await sql.execute("ANALYZE delivery")
        await sql.execute("UPDATE host SET paused_until = now() + interval '1 day' WHERE host_id = $1", dead)
        found["paused"] = await _claims(table, others)
        await sql.execute(
            "UPDATE host SET paused_until = 'epoch', tat = now() + interval '1 day' WHERE host_id = $1", dead
        )
        found["out of tokens"] = await _claims(table, others)
    return found


async def _claims(table: HotTable, others: list[int]) -> Claims:
    """Let one row come due for each host, claim until all are taken, again and again."""
    claims, backlogs, taken = [], [], 0
    await table.process.claim()
    for _ in range(_ROUNDS):
        await table.wait_for(others, 1, ago="0.1 second")
        began = time.perf_counter()
        backlog = await table.process.claims.backlog()
        backlogs.append((time.perf_counter() - began) * 1e3)
        left = len(others)
        while left > 0:
            began = time.perf_counter()
            rows = await table.process.claims.claim(_WISH._replace(backlog=backlog))
            claims.append((time.perf_counter() - began) * 1e3)
            left -= len(rows)
            taken += len(rows)
    await table.world.sql.execute("DELETE FROM delivery WHERE owner IS NOT NULL")
    return Claims(sorted(claims), sorted(backlogs), taken / len(claims))
