"""Statements S3 and S3A on a real Postgres: who gets which waiting delivery, and who is never starved."""

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import asyncpg
import pytest

from dispatcher.ledger.claims import Burden, ClaimLedger
from dispatcher.ledger.connections import HOT, Link
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.batch import ClaimWish
from dispatcher.model.errors import Fenced, Unavailable
from dispatcher.model.ids import show_event_id
from tests.rooms.ledger_world import World, a_batch, an_event, open_ledger
from tests.support.faults import FaultProxy
from tests.support.servers import DatabaseServer


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


async def waiting_host(world: World, n: int, *, seconds_ago: float = 1.0, **host: Any) -> int:
    """Make a host with an endpoint for which `n` deliveries wait."""
    account, number = await world.account(), await world.host(**host)
    await world.waiting(account, await world.endpoint(account, host=number), n, seconds_ago=seconds_ago)
    return number


async def test_due_rows_are_taken_with_their_events_and_owned(world: World) -> None:
    host = await waiting_host(world, 3)
    process = await world.process()

    claimed = await process.claim()

    assert [(d.host_id, d.event_type, bool(d.body)) for d in claimed] == [(host, "verification.completed", True)] * 3
    assert await world.value("SELECT count(*) FROM delivery WHERE owner = $1", process.replica.replica_id) == 3
    assert {d.public_event_id for d in claimed} == {show_event_id(d.event_id) for d in claimed}
    assert process.replica.held == {d.delivery_id for d in claimed}
    assert await process.claim() == []


@pytest.mark.parametrize("edge", [dt.datetime.min.replace(tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)])
async def test_an_event_of_the_edge_of_the_calendar_is_taken_as_it_was_accepted(
    world: World, edge: dt.datetime
) -> None:
    # The driver writes both edges as infinities and reads those without a zone: no difference to now can be told.
    account, process = await world.account(), await world.process(delivers=False)
    await world.endpoint(account, host=await world.host())
    await process.accept(a_batch([an_event(account, occurred_at=edge)]))

    claimed = await process.claim()

    assert [delivery.occurred_at for delivery in claimed] == [edge]


async def test_rows_not_yet_due_held_or_owned_are_left(world: World) -> None:
    await waiting_host(world, 2, seconds_ago=-60)
    await waiting_host(world, 2)
    process = await world.process()
    await world.sql.execute("UPDATE delivery SET held = true WHERE due_at < now()")

    assert await process.claim() == []


async def test_tokens_are_charged_for_what_was_taken_and_then_run_out(world: World) -> None:
    host = await waiting_host(world, 50, rate=0.1, burst=10)
    process = await world.process()

    taken = [len(await process.claim()) for _ in range(6)]

    # Each claim leaves half of what there is to deliveries that come fresh.
    assert taken == [5, 3, 1, 1, 0, 0]
    assert await world.value("SELECT tat > now() + interval '80 seconds' FROM host WHERE host_id = $1", host)


async def test_two_replicas_never_take_the_same_row(world: World) -> None:
    for _ in range(5):
        await waiting_host(world, 40)
    processes = [await world.process() for _ in range(3)]

    taken: Counter[int] = Counter()
    for _ in range(4):
        for claimed in await asyncio.gather(*(p.claim(rows_per_host=7) for p in processes)):
            taken.update(d.delivery_id for d in claimed)

    assert max(taken.values()) == 1
    assert len(taken) >= 140


async def test_paused_and_full_hosts_are_left_alone(world: World) -> None:
    await waiting_host(world, 2, paused_seconds=60.0)
    full = await waiting_host(world, 2)
    open_host = await waiting_host(world, 2)
    process = await world.process()

    claimed = await process.claim(full_hosts=[full])

    assert {d.host_id for d in claimed} == {open_host}


async def crowd(world: World) -> set[int]:
    """Make 30 paused hosts whose rows are older, and 5 healthy ones behind them; return the healthy ones."""
    for _ in range(30):
        await waiting_host(world, 1, seconds_ago=5.0, paused_seconds=60.0)
    return {await waiting_host(world, 1, seconds_ago=1.0) for _ in range(5)}


async def test_many_paused_hosts_do_not_starve_healthy_ones(world: World) -> None:
    healthy = await crowd(world)
    process = await world.process()

    claimed = await process.claim(n_hosts=20)

    assert {d.host_id for d in claimed} == healthy


