"""Endpoints in Postgres: what creating and deleting do besides the row itself."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import asyncpg
import pytest

from dispatcher.ledger import wishes
from dispatcher.ledger.accounts import AccountLedger, Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.deeds import Ask, DeedLedger, KeptAnswer
from dispatcher.ledger.endpoints import EndpointLedger, EndpointSettings, NewEndpoint, StoredEndpoint, TooMany
from dispatcher.ledger.lists import ListLedger
from dispatcher.model.delivery import DeliveryState
from dispatcher.model.endpoint import HealthState, HostLimits
from tests.rooms.test_api_harness import DEFAULT_LIMITS, Seeds, a_deed, ledger_template, ledger_url, pool

SETTINGS = EndpointSettings(
    authority="https://example.com:443",
    url="https://example.com/",
    description=None,
    events=("*",),
    outcomes=None,
    workflows=None,
    api_version="2026-11-01",
    payload_mode="thin",
    sealed_headers=b"sealed",
    header_names=("X-Token",),
    schedule=None,
    rate_limit=None,
    metadata={},
)
SIMPLE = NewEndpoint(
    public_id="we_0000000000000001",
    settings=SETTINGS,
    seal_key=lambda number: b"sealed:%d" % number,
    last4="abcd",
)


async def make(
    ledger: EndpointLedger, tenant: Tenant, new: NewEndpoint = SIMPLE, ask: Ask | None = None
) -> StoredEndpoint | KeptAnswer | TooMany:
    return await ledger.create(a_deed(tenant, ask=ask), new, most=50, show=lambda made: made.public_id.encode())


@dataclass
class Room:
    """The ledger and what it stands on."""

    ledger: EndpointLedger
    lists: ListLedger
    sql: asyncpg.Connection
    seeds: Seeds
    tenant: Tenant
    url: str


@pytest.fixture
async def room(ledger_url: str, pool: Pool) -> AsyncIterator[Room]:
    account = await AccountLedger(pool).create()
    tenant = Tenant(account.account_id, "test")
    sql = await asyncpg.connect(ledger_url)
    ledger = EndpointLedger(pool, default_limits=DEFAULT_LIMITS)
    yield Room(ledger, ListLedger(pool), sql, Seeds(sql, tenant), tenant, ledger_url)
    await sql.close()


async def test_a_secret_is_sealed_for_the_number_it_is_stored_under(room: Room) -> None:
    made = await make(room.ledger, room.tenant)

    (row,) = await room.sql.fetch("SELECT secret_id, sealed_key, last4 FROM endpoint_secret")
    assert isinstance(made, StoredEndpoint)
    assert row["sealed_key"] == b"sealed:%d" % row["secret_id"]
    assert made.secret_last4 == row["last4"] == "abcd"


async def test_endpoints_of_one_authority_share_a_host_and_leave_its_limits_alone(room: Room, pool: Pool) -> None:
    await make(room.ledger, room.tenant)
    others = EndpointLedger(pool, default_limits=HostLimits(1.0, 1, 1))

    await make(others, room.tenant, replace(SIMPLE, public_id="we_2"))

    hosts = await room.sql.fetch("SELECT interval_us, grant_burst, rate, burst, in_flight FROM host")
    assert [tuple(host) for host in hosts] == [(10_000, 50, 100.0, 100, 64)]


async def test_two_makers_of_one_new_host_both_succeed(room: Room) -> None:
    async def make_one(number: int) -> StoredEndpoint | KeptAnswer | TooMany:
        account = await AccountLedger(room.ledger._pool).create()
        tenant = Tenant(account.account_id, "live")
        return await make(room.ledger, tenant, replace(SIMPLE, public_id=f"we_{number}"))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(make_one(number)) for number in range(5)]

    assert all(isinstance(task.result(), StoredEndpoint) for task in tasks)
    assert await room.sql.fetchval("SELECT count(*) FROM host") == 1


async def test_a_failed_seal_leaves_nothing_behind(room: Room) -> None:
    def fail(_: int) -> bytes:
        raise RuntimeError("no key")

    with pytest.raises(RuntimeError):
        await make(room.ledger, room.tenant, replace(SIMPLE, seal_key=fail))

    counts = [
        await room.sql.fetchval(f"SELECT count(*) FROM {table}") for table in ("endpoint", "host", "endpoint_secret")
    ]
    assert counts == [0, 0, 0]


async def test_an_answer_older_than_a_day_is_forgotten(room: Room) -> None:
    ask = Ask("k", b"d" * 32)
    answers = DeedLedger(room.ledger._pool)
    await make(room.ledger, room.tenant, ask=ask)
    await make(room.ledger, room.tenant, replace(SIMPLE, public_id="we_2"), ask._replace(key="other"))
    young = await answers.kept_answer(room.tenant, "k")
    await room.sql.execute("UPDATE idempotency_key SET created_at = now() - interval '25 hours'")

    old = await answers.kept_answer(room.tenant, "k")
    made = await make(room.ledger, room.tenant, replace(SIMPLE, public_id="we_3"), ask)

    assert young == KeptAnswer(b"d" * 32, 201, b"we_0000000000000001")
    assert old is None
    assert isinstance(made, StoredEndpoint)
    rows = await room.sql.fetch("SELECT response FROM idempotency_key")
    assert [row["response"] for row in rows] == [b"we_3"]


async def test_deleting_destroys_secrets_and_cancels_what_waits(room: Room) -> None:
    made = await make(room.ledger, room.tenant)
    assert isinstance(made, StoredEndpoint)
    pending = await room.seeds.delivery(made.endpoint_id)
    retrying = await room.seeds.delivery(made.endpoint_id, attempts=2)
    held = await room.seeds.delivery(made.endpoint_id, held=True)
    in_flight = await room.seeds.delivery(made.endpoint_id, owner=7)
    neighbour = await room.seeds.delivery(await room.seeds.endpoint())

    number = await room.ledger.delete(a_deed(room.tenant), SIMPLE.public_id)

    assert number == made.endpoint_id
    listed = (await room.lists.deliveries(room.tenant, made.endpoint_id, limit=10)).deliveries
    states = {one.delivery_id: (one.state, one.attempts) for one in listed}
    assert states == {
        pending: (DeliveryState.CANCELED, 0),
        retrying: (DeliveryState.CANCELED, 2),
        held: (DeliveryState.CANCELED, 0),
        in_flight: (DeliveryState.PENDING, 0),
    }
    left = await room.sql.fetch("SELECT delivery_id FROM delivery ORDER BY delivery_id")
    assert [row["delivery_id"] for row in left] == sorted([in_flight, neighbour])
    assert await room.sql.fetchval("SELECT count(*) FROM endpoint_secret") == 0
    (row,) = await room.sql.fetch(
        "SELECT status, sealed_headers, changed_at > created_at AS is_later FROM endpoint WHERE public_id = $1",
        SIMPLE.public_id,
    )
    assert tuple(row) == ("deleted", None, True)
    rows = await room.sql.fetch("SELECT DISTINCT verdict, outcome, replica_id, event_type FROM attempt")
    assert [tuple(row) for row in rows] == [("canceled", None, 0, "verification.completed")]


async def test_a_queue_longer_than_one_statement_takes_is_canceled_whole(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wishes, "ROWS_AT_ONCE", 2)
    await make(room.ledger, room.tenant)
    number = await room.sql.fetchval("SELECT endpoint_id FROM endpoint")
    for held in (True, False, True, False, True):
        await room.seeds.delivery(number, held=held)

    await room.ledger.delete(a_deed(room.tenant), SIMPLE.public_id)

    assert await room.sql.fetchval("SELECT count(*) FROM delivery") == 0
    assert await room.sql.fetchval("SELECT count(*) FROM attempt") == 5


async def test_a_delivery_whose_event_is_past_its_retention_can_still_be_canceled(room: Room) -> None:
    await make(room.ledger, room.tenant)
    number = await room.sql.fetchval("SELECT endpoint_id FROM endpoint")
    tried = await room.seeds.delivery(number, attempts=1)
    await room.seeds.attempt(number, tried, "retry")
    await room.seeds.delivery(number)
    await room.sql.execute("DELETE FROM event")

    await room.ledger.delete(a_deed(room.tenant), SIMPLE.public_id)

    types = await room.sql.fetch("SELECT event_type FROM attempt WHERE verdict = 'canceled' ORDER BY event_type")
    assert [row["event_type"] for row in types] == ["unknown", "verification.completed"]


async def test_a_row_that_a_claim_holds_is_left_to_the_claimer(room: Room) -> None:
    await make(room.ledger, room.tenant)
    number = await room.sql.fetchval("SELECT endpoint_id FROM endpoint")
    claimed = await room.seeds.delivery(number)
    await room.seeds.delivery(number)

    claimer = await asyncpg.connect(room.url)
    async with claimer.transaction():
        await claimer.execute("UPDATE delivery SET owner = 9 WHERE delivery_id = $1", claimed)
        await room.ledger.delete(a_deed(room.tenant), SIMPLE.public_id)
    await claimer.close()

    left = await room.sql.fetch("SELECT delivery_id, owner FROM delivery")
    assert [tuple(row) for row in left] == [(claimed, 9)]


async def test_deleting_twice_or_by_another_tenant_changes_nothing(room: Room) -> None:
    await make(room.ledger, room.tenant)
    stranger = await AccountLedger(room.ledger._pool).create()

    foreign = await room.ledger.delete(a_deed(Tenant(stranger.account_id, "test")), SIMPLE.public_id)
    wrong_environment = await room.ledger.delete(a_deed(room.tenant._replace(environment="live")), SIMPLE.public_id)
    first = await room.ledger.delete(a_deed(room.tenant), SIMPLE.public_id)
    second = await room.ledger.delete(a_deed(room.tenant), SIMPLE.public_id)

    assert [foreign, wrong_environment, second] == [None, None, None]
    assert first is not None


async def test_a_read_endpoint_tells_of_its_last_request_and_of_a_rotation(room: Room) -> None:
    await make(room.ledger, room.tenant)
    number = await room.sql.fetchval("SELECT endpoint_id FROM endpoint")
    before = await room.ledger.find(room.tenant, SIMPLE.public_id)
    delivery = await room.seeds.delivery(number, attempts=1)
    await room.seeds.attempt(number, delivery, "retry", status=503)
    await room.sql.execute("UPDATE endpoint_secret SET expires_at = now() + interval '1 day'")
    await room.sql.execute(
        "INSERT INTO endpoint_secret (endpoint_id, sealed_key, last4) VALUES ($1, 'x', 'wxyz')", number
    )

    after = await room.ledger.find(room.tenant, SIMPLE.public_id)

    assert before is not None
    assert after is not None
    assert (before.last_attempt_at, before.previous_secret_expires_at) == (None, None)
    assert (after.last_status, after.last_outcome, after.secret_last4) == (503, "http_5xx", "wxyz")
    assert after.previous_secret_expires_at is not None


@pytest.mark.parametrize(
    ("is_verified", "failures", "minutes", "state", "is_since_known"),
    [
        (False, 0, None, HealthState.UNVERIFIED, False),
        (True, 0, None, HealthState.OK, False),
        (True, 2, 600, HealthState.OK, False),
        (True, 3, 59, HealthState.OK, False),
        (True, 3, 61, HealthState.FAILING, True),
        (False, 3, 61, HealthState.FAILING, True),
    ],
)
async def test_health_is_what_the_attempts_say(
    room: Room, is_verified: bool, failures: int, minutes: int | None, state: HealthState, is_since_known: bool
) -> None:
    await make(room.ledger, room.tenant)
    if is_verified:
        await room.sql.execute("UPDATE endpoint SET verified_at = now()")
    if failures:
        await _fail(room, failures, minutes or 0)

    (listed,) = await room.ledger.page(room.tenant, limit=5)
    found = await room.ledger.find(room.tenant, SIMPLE.public_id)

    assert found == listed
    assert (listed.health, listed.failures) == (state, failures)
    assert (listed.failing_since is not None) is is_since_known


async def test_the_last_success_is_the_one_before_the_failures(room: Room) -> None:
    await make(room.ledger, room.tenant)
    number = await room.sql.fetchval("UPDATE endpoint SET verified_at = now() RETURNING endpoint_id")
    for ago, outcome in ((900, "delivered"), (800, "delivered"), (700, "http_5xx"), (10, "http_5xx")):
        await room.seeds.ended(number, ago=float(ago), outcome=outcome)
    await _fail(room, 2, 700 / 60)

    found = await room.ledger.find(room.tenant, SIMPLE.public_id)

    assert found is not None
    assert found.last_success_at == await room.sql.fetchval(
        "SELECT max(started_at) FROM attempt WHERE outcome = 'delivered'"
    )


async def test_a_success_behind_a_hundred_failures_is_not_searched_for(room: Room) -> None:
    await make(room.ledger, room.tenant)
    number = await room.sql.fetchval("UPDATE endpoint SET verified_at = now() RETURNING endpoint_id")
    await room.seeds.ended(number, ago=900.0, outcome="delivered")
    for ago in range(100):
        await room.seeds.attempt(number, 1, "retry", ago=float(ago))

    found = await room.ledger.find(room.tenant, SIMPLE.public_id)

    assert found is not None
    assert found.last_success_at is None


async def _fail(room: Room, failures: int, minutes: float) -> None:
    await room.sql.execute(
        "INSERT INTO endpoint_health (endpoint_id, failures, failing_since)"
        " SELECT endpoint_id, $1, now() - make_interval(secs => $2) FROM endpoint",
        failures,
        minutes * 60,
    )


async def test_a_host_remembers_when_an_endpoint_left_it(room: Room) -> None:
    made = await make(room.ledger, room.tenant)
    assert isinstance(made, StoredEndpoint)
    stays, moves = SETTINGS, replace(SETTINGS, authority="https://other.example:443", url="https://other.example/")
    when = "SELECT changed_at > now() - interval '1 hour' FROM host WHERE authority = $1"
    await room.sql.execute("UPDATE host SET changed_at = now() - interval '2 days'")

    await room.ledger.change(a_deed(room.tenant), made.public_id, lambda *_: stays, members=["url"])
    was_left_before = await room.sql.fetchval(when, SETTINGS.authority)
    await room.ledger.change(a_deed(room.tenant), made.public_id, lambda *_: moves, members=["url"])

    assert not was_left_before
    assert await room.sql.fetchval(when, SETTINGS.authority)
