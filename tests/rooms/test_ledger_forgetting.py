"""What is old is deleted in batches, on a real Postgres."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from dispatcher.kit.supervise import spawn
from dispatcher.ledger import forgetting as forgetting_module
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.endpoints import EndpointLedger
from dispatcher.ledger.forgetting import FIRST_DELETED, Deleted, Forgetting, Old
from dispatcher.ledger.retention import Daily
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.endpoint import HostLimits
from dispatcher.telemetry.metrics import Metrics
from dispatcher.upkeep import Books, Upkeep
from tests.rooms.ledger_world import Process, World, open_ledger
from tests.support.servers import DatabaseServer

NOTHING: Mapping[Daily, int] = {}


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


async def bury(world: World, n: int, *, n_bytes: int = 1) -> None:
    """Make dead events of three weeks ago, a second between them."""
    await world.sql.execute("ALTER TABLE dead_event ALTER sealed_value SET STORAGE EXTERNAL")
    await world.sql.execute(
        "INSERT INTO dead_event (log_id, topic, part, off, reason, detail, headers, sealed_value, seen_at)"
        " SELECT 'log', 'topic', 0, n, 'not_json', '', '[]', convert_to(repeat('x', $2), 'UTF8'),"
        " now() - interval '21 days' + n * interval '1 second' FROM generate_series(1, $1::int) n",
        n,
        n_bytes,
    )


def an_upkeep(process: Process, keep_days: Mapping[Daily, int] = NOTHING) -> Upkeep:
    control = process.links["control"]
    books = Books.of(process.members, process.claims, control, control._url)
    metrics = Metrics(CollectorRegistry(), [])
    kept = {Daily.ATTEMPT: 90, **keep_days}
    return Upkeep(process.replica, books, metrics, keep_days=kept, on_announced=lambda _: None)


async def test_what_may_not_be_kept_longer_is_forgotten(world: World) -> None:
    process = await world.process()
    await world.sql.execute(
        "INSERT INTO dead_event (log_id, topic, part, off, reason, detail, headers, seen_at)"
        " SELECT 'log', 'topic', 0, n, 'not_json', '', '[]', now() - n * interval '1 day'"
        " FROM generate_series(12, 16) n"
    )
    await world.sql.execute(
        "INSERT INTO idempotency_key"
        " (account_id, environment, idempotency_key, request_sha256, status, response, created_at)"
        " SELECT 1, 'live', n::text, '', 201, '', now() - n * interval '1 hour' FROM generate_series(22, 26) n"
    )
    await world.sql.execute(
        "INSERT INTO audit_log (at, actor, request_id, action, thing, facts)"
        " SELECT now() - n * interval '1 day', 'key', 'req', 'endpoint.created', n::text, '{}'"
        " FROM unnest('{364, 366}'::int[]) n"
    )
    await world.sql.execute(
        "INSERT INTO api_key (key_id, secret_sha256, scopes, revoked_at, expires_at)"
        " SELECT row_number() OVER (), sha256(''), '{}', now() - r * interval '1 day', now() - e * interval '1 day'"
        " FROM unnest('{367, 365, NULL, NULL, NULL, 367, 365}'::int[], '{NULL, NULL, 367, 365, NULL, 1, 367}'::int[])"
        " AS ends(r, e)"
    )

    forgetting = Forgetting(process.links["control"])
    done = [await forgetting.forget(old) for old in Old]

    assert done == [3, 1, 0, 3, 0, 0, 4]
    assert await world.value("SELECT array_agg(thing) FROM audit_log") == ["364"]
    assert await world.value("SELECT array_agg(off ORDER BY off) FROM dead_event") == [12, 13]
    assert await world.value("SELECT count(*) FROM idempotency_key") == 2
    assert await world.value("SELECT array_agg(key_id ORDER BY key_id) FROM api_key") == ["2", "4", "5"]


async def test_events_of_tests_are_kept_as_long_as_events(world: World) -> None:
    process = await world.process()
    await world.sql.execute(
        "INSERT INTO trial_event (event_id, account_id, environment, body, created_at)"
        " SELECT decode(lpad(n::text, 32, '0'), 'hex'), n, 'live', '',"
        " ((now() AT TIME ZONE 'UTC')::date - n)::timestamp AT TIME ZONE 'UTC' FROM generate_series(1, 5) n"
    )

    done = [await Forgetting(process.links["control"]).forget_trial_events(3) for _ in range(2)]

    assert done == [2, 0]
    assert await world.value("SELECT array_agg(account_id ORDER BY account_id) FROM trial_event") == [1, 2, 3]


async def test_upkeep_forgets_the_events_of_tests_by_the_retention_of_events(world: World) -> None:
    process = await world.process()
    await world.sql.execute(
        "INSERT INTO trial_event (event_id, account_id, environment, body, created_at)"
        " VALUES (decode(repeat('00', 16), 'hex'), 1, 'live', '', now() - interval '9 days')"
    )

    forgetting = spawn(an_upkeep(process, {Daily.EVENT: 7}).forget(), name="forgetting")
    async with asyncio.timeout(20):
        while await world.value("SELECT count(*) FROM trial_event"):
            await asyncio.sleep(0.01)
    forgetting.cancel()


async def test_no_batch_is_longer_than_a_thousand_rows(world: World) -> None:
    forgetting = Forgetting((await world.process()).links["control"])
    await bury(world, 1_001)

    assert [await forgetting.forget(Old.DEAD_EVENTS) for _ in range(3)] == [1_000, 1, 0]


async def test_large_dead_events_go_a_few_at_a_time_the_oldest_first(world: World) -> None:
    forgetting = Forgetting((await world.process()).links["control"])
    await bury(world, 5, n_bytes=5_000_000)

    first = await forgetting.forget(Old.DEAD_EVENTS)
    left = await world.value("SELECT array_agg(off ORDER BY off) FROM dead_event")

    assert (first, left) == (2, [3, 4, 5])
    assert [await forgetting.forget(Old.DEAD_EVENTS) for _ in range(3)] == [2, 1, 0]


async def test_two_replicas_never_wait_for_each_other(world: World) -> None:
    forgetting = Forgetting((await world.process()).links["control"])
    await bury(world, 3)

    async with world.sql.transaction():
        await world.sql.execute("SELECT FROM dead_event WHERE off = 1 FOR UPDATE")
        assert await forgetting.forget(Old.DEAD_EVENTS) == 2


async def test_what_cannot_be_forgotten_holds_up_nothing_else(world: World) -> None:
    process = await world.process()
    link = process.links["control"]
    assert link._connection is not None
    await link._connection.execute("SET lock_timeout = '50ms'")
    await bury(world, 1_001)
    lock = await asyncpg.connect(world.url)

    async with lock.transaction():
        await lock.execute("LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE")
        forgetting = spawn(an_upkeep(process).forget(), name="forgetting")
        while await world.value("SELECT count(*) FROM dead_event"):
            await asyncio.sleep(0.01)
        forgetting.cancel()

    await lock.close()


IDLE = {"changed_at": "now() - interval '25 hours'"}
REMEMBERED = [
    {"has_own_limits": "true"},
    {"scale": "0.5"},
    {"tat": "now() + interval '1 minute'"},
    {"paused_until": "now() + interval '1 minute'"},
    {"paused_until": "now() - interval '50 minutes'"},
    {"changed_at": "now() - interval '23 hours'"},
]


async def a_host(world: World, **columns: str) -> int:
    """Make a host that is idle but for what is said."""
    number = await world.host(paused_seconds=-7_200.0)
    settings = ", ".join(f"{name} = {value}" for name, value in (IDLE | columns).items())
    await world.sql.execute(f"UPDATE host SET {settings} WHERE host_id = $1", number)
    return number


async def hosts(world: World) -> set[int]:
    return {row["host_id"] for row in await world.rows("SELECT host_id FROM host")}


async def forget_all_hosts(forgetting: Forgetting) -> None:
    last: int | None = 0
    while last is not None:
        last = await forgetting.forget_hosts(last)


async def test_a_host_that_nothing_has_is_forgotten_and_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting_module, "HOSTS_AT_ONCE", 2)
    process = await world.process()
    account = await world.account()
    remembered = {await a_host(world, **columns) for columns in REMEMBERED}
    has_endpoint = {await a_host(world) for _ in range(2)}
    for host, status in zip(has_endpoint, ("enabled", "deleted"), strict=True):
        await world.endpoint(account, host=host, status=status)
    has_delivery = [await a_host(world) for _ in range(3)]
    for host, change in zip(has_delivery, ("due_at = now()", "held = true", "owner = 1"), strict=True):
        endpoint = await world.endpoint(account, host=host)
        await world.waiting(account, endpoint, 1)
        await world.sql.execute(f"UPDATE delivery SET {change} WHERE host_id = $1", host)
        # It moved, and this delivery has not followed yet.
        await world.sql.execute("UPDATE endpoint SET host_id = $2 WHERE endpoint_id = $1", endpoint, min(has_endpoint))
    idle = {await a_host(world) for _ in range(3)}

    await forget_all_hosts(Forgetting(process.links["control"]))

    assert await hosts(world) == remembered | has_endpoint | set(has_delivery)
    assert not idle & await hosts(world)


async def test_a_host_that_an_endpoint_comes_to_is_not_forgotten(world: World) -> None:
    process = await world.process()
    account = await world.account()
    host = await a_host(world)

    async with world.sql.transaction():
        authority = await world.value("SELECT authority FROM host")
        await world.sql.execute(STATEMENTS["hold_host"], authority)
        await forget_all_hosts(Forgetting(process.links["control"]))
        await world.endpoint(account, host=host)

    assert await hosts(world) == {host}


async def test_an_endpoint_that_comes_before_the_lock_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    process = await world.process()
    account = await world.account()
    host = await a_host(world)
    forget = forgetting_module._forget_hosts

    async def come_first(chosen: Collection[int], connection: asyncpg.Connection) -> None:
        await world.endpoint(account, host=host)
        await forget(chosen, connection)

    monkeypatch.setattr(forgetting_module, "_forget_hosts", come_first)
    await forget_all_hosts(Forgetting(process.links["control"]))

    assert await hosts(world) == {host}


async def test_who_comes_to_a_host_that_is_being_forgotten_makes_it_again(world: World) -> None:
    host = await a_host(world)
    authority = await world.value("SELECT authority FROM host")
    pool = await Pool.open(world.url, size=1)
    ledger = EndpointLedger(pool, default_limits=HostLimits(100.0, 100, 64))

    async def come() -> int:
        async with pool.transaction() as session:
            return await ledger._host(session, authority)

    async with world.sql.transaction():
        await world.sql.execute(STATEMENTS["lock_idle_hosts"], [host])
        coming = spawn(come(), name="coming")
        await world.until_blocked(1)
        await world.sql.execute(STATEMENTS["forget_hosts"], [host])

    assert {await coming} == await hosts(world) != {host}
    await pool.aclose()


async def a_deleted_endpoint(world: World, account: str, *, days: float = 92.0, is_closed: bool = True) -> int:
    """Make an endpoint that was deleted so long ago and left nothing."""
    number = await world.endpoint(account, status="deleted")
    await world.sql.execute(
        "UPDATE endpoint SET created_at = now() - $2 * interval '1 day' - interval '1 hour',"
        " changed_at = now() - $2 * interval '1 day',"
        " last_delivery_at = CASE WHEN $3 THEN '-infinity' ELSE 'infinity' END::timestamptz WHERE endpoint_id = $1",
        number,
        days,
        is_closed,
    )
    return number


async def attempted(world: World, endpoint: int, verdict: str, *, hours: float) -> None:
    """Make an attempt of a delivery that was created so many hours ago."""
    await world.sql.execute(
        "INSERT INTO attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment,"
        " event_id, event_type, attempt_no, duration_ms, outcome, verdict, replica_id)"
        " SELECT now() - $3 * interval '1 hour', nextval('delivery_seq'), now() - $3 * interval '1 hour', endpoint_id,"
        " account_id, environment, '', 'verification.completed', 1, 1, 'delivered', $2, 0"
        " FROM endpoint WHERE endpoint_id = $1",
        endpoint,
        verdict,
        hours,
    )


async def endpoints(world: World) -> set[int]:
    return {row["endpoint_id"] for row in await world.rows("SELECT endpoint_id FROM endpoint")}


async def forget_all_endpoints(forgetting: Forgetting, *, keep_days: int = 90) -> None:
    last: Deleted | None = FIRST_DELETED
    while last is not None:
        last = await forgetting.forget_endpoints(last, keep_days=keep_days)


REFERRING = [
    f"INSERT INTO {what} FROM endpoint WHERE endpoint_id = $1"
    for what in (
        (
            "delivery (event_day, event_id, account_id, environment, endpoint_id, host_id, due_at, held)"
            " SELECT current_date, '', account_id, environment, endpoint_id, host_id, now(), true"
        ),
        (
            "attempt (started_at, delivery_id, delivery_created_at, endpoint_id, account_id, environment, event_id,"
            " event_type, attempt_no, duration_ms, verdict, replica_id)"
            " SELECT now(), 1, now(), endpoint_id, account_id, environment, '', 'unknown', 1, 0, 'canceled', 0"
        ),
        (
            "replay (public_id, account_id, environment, endpoint_id, kind, what, rate, state, n_expected, is_minimum,"
            " created_at, ready_at, ended_at) SELECT 'rpl_' || endpoint_id, account_id, environment, endpoint_id,"
            " 'replay', 'all', 1, 'done', 0, false, now(), now(), now()"
        ),
        "endpoint_hour (endpoint_id, hour, n_attempts, n_delivered) SELECT endpoint_id, now(), 1, 1",
        "endpoint_secret (endpoint_id, sealed_key, last4) SELECT endpoint_id, '', 'abcd'",
    )
]


async def test_a_deleted_endpoint_is_forgotten_once_nothing_refers_to_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting_module, "ENDPOINTS_AT_ONCE", 2)
    process = await world.process()
    account = await world.account()
    kept = {await world.endpoint(account), await a_deleted_endpoint(world, account, days=90.5)}
    for statement in REFERRING:
        number = await a_deleted_endpoint(world, account)
        await world.sql.execute(statement, number)
        kept.add(number)
    for _ in range(5):
        number = await a_deleted_endpoint(world, account)
        await world.sql.execute("INSERT INTO endpoint_pace (endpoint_id) VALUES ($1)", number)
        await world.sql.execute("INSERT INTO endpoint_health (endpoint_id) VALUES ($1)", number)

    await forget_all_endpoints(Forgetting(process.links["control"]))

    assert await endpoints(world) == kept
    assert await world.value("SELECT count(*) FROM endpoint_pace") == 0
    assert await world.value("SELECT count(*) FROM endpoint_health") == 0


async def test_the_hourly_turn_forgets_endpoints_by_how_long_attempts_are_kept(world: World) -> None:
    process = await world.process()
    account = await world.account()
    kept = await a_deleted_endpoint(world, account, days=89)
    await a_deleted_endpoint(world, account, days=92)

    forgetting = spawn(an_upkeep(process).forget(), name="forgetting")
    while await world.value("SELECT count(*) FROM endpoint") > 1:
        await asyncio.sleep(0.01)
    forgetting.cancel()

    assert await endpoints(world) == {kept}


async def test_an_endpoint_that_another_replica_forgets_is_left_to_it(world: World) -> None:
    forgetting = Forgetting((await world.process()).links["control"])
    account = await world.account()
    both = {await a_deleted_endpoint(world, account) for _ in range(2)}

    async with world.sql.transaction():
        await world.sql.execute("SELECT FROM endpoint WHERE endpoint_id = $1 FOR UPDATE", min(both))
        await forget_all_endpoints(forgetting)
        left = await endpoints(world)

    assert left == {min(both)}


async def test_a_history_is_closed_once_nothing_of_it_is_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting_module, "HISTORIES_AT_ONCE", 2)
    process = await world.process()
    account = await world.account()
    minute = 1 / 1440
    bare, ended, open_, young = [
        await a_deleted_endpoint(world, account, days=days, is_closed=False)
        for days in (2 * minute, 2.0, 2.0, 0.5 * minute)
    ]
    live = await world.endpoint(account)
    for verdict, hours in (("exhausted", 47.0), ("retry", 48.9), ("canceled", 48.5), ("delivered", 48.1)):
        await attempted(world, ended, verdict, hours=hours)
    await attempted(world, open_, "delivered", hours=48.1)
    await world.sql.execute(REFERRING[0], open_)

    forgetting = Forgetting(process.links["control"])
    last: int | None = 0
    while last is not None:
        last = await forgetting.close_histories(last)

    told = {
        row["endpoint_id"]: (row["first"], row["last"])
        for row in await world.rows(
            "SELECT endpoint_id, CASE WHEN isfinite(first_delivery_at)"
            " THEN round(extract(epoch FROM now() - first_delivery_at) / 360)::text ELSE first_delivery_at::text END"
            " AS first, CASE WHEN isfinite(last_delivery_at)"
            " THEN round(extract(epoch FROM now() - last_delivery_at) / 360)::text ELSE last_delivery_at::text END"
            " AS last FROM endpoint"
        )
    }
    unknown = ("-infinity", "infinity")
    assert told == {
        bare: ("-infinity", "-infinity"),
        ended: ("485", "470"),
        open_: unknown,
        young: unknown,
        live: unknown,
    }


async def test_a_round_closes_so_many_histories_and_the_next_one_goes_on_behind_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting_module, "HISTORIES_AT_ONCE", 1)
    monkeypatch.setattr("dispatcher.upkeep._HISTORY_BATCHES", 2)
    account = await world.account()
    for n in range(4):
        number = await a_deleted_endpoint(world, account, is_closed=False)
        if n < 2:
            await world.sql.execute(REFERRING[0], number)
    upkeep = an_upkeep(await world.process())

    for n_closed in (0, 2, 2):
        await upkeep._close_histories()

        assert await world.value("SELECT count(*) FROM endpoint WHERE last_delivery_at < 'infinity'") == n_closed
