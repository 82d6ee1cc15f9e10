"""Choosing partitions while a statement runs that looks at a row twice, since somebody changed it meanwhile.

PostgreSQL 18 builds all CTEs and sub-plans anew to look at such a row, lets the new ones overwrite what the old ones
choose partitions by, and frees it when the lock's part of the plan is done. What the old ones choose from then on is
chance: often right, sometimes another partition, sometimes the end of the server and of everybody's sessions.
"""

import asyncio
import datetime as dt
import re
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import asyncpg
import pytest

from dispatcher.kit import clock
from dispatcher.kit.supervise import spawn
from dispatcher.ledger.connections import HOT
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.batch import Batch, PlacedEvent
from tests.rooms.function_texts import FUNCTIONS, text_in
from tests.rooms.ledger_world import Process, World, a_batch, an_event, open_ledger
from tests.support.servers import DatabaseServer

T = TypeVar("T")

# Its locks come before it, in statements of their own: no row of it can have changed since its snapshot.
LOCKED_BEFORE = ["replay_step"]


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


async def looking_twice(world: World, process: Process, work: Awaitable[T]) -> T:
    """Let the work wait for its replica's row, and find it changed."""
    async with world.sql.transaction():
        await world.sql.execute("SELECT FROM replica WHERE replica_id = $1 FOR UPDATE", process.replica.replica_id)
        waiting = spawn(_awaited(work), name="work")
        await world.until_blocked(1)
        await world.sql.execute("UPDATE replica SET lease_until = lease_until + interval '1 s'")
    async with asyncio.timeout(20):
        return await waiting


async def _awaited(work: Awaitable[T]) -> T:
    return await work


async def test_a_claim_that_looks_twice_finds_the_events_of_every_day(world: World) -> None:
    process, account = await world.process(), await world.account()
    for round_ in range(5):
        waiting = {await waiting_since(world, account, days) for days in range(5)}

        claimed = await looking_twice(world, process, process.claim())

        assert {delivery.body for delivery in claimed} == waiting, round_


async def waiting_since(world: World, account: str, days: int) -> bytes:
    """Let a delivery of an event of some days ago wait; return the event's body."""
    event, day = an_event(account), clock.utcnow().date() - dt.timedelta(days=days)
    endpoint = await world.endpoint(account)
    await world.sql.execute(
        "INSERT INTO event (event_day, event_id, account_id, environment, event_type, occurred_at, body)"
        " SELECT $1, $2, account_id, 'live', 'verification.completed', now(), $3 FROM account WHERE public_id = $4",
        day,
        event.event_id,
        event.body,
        account,
    )
    await world.sql.execute(
        "INSERT INTO delivery (event_day, event_id, account_id, environment, endpoint_id, host_id, due_at)"
        " SELECT $1, $2, account_id, 'live', endpoint_id, host_id, now() FROM endpoint WHERE endpoint_id = $3",
        day,
        event.event_id,
        endpoint,
    )
    return event.body


async def test_an_accept_that_looks_twice_ends_no_server(world: World) -> None:
    # What was freed has to be used again before the crash: by the sixth full batch it was.
    process, account = await world.process(), await world.account()
    for _ in range(3):
        await world.endpoint(account)
    for round_ in range(8):
        batch = a_batch([an_event(account, body=b"x" * 900) for _ in range(500)], start=500 * round_)

        accepted = await looking_twice(world, process, process.accept(batch))

        assert (accepted.n_events, len(accepted.fresh)) == (500, 1_500)


async def test_an_accept_that_looks_twice_knows_the_events_of_the_days_beside(world: World) -> None:
    process, account = await world.process(), await world.account()
    events = [an_event(account) for _ in range(20)]
    await process.accept(a_batch(events))

    for round_ in range(5):
        again = put_off(a_batch(events, start=20 * (round_ + 1)), days=1 if round_ % 2 else -1)
        accepted = await looking_twice(world, process, process.accept(again))

        assert (accepted.n_events, accepted.n_duplicates) == (0, 20), round_


def put_off(batch: Batch, *, days: int) -> Batch:
    def moved(placed: PlacedEvent) -> PlacedEvent:
        return placed._replace(event_day=placed.event_day + dt.timedelta(days=days))

    return batch._replace(events=tuple(map(moved, batch.events)))


async def test_no_statement_that_locks_rows_chooses_partitions_where_they_are_built_anew(world: World) -> None:
    await world.process()
    for name, value in HOT.items():
        await world.sql.execute(f"SET {name} = {value}")
    plans = await plans_of_all(world.sql)

    assert [name for name, plan in plans.items() if is_endangered(plan)] == LOCKED_BEFORE


