"""The plans of statements that look at stored events: by index, whatever else the tables hold."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import datetime as dt
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from dispatcher.ledger.connections import HOT, LISTED
from dispatcher.ledger.statements import STATEMENTS
from tests.rooms.holding_world import Stage, open_stage
from tests.rooms.test_api_harness import ledger_template, ledger_url

N_EVENTS = 20_000
ONE = 1
# Each of an account's 2,000 events is looked up among the attempts of its days, at 9 pages at most; held deliveries
# that should not be are looked for among all. Without the index of an event's attempts it was 71,000 pages and more.
OF_ALL = {"replay_step", "count_wanted", "count_held", "release_strays"}
MOST_PAGES_OF_ALL, MOST_PAGES = 35_000, 2_000
LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
NEVER = dt.datetime(9000, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
async def stage(ledger_url: str) -> AsyncIterator[Stage]:
    async with open_stage(ledger_url) as made:
        await fill(made)
        yield made


async def fill(stage: Stage) -> None:
    """Store events of which every tenth is this account's, and for each a delivery or an attempt per endpoint."""
    await stage.endpoint()
    sql = stage.world.sql
    for _ in range(30):
        await stage.world.endpoint(await stage.world.account())
    await sql.execute(
        "INSERT INTO event (event_day, event_id, account_id, environment, event_type, occurred_at, ingested_at, body)"
        " SELECT (now() AT TIME ZONE 'UTC')::date - n % 3, decode(lpad(to_hex(n), 40, '0'), 'hex'),"
        " CASE WHEN n % 10 = 0 THEN $1 ELSE $1 + 1 + n % 30 END, 'live',"
        " 'verification.completed', now() - n * interval '1 second', now() - n * interval '1 second', '{}'"
        " FROM generate_series(1, $2) AS n",
        stage.tenant.account_id,
        N_EVENTS,
    )
    await sql.execute(
        "INSERT INTO delivery (event_day, event_id, account_id, environment, endpoint_id, host_id, held, attempts,"
        " due_at, created_at)"
        " SELECT event_day, event_id, account_id, environment, p.endpoint_id, p.host_id, seq % 3 = 0, seq % 2, now(),"
        " ingested_at FROM event JOIN endpoint p USING (account_id, environment) "
        " WHERE get_byte(event_id, 19) % 4 < 2"
    )
    await sql.execute(
        "INSERT INTO attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment,"
        " event_id, event_type, attempt_no, duration_ms, status, outcome, verdict, replica_id)"
        " SELECT ingested_at, 1000000 + seq, ingested_at, p.endpoint_id, account_id, environment, event_id, event_type,"
        " 1, 1, 200, 'delivered', 'delivered', 1 FROM event JOIN endpoint p USING (account_id, environment)"
        " WHERE get_byte(event_id, 19) % 4 >= 2"
    )
    await sql.execute(
        "INSERT INTO replay (public_id, account_id, environment, endpoint_id, kind, what, rate, n_expected, is_minimum,"
        " created_at, ready_at) VALUES ('rpl_1', $1, 'live', $2, 'drain', 'missing', 100, 0, false, now(), now())",
        stage.tenant.account_id,
        stage.number,
    )
    await sql.execute("ANALYZE")


def calls(stage: Stage) -> dict[str, list[Any]]:
    tenant = list(stage.tenant)
    return {
        "replay_step": [ONE, 1_000, 50, 8.0, 0, 0.5],
        "count_wanted": [stage.number, "all", None, None, None, 10_000],
        "count_held": [stage.number, 10_000],
        "release_held": [stage.number, 50],
        "hold_some": [stage.number, 50],
        "waiting_of_endpoint": [stage.number, 50, True],
        "release_strays": [100],
        "delivery_standing": [*tenant, 1_000_001],
        "resend": [*tenant, 1_000_001],
        "cancel_deliveries": [[1, 2, 3], *tenant],
        "wish_canceled": [*tenant, 1],
        "retry_now": [*tenant, 1],
        "count_due": [1, stage.number, 2_000],
        "list_deliveries": [
            *tenant,
            stage.number,
            ["pending"],
            ["delivered"],
            NEVER,
            0,
            LONG_AGO,
            26,
            None,
            None,
            None,
            26,
            100,
        ],
    }


async def plan_of(sql: asyncpg.Connection, name: str, arguments: list[Any]) -> str:
    transaction = sql.transaction()
    await transaction.start()
    try:
        rows = await sql.fetch("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF) " + STATEMENTS[name], *arguments)
    finally:
        await transaction.rollback()
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize("is_hot", [True, False], ids=["of the runner's link", "of the pool"])
async def test_nothing_reads_a_whole_table(stage: Stage, is_hot: bool) -> None:
    sql = stage.world.sql
    # As these connections are: left to itself the planner reads the table of a day that just began, small as it is.
    for name, value in (HOT if is_hot else LISTED).items():
        await sql.execute(f"SET {name} = {value}")

    of_the_link = {"replay_step", "release_held", "release_strays", "count_due"}
    wanted = {name: arguments for name, arguments in calls(stage).items() if is_hot or name not in of_the_link}

    plans = {name: await plan_of(sql, name, arguments) for name, arguments in wanted.items()}

    whole = {
        name: found
        for name, plan in plans.items()
        if (found := re.findall(r"Seq Scan on (?:event|attempt|delivery)(?:_\d+)? .*actual rows=[1-9].*", plan))
    }
    assert whole == {}
    # An index that finds the rows among all others of an endpoint or a tenant reads each of its pages, too.
    pages = {
        name: sum(map(int, re.findall(r"(?:hit|read)=(\d+)", plan.split("\n")[1]))) for name, plan in plans.items()
    }
    assert {name: n for name, n in pages.items() if n > (MOST_PAGES_OF_ALL if name in OF_ALL else MOST_PAGES)} == {}


async def test_a_step_looks_at_its_stretch_of_the_feed_only(stage: Stage) -> None:
    plan = await plan_of(stage.world.sql, "replay_step", calls(stage)["replay_step"])

    looked_at = [int(n) for n in re.findall(r"Scan .*on (?:event|delivery)\S*.*actual rows=(\d+)", plan)]
    assert 0 < max(looked_at) <= 1_000


async def test_a_range_of_time_looks_at_the_tables_of_its_days_only(stage: Stage) -> None:
    ((since, until),) = await stage.world.rows("SELECT now() - interval '1 hour', now()")
    arguments = [stage.number, "all", None, since, until, 10_000]

    plan = await plan_of(stage.world.sql, "count_wanted", arguments)

    tables = set(re.findall(r"Scan .*on event_(\d{8})(?!.*never executed)", plan))
    assert tables
    assert tables <= {f"{day:%Y%m%d}" for day in (since, until)}