async def test_filtering_after_the_limit_would_starve_them(world: World) -> None:
    await crowd(world)
    process = await world.process()
    late = STATEMENTS["claim"]
    for early, instead in (
        (
            "SELECT host_id FROM host WHERE paused_until > now() UNION SELECT unnest($5::int[])",
            "SELECT unnest($5::int[]) AS host_id",
        ),
        ("WHERE h.paused_until <= now()\n          AND h.tat", "WHERE true OR h.tat"),
        (
            "AS n FROM lk)",
            "AS n FROM lk JOIN (SELECT host_id FROM host WHERE paused_until <= now()) o USING (host_id))",
        ),
        ("ORDER BY c.due_at, random()", "ORDER BY c.due_at"),
    ):
        assert early in late
        late = late.replace(early, instead)

    with patch.dict(STATEMENTS, {"claim": late}):
        claimed = await process.claim(n_hosts=20)

    assert claimed == []


async def test_rows_below_the_floor_come_by_the_backlog_list(world: World) -> None:
    old = await waiting_host(world, 2, seconds_ago=3_600)
    await waiting_host(world, 2, seconds_ago=1)
    process = await world.process()

    fresh = await process.claim()
    backlog = await process.claims.backlog()
    rest = await process.claim(backlog=backlog)

    assert old not in {d.host_id for d in fresh}
    assert [pair[0] for pair in backlog] == [old]
    assert {d.host_id for d in rest} == {old}


async def test_a_replica_that_was_taken_over_takes_nothing(world: World) -> None:
    await waiting_host(world, 2)
    process = await world.process()
    await world.sql.execute("DELETE FROM replica")

    with pytest.raises(Fenced):
        await process.claim()

    assert await world.value("SELECT count(*) FROM delivery WHERE owner IS NULL") == 2


async def test_a_claim_that_arrives_after_it_was_given_up_is_noticed_whenever_that_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await waiting_host(world, 2)
    server = urlsplit(world.url)
    assert server.port is not None
    async with FaultProxy.between("127.0.0.1", server.port) as proxy:
        process = await world.process()
        bad_link = Link(world.url.replace(f":{server.port}/", f":{proxy.port}/"), "claims")
        monkeypatch.setattr("dispatcher.ledger.connections._CLIENT_SECONDS", 0.5)
        claims = ClaimLedger(bad_link, process.replica)
        # Prepared once, it leaves in one piece.
        await claims.claim(ClaimWish(10, 10, full_hosts=[host]))
        proxy.upstream.stall()
        with pytest.raises(Unavailable):
            await claims.claim(ClaimWish(10, 10))
        looked_at_once = await process.claims.adopt()
        was_clear = not await process.claims.has_strays()

        proxy.heal()
        async with asyncio.timeout(10):
            while not await process.claims.has_strays():
                await asyncio.sleep(0.01)
        await bad_link.aclose()

    assert (looked_at_once, was_clear) == ([], True)
    assert len(await process.claims.adopt()) == 2
    assert not await process.claims.has_strays()


async def test_the_backlog_is_counted(world: World) -> None:
    await waiting_host(world, 3, seconds_ago=30)
    await waiting_host(world, 2, seconds_ago=-60)
    process = await world.process()

    backlog = await process.claims.count_backlog()

    assert (backlog.due, backlog.held) == (3, 0)
    assert 29 < backlog.oldest_due_seconds < 60


async def test_a_long_transaction_and_the_dead_rows_that_it_keeps_are_seen(world: World) -> None:
    await waiting_host(world, 3)
    process = await world.process()
    before = await process.claims.burden()
    reader = await asyncpg.connect(world.url)
    try:
        async with reader.transaction(isolation="repeatable_read"):
            await reader.execute("SELECT FROM delivery")
            await world.sql.execute("UPDATE delivery SET due_at = now()")
            await world.sql.execute("SELECT pg_stat_force_next_flush()")
            during = before
            while during <= Burden(2, 0.05):
                await asyncio.sleep(0.02)
                during = await process.claims.burden()
    finally:
        await reader.close()
    after = await process.claims.burden()

    assert before == Burden(0, 0.0)
    assert during.n_dead_rows == after.n_dead_rows == 3
    assert during.oldest_transaction_seconds > 0
    assert after.oldest_transaction_seconds == 0


async def test_claims_read_the_due_index_and_not_the_table(world: World) -> None:
    await waiting_host(world, 5_000, seconds_ago=-3_600)
    await waiting_host(world, 5)
    await world.sql.execute("ANALYZE delivery")
    process = await world.process()

    async with world.sql.transaction():
        # As on the link that claims.
        for name, value in HOT.items():
            await world.sql.execute(f"SET LOCAL {name} = {value}")
        plan = await world.rows(
            "EXPLAIN " + STATEMENTS["claim"], process.replica.replica_id, 10, 10, 10.0, [], [], [], [], 1 << 20
        )
    text = "\n".join(row[0] for row in plan)

    assert "delivery_due" in text
    assert "Seq Scan on delivery" not in text