@pytest.mark.parametrize(
    "name",
    [
        "accept",
        "conflicting_events",
        "owned",
        "cancel_deliveries",
        "events_at",
        "find_event",
        "whole_attempt",
        "resend",
        "open_delivery",
        "open_deliveries",
        "deliveries_of_events",
    ],
)
async def test_an_event_is_looked_up_by_its_key_in_tables_without_statistics(world: World, name: str) -> None:
    # As at the beginning of a day. The feed's index looks as good there, and has the whole day of an account.
    await world.process()
    for setting, value in HOT.items():
        await world.sql.execute(f"SET {setting} = {value}")
    text = await text_in(world.sql, name) if name in FUNCTIONS else STATEMENTS[name]

    plan = "\n".join(await explained(world.sql, text))

    assert "_pkey on event_" in plan
    assert "_account_id_environment_xid_seq_idx" not in plan


async def explained(sql: asyncpg.Connection, statement: str) -> list[str]:
    # EXPLAIN takes a statement without its parameters' values by the simple protocol alone, which gives no rows here.
    await sql.execute(
        "CREATE OR REPLACE FUNCTION pg_temp.explained(statement text) RETURNS SETOF text LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN (GENERIC_PLAN) ' || statement; END $$"
    )
    return [row[0] for row in await sql.fetch("SELECT * FROM pg_temp.explained($1)", statement)]


@pytest.mark.parametrize(
    ("statement", "is_so"),
    [
        ("WITH r AS (SELECT FROM replica FOR UPDATE), {cte} SELECT FROM r, e", True),
        ("WITH r AS (UPDATE replica SET flush_seq = 1 RETURNING 1), {cte} SELECT FROM r, e", True),
        ("{look} JOIN replica ON true FOR UPDATE OF replica", True),
        ("WITH {cte} SELECT FROM e", False),
        ("WITH r AS MATERIALIZED (SELECT FROM replica FOR UPDATE) {look}, r", False),
        ("WITH r AS (SELECT FROM replica FOR UPDATE) SELECT FROM r, (SELECT FROM event WHERE event_day = $1) e", False),
    ],
)
async def test_the_danger_is_seen_in_a_plan(world: World, statement: str, is_so: bool) -> None:
    await world.process()
    event = "SELECT FROM event v WHERE v.event_day = a.created_at::date OFFSET 0"
    look = f"SELECT FROM account a CROSS JOIN LATERAL ({event}) v"
    text = statement.format(look=look, cte=f"e AS MATERIALIZED ({look})")

    assert is_endangered(await plan_of(world.sql, text)) is is_so


def is_endangered(plan: str) -> bool:
    """Tell whether a plan looks at changed rows twice, and chooses partitions where they are built anew for it."""
    main, _, subplans = plan.partition(":subplans ")
    main, _, choices = main.partition(":partPruneInfos ")
    in_main, in_sub = looks_twice(main), looks_twice(subplans)
    while_running = {
        n for n, choice in enumerate(choices.split("{PARTITIONPRUNEINFO ")[1:]) if ":exec_pruning_steps (" in choice
    }

    def chooses(part: str) -> bool:
        return bool(while_running & {int(n) for n in re.findall(r":part_prune_index (\d+)", part)})

    return (chooses(subplans) and (in_main or in_sub)) or (chooses(main) and in_main)


def looks_twice(part: str) -> bool:
    # The numbers of UPDATE, DELETE and MERGE in the server's CmdType.
    return "{LOCKROWS " in part or any(f":operation {number} " in part for number in (2, 4, 5))


async def plans_of_all(sql: asyncpg.Connection) -> dict[str, str]:
    return {name: await plan_of(sql, text) for name, text in sorted(STATEMENTS.items())}


async def plan_of(sql: asyncpg.Connection, statement: str) -> str:
    """Return the plan as the server prints its nodes, which tells more than EXPLAIN."""
    told: list[Any] = []

    def listen(_: object, message: Any) -> None:
        told.append(message)

    sql.add_log_listener(listen)
    async with sql.transaction():
        await sql.execute("SET LOCAL client_min_messages = log; SET LOCAL debug_print_plan = on")
        await sql.execute("SET LOCAL debug_pretty_print = off")
        await sql.execute(f"EXPLAIN (GENERIC_PLAN) {statement}")
    sql.remove_log_listener(listen)
    return " ".join(word for message in told if message.message == "plan:" for word in message.detail.split())
