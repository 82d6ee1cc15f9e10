"""Statement S1 on a real Postgres: exact positions, no event twice, none lost, and who gets what."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from unittest.mock import patch

import pytest

from dispatcher.kit import clock
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.batch import Batch
from dispatcher.model.delivery import Delivery
from dispatcher.model.errors import Fenced, PoisonBatch, Unavailable
from tests.rooms.ledger_world import LOG, TOPIC, World, a_batch, a_dead_record, an_event, open_ledger
from tests.support.servers import DatabaseServer


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


async def test_events_become_owned_deliveries_and_the_position_moves(world: World) -> None:
    account = await world.account()
    endpoint = await world.endpoint(account)
    process = await world.process()
    events = [an_event(account) for _ in range(3)]

    accepted = await process.accept(a_batch(events))

    assert (accepted.n_events, accepted.n_duplicates, accepted.refused) == (3, 0, frozenset())
    assert {(d.event_id, d.public_event_id) for d in accepted.fresh} == {(e.event_id, e.public_id) for e in events}
    assert {(d.endpoint_id, d.attempts, d.event_type) for d in accepted.fresh} == {
        (endpoint, 0, "verification.completed")
    }
    assert {d.body for d in accepted.fresh} == {event.body for event in events}
    assert process.replica.held == {d.delivery_id for d in accepted.fresh}
    owners = await world.rows("SELECT owner, held FROM delivery")
    assert {(row["owner"], row["held"]) for row in owners} == {(process.replica.replica_id, False)}
    assert await process.intake.positions(LOG, [(TOPIC, 0), (TOPIC, 1)]) == {(TOPIC, 0): 3}


@pytest.mark.parametrize("start", [2, 4], ids=["overlap", "gap"])
async def test_a_batch_that_starts_elsewhere_is_refused_whole(world: World, start: int) -> None:
    account = await world.account()
    await world.endpoint(account)
    process = await world.process()
    await process.accept(a_batch([an_event(account) for _ in range(3)]))

    accepted = await process.accept(a_batch([an_event(account)], start=start))

    assert accepted.refused == {(TOPIC, 0)}
    assert (accepted.n_events, accepted.fresh) == (0, ())
    assert await world.value("SELECT count(*) FROM event") == 3
    assert await process.intake.positions(LOG, [(TOPIC, 0)]) == {(TOPIC, 0): 3}


async def test_a_fresh_delivery_says_what_its_own_event_says_in_every_field(world: World) -> None:
    ours, theirs = await world.account(), await world.account()
    endpoints = [await world.endpoint(ours), await world.endpoint(ours), await world.endpoint(theirs)]
    process = await world.process()
    bare = an_event(ours, subject=None, client_reference=None, outcome=None, workflow_id=None)
    # The same producer's id of two accounts is two events, and of two bodies of one event the first one is it.
    same = an_event(ours)
    events = [bare, same, same._replace(account=theirs, body=b"{}"), same._replace(body=b"[]")]

    accepted = await process.accept(a_batch(events)._replace(dead=(a_dead_record(4),)))

    numbers = {row["public_id"]: row["account_id"] for row in await world.rows("SELECT * FROM account")}
    pairs = [(bare, endpoints[0]), (bare, endpoints[1]), (same, endpoints[0]), (same, endpoints[1])]
    expected = [
        Delivery(
            delivery_id=0,
            event_id=event.event_id,
            public_event_id=event.public_id,
            event_day=clock.utcnow().date(),
            account_id=numbers[event.account],
            environment="live",
            endpoint_id=endpoint,
            host_id=await world.value("SELECT host_id FROM endpoint WHERE endpoint_id = $1", endpoint),
            attempts=0,
            created_at=await world.value("SELECT min(created_at) FROM delivery"),
            event_type=event.type,
            subject=event.subject,
            client_reference=event.client_reference,
            body=event.body,
            occurred_at=event.occurred_at,
            accepted_mono=0.0,
        )
        for event, endpoint in [*pairs, (events[2], endpoints[2])]
    ]
    assert {one._replace(delivery_id=0, accepted_mono=0.0) for one in accepted.fresh} == set(expected)
    assert len(accepted.fresh) == len(expected)
    assert all(one.accepted_mono > 0 for one in accepted.fresh)
    assert await world.value("SELECT detail FROM dead_event") == b"at byte 3"


async def test_holes_inside_a_stretch_are_accepted(world: World) -> None:
    account = await world.account()
    process = await world.process()

    accepted = await process.accept(a_batch([an_event(account)], stop=40))
    after = await process.accept(a_batch([an_event(account)], start=40))

    assert not accepted.refused
    assert not after.refused


async def test_one_refused_partition_does_not_hold_up_the_others(world: World) -> None:
    account = await world.account()
    process = await world.process()
    good, bad = a_batch([an_event(account)], part=1), a_batch([an_event(account)], part=2, start=7)

    accepted = await process.accept(good._replace(spans=good.spans + bad.spans, events=good.events + bad.events))

    assert accepted.refused == {(TOPIC, 2)}
    assert accepted.n_events == 1


async def _stands(process: object) -> int:
    positions = await process.intake.positions(LOG, [(TOPIC, 0)])  # type: ignore[attr-defined]
    return int(positions[TOPIC, 0])


async def test_two_owners_of_a_partition_lose_nothing_and_repeat_nothing(world: World) -> None:
    account = await world.account()
    first, second = await world.process(), await world.process()
    events = [an_event(account) for _ in range(10)]
    await first.accept(a_batch(events[:1]))

    answers = await asyncio.gather(
        first.intake.accept(a_batch(events[1:6], start=1)), second.accept(a_batch(events[1:6], start=1))
    )

    assert sorted(len(answer.refused) for answer in answers) == [0, 1]
    assert await world.value("SELECT count(*) FROM event") == 6
    assert await _stands(first) == 6


async def test_a_looser_guard_moves_positions_backwards_and_is_noticed(world: World) -> None:
    exact = STATEMENTS["accept"]
    assert "p.next_offset = s.start" in exact
    account = await world.account()
    process = await world.process()
    await process.accept(a_batch([an_event(account) for _ in range(10)]))

    with patch.dict(STATEMENTS, {"accept": exact.replace("p.next_offset = s.start", "p.next_offset <= s.start")}):
        loose = await process.accept(a_batch([an_event(account)], start=15))

    # Ten to fifteen were never read, and nobody would ever know.
    assert not loose.refused
    assert await _stands(process) == 16
    assert await world.value("SELECT count(*) FROM event") == 11


async def test_the_same_event_again_is_counted_and_changes_nothing(world: World) -> None:
    account = await world.account()
    await world.endpoint(account)
    process = await world.process()
    event = an_event(account)

    first = await process.accept(a_batch([event, event]))
    again = await process.accept(a_batch([event], start=2))
    other_body = await process.accept(a_batch([event._replace(body=b"{}")], start=3))

    assert (first.n_events, first.n_duplicates, len(first.fresh)) == (1, 1, 1)
    assert (again.n_events, again.n_duplicates, again.n_conflicts, again.fresh) == (0, 1, 0, ())
    assert (other_body.n_duplicates, other_body.n_conflicts) == (1, 1)
    assert await world.value("SELECT body FROM event") == event.body


@pytest.mark.parametrize("days", [-1, 1])
async def test_the_same_event_with_a_time_beyond_midnight_is_the_same_event(world: World, days: int) -> None:
    account = await world.account()
    await world.endpoint(account)
    process = await world.process()
    event = an_event(account)
    await process.accept(a_batch([event]))

    batch = a_batch([event._replace(body=b"{}"), an_event(account)], start=1)
    day = batch.events[0].event_day + dt.timedelta(days=days)
    again = await process.accept(batch._replace(events=tuple(p._replace(event_day=day) for p in batch.events)))

    assert (again.n_events, again.n_duplicates, again.n_conflicts, len(again.fresh)) == (1, 1, 1, 1)


@pytest.mark.parametrize("days", [-1, 1])
async def test_a_batch_of_two_days_knows_the_events_of_the_days_beside_each(world: World, days: int) -> None:
    process, account = await world.process(), await world.account()
    placed = [clock.utcnow().date() + dt.timedelta(days=n) for n in (0, 1)]
    batch = a_batch([an_event(account) for _ in placed])
    await process.accept(spread(batch, placed))

    again = a_batch([p.event for p in batch.events], start=2)
    accepted = await process.accept(spread(again, [day + dt.timedelta(days=days) for day in placed]))

    assert (accepted.n_events, accepted.n_duplicates) == (0, 2)


def spread(batch: Batch, days: Sequence[dt.date]) -> Batch:
    """Return the batch with its events on these days, one each."""
    events = zip(batch.events, days, strict=True)
    return batch._replace(events=tuple(placed._replace(event_day=day) for placed, day in events))


async def test_deliveries_are_handed_out_though_nobody_can_say_how_many_duplicates_differ(world: World) -> None:
    account = await world.account()
    await world.endpoint(account)
    process = await world.process()
    event = an_event(account)
    await process.accept(a_batch([event]))

    with patch.object(process.intake, "_conflicts", side_effect=Unavailable("away")):
        accepted = await process.accept(a_batch([event, an_event(account)], start=1))

    # What is held here and was not handed out is in nobody's hands: `adopt` passes over what is held.
    assert len(accepted.fresh) == 1
    assert (accepted.n_duplicates, accepted.n_conflicts) == (1, 0)


async def test_another_accounts_event_with_the_same_id_is_an_event_of_its_own(world: World) -> None:
    ours, theirs = await world.account(), await world.account()
    endpoints = {await world.endpoint(ours), await world.endpoint(theirs)}
    process = await world.process()
    event = an_event(ours, body=b"ours")

    accepted = await process.accept(a_batch([event, event._replace(account=theirs, body=b"theirs")]))

    assert accepted.n_events == 2
    assert {d.endpoint_id for d in accepted.fresh} == endpoints
    by_endpoint = {d.endpoint_id: d.body for d in accepted.fresh}
    assert [by_endpoint[one] for one in sorted(endpoints)] == [b"ours", b"theirs"]


@pytest.mark.parametrize(
    ("subscription", "matches"),
    [
        ({"events": ["verification.completed"]}, True),
        ({"events": ["verification.*"]}, True),
        ({"events": ["*"]}, True),
        ({"events": ["verification.started", "check.*"]}, False),
        ({"outcomes": ["approved"]}, True),
        ({"outcomes": ["declined"]}, False),
        ({"workflows": ["wf_kyc_basic", "other"]}, True),
        ({"workflows": ["other"]}, False),
        ({"environment": "test"}, False),
        ({"status": "paused"}, False),
        ({"status": "disabled"}, False),
        ({"status": "deleted"}, False),
    ],
    ids=str,
)
async def test_an_endpoint_gets_what_it_subscribed_to(
    world: World, subscription: dict[str, object], matches: bool
) -> None:
    account = await world.account()
    await world.endpoint(account, **subscription)
    await world.endpoint(await world.account())
    process = await world.process()

    accepted = await process.accept(a_batch([an_event(account)]))

    assert len(accepted.fresh) == int(matches)
    assert await world.value("SELECT count(*) FROM delivery") == int(matches)


async def test_a_full_host_and_a_process_that_only_ingests_leave_deliveries_waiting(world: World) -> None:
    account, host = await world.account(), await world.host()
    await world.endpoint(account, host=host)
    full, ingester = await world.process(full_hosts=[host]), await world.process(delivers=False)

    first = await full.accept(a_batch([an_event(account)]))
    second = await ingester.accept(a_batch([an_event(account)], start=1))

    assert (first.fresh, second.fresh) == ((), ())
    assert await world.value("SELECT count(*) FROM delivery WHERE owner IS NULL AND due_at <= now()") == 2


async def test_dead_records_are_kept_and_the_position_moves_past_them(world: World) -> None:
    process = await world.process()
    batch = a_batch([], stop=2)._replace(dead=(a_dead_record(0), a_dead_record(1)))

    accepted = await process.accept(batch)

    assert not accepted.refused
    rows = await world.rows("SELECT off, reason, detail, sealed_value FROM dead_event ORDER BY off")
    assert [(row["off"], row["reason"], row["detail"]) for row in rows] == [
        (0, "not_json", b"at byte 3"),
        (1, "not_json", b"at byte 3"),
    ]
    assert await _stands(process) == 2


async def test_a_value_that_postgres_cannot_take_refuses_the_batch_and_writes_nothing(world: World) -> None:
    account = await world.account()
    process = await world.process()

    with pytest.raises(PoisonBatch):
        await process.accept(a_batch([an_event(account), an_event(account, subject="a\x00b")]))

    assert await world.value("SELECT count(*) FROM event") == 0
    assert await _stands(process) == 0
    assert not (await process.accept(a_batch([an_event(account)]))).refused


async def test_accounts_that_are_there_use_up_no_numbers(world: World) -> None:
    names = {await world.account() for _ in range(5)}
    sequence = await world.value("SELECT pg_get_serial_sequence('account', 'account_id')")
    await world.sql.execute(f"SELECT setval('{sequence}', 2147483646)")

    # A process that starts knows none of them.
    first, second = await world.process(), await world.process()
    assert await first.intake.known_accounts(names, create=True) == names
    assert await second.intake.known_accounts(names, create=True) == names
    new = {*names, "acct_0123456789"}
    assert await second.intake.known_accounts(new, create=True) == new

    assert await world.value("SELECT max(account_id) FROM account") == 2147483647


async def test_a_day_without_a_table_is_waited_for_and_nothing_is_lost(world: World) -> None:
    account = await world.account()
    process = await world.process()
    today = (await world.rows("SELECT current_date AS day"))[0]["day"]
    await world.sql.execute(f"DROP TABLE event_{today:%Y%m%d}")

    batch = a_batch([an_event(account)])
    with pytest.raises(Unavailable, match="a daily table is missing"):
        await process.accept(batch)
    stood = await _stands(process)
    await process.members.make_days()
    accepted = await process.accept(batch)

    assert stood == 0
    assert accepted.n_events == 1


async def test_a_replica_that_was_taken_over_accepts_nothing(world: World) -> None:
    account = await world.account()
    await world.endpoint(account)
    process = await world.process()
    await world.sql.execute("DELETE FROM replica")

    with pytest.raises(Fenced):
        await process.accept(a_batch([an_event(account)]))

    assert await world.value("SELECT count(*) FROM event") == 0
    assert await _stands(process) == 0


async def test_without_the_fence_a_dead_replica_would_still_write(world: World) -> None:
    account = await world.account()
    await world.endpoint(account)
    process = await world.process()
    await world.sql.execute("DELETE FROM replica")
    fence = "SELECT 1 FROM replica WHERE replica_id = $1 FOR KEY SHARE"
    assert fence in STATEMENTS["accept"]

    with patch.dict(STATEMENTS, {"accept": STATEMENTS["accept"].replace(fence, "SELECT $1::bigint")}):
        await process.accept(a_batch([an_event(account)]))

    orphans = "SELECT count(*) FROM delivery d WHERE NOT EXISTS (SELECT FROM replica r WHERE r.replica_id = d.owner)"
    assert await world.value(orphans) == 1


async def test_deliveries_whose_answer_was_lost_are_adopted_once(world: World) -> None:
    account = await world.account()
    await world.endpoint(account)
    process = await world.process()
    known = await process.accept(a_batch([an_event(account)]))
    await process.accept(a_batch([an_event(account), an_event(account)], start=1))
    lost = process.replica.held - {d.delivery_id for d in known.fresh}
    # As if the second answer had died with its connection.
    process.replica.held -= lost

    adopted = await process.claims.adopt()
    again = await process.claims.adopt()

    assert {d.delivery_id for d in adopted} == lost
    assert all(d.body and d.event_type == "verification.completed" for d in adopted)
    assert again == []


async def test_a_connection_that_dies_makes_the_outcome_unknown_and_the_next_call_works(world: World) -> None:
    account = await world.account()
    process = await world.process()
    await process.accept(a_batch([an_event(account)]))
    batch = a_batch([an_event(account)], start=1)
    await process.intake.known_accounts({account}, create=True)

    async with world.sql.transaction():
        await world.sql.execute("SELECT 1 FROM replica FOR UPDATE")
        blocked = asyncio.get_running_loop().create_task(process.intake.accept(batch))
        await world.until_blocked(1)
        await world.sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'dispatcher-intake-%'"
            " AND datname = current_database()"
        )
        with pytest.raises(Unavailable):
            await blocked

    assert await _stands(process) == 1
    assert not (await process.accept(batch)).refused


async def test_unknown_accounts_are_made_only_when_asked(world: World) -> None:
    process = await world.process()
    names = {"acct_unknown0001", await world.account()}

    kept = await process.intake.known_accounts(names, create=False)
    made = await process.intake.known_accounts(names, create=True)

    assert kept == names - {"acct_unknown0001"}
    assert made == names


async def test_lost_records_are_noted_once(world: World) -> None:
    process = await world.process()

    for _ in range(2):
        await process.intake.record_lost(LOG, TOPIC, 3, 10, 25)

    rows = await world.rows("SELECT topic, part, from_offset, to_offset FROM lost_range")
    assert [tuple(row) for row in rows] == [(TOPIC, 3, 10, 25)]