async def test_endpoints_of_one_host_share_its_tokens_fairly(world: World) -> None:
    account, host = await world.account(), await world.host(rate=10.0, burst=40)
    crowded, quiet = await world.endpoint(account, host=host), await world.endpoint(account, host=host)
    await world.waiting(account, crowded, 200, seconds_ago=5.0)
    await world.waiting(account, quiet, 10, seconds_ago=1.0)
    process = await world.process()

    claimed = Counter(d.endpoint_id for d in await process.claim())

    assert claimed == {crowded: 10, quiet: 10}


async def test_paused_and_full_endpoints_are_left_alone_and_their_neighbours_are_not(world: World) -> None:
    account, host = await world.account(), await world.host()
    paused, full, well = [await world.endpoint(account, host=host) for _ in range(3)]
    for endpoint in (paused, full, well):
        await world.waiting(account, endpoint, 2)
    await world.sql.execute(
        "INSERT INTO endpoint_pace (endpoint_id, paused_until) VALUES ($1, now() + interval '1 h')", paused
    )
    process = await world.process()

    assert {d.endpoint_id for d in await process.claim(full_endpoints=[full])} == {well}
    assert {d.endpoint_id for d in await process.claim()} == {full}


async def test_an_endpoint_without_any_success_gives_one_row_at_a_time(world: World) -> None:
    account = await world.account()
    await world.waiting(account, await world.endpoint(account, verified_at=None), 5)
    process = await world.process()

    assert len(await process.claim()) == 1


async def test_a_backlog_of_one_endpoint_does_not_hide_its_neighbours(world: World) -> None:
    account, host = await world.account(), await world.host()
    first, old, last = [await world.endpoint(account, host=host) for _ in range(3)]
    await world.waiting(account, first, 1)
    await world.waiting(account, old, 2, seconds_ago=3_600)
    await world.waiting(account, last, 1)
    process = await world.process()

    claimed = await process.claim(backlog=[(host, old)])

    assert Counter(d.endpoint_id for d in claimed) == {first: 1, old: 2, last: 1}


async def test_what_comes_back_after_its_endpoint_moved_is_put_under_the_new_host(world: World) -> None:
    account, old, new = await world.account(), await world.host(), await world.host()
    moved, long_ago = [await world.endpoint(account, host=old) for _ in range(2)]
    await world.waiting(account, moved, 2)
    await world.waiting(account, long_ago, 1)
    await world.sql.execute("UPDATE endpoint SET host_id = $1, moved_at = now()", new)
    await world.sql.execute(
        "UPDATE endpoint SET moved_at = now() - interval '2 hours' WHERE endpoint_id = $1", long_ago
    )
    process = await world.process()
    claimed = await process.claim()
    await world.sql.execute("UPDATE delivery SET owner = NULL WHERE endpoint_id = $1", moved)

    await process.claims.move_waiting()

    hosts = await world.rows("SELECT DISTINCT endpoint_id, host_id FROM delivery ORDER BY endpoint_id")
    assert {d.host_id for d in claimed} == {old}
    assert [tuple(row) for row in hosts] == [(moved, new), (long_ago, old)]


async def test_a_claim_takes_no_more_bytes_than_asked_for_and_one_row_always(world: World) -> None:
    account, process = await world.account(), await world.process()
    for _ in range(4):
        await world.waiting(account, await world.endpoint(account), 10, body=b"x" * 99_000)

    one, some = await process.claim(most_bytes=1), await process.claim(most_bytes=650_000)

    assert (len(one), len(some)) == (1, 7)
    tokens = "SELECT count(*) FROM host WHERE tat > 'epoch'"
    assert await world.value(tokens) == len({delivery.host_id for delivery in (*one, *some)})
    assert len(await process.claim()) == 32


async def test_a_shortage_of_bytes_starves_no_host(world: World) -> None:
    account, process = await world.account(), await world.process()
    for _ in range(3):
        await world.waiting(account, await world.endpoint(account), 50, body=b"x" * 9_000)

    served = {(await process.claim(most_bytes=1))[0].host_id for _ in range(40)}

    assert len(served) == 3


async def test_rows_that_are_ours_without_our_knowing_are_found_bit_by_bit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.ledger.claims.ADOPTED_ROWS", 3)
    process = await world.process()
    await waiting_host(world, 9)
    known = {delivery.delivery_id for delivery in (await process.claim())[:2]}
    process.replica.held = set(known)

    found = [[d.delivery_id for d in await process.claims.adopt()] for _ in range(4)]

    assert [len(some) for some in found] == [3, 3, 1, 0]
    assert len({number for some in found for number in some} | known) == 9
