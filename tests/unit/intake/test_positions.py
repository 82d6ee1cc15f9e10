import datetime as dt
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.intake.positions import BatchBuilder, halves, only, place
from dispatcher.model.batch import Batch, DeadRecord, PlacedEvent, Span
from dispatcher.model.event import DeadEvent, DeadReason, Event, Record, Skipped

TODAY = dt.date(2026, 11, 3)
DAYS = (TODAY - dt.timedelta(days=2), TODAY + dt.timedelta(days=1))
NOON_MS = int(dt.datetime(2026, 11, 3, 12, tzinfo=dt.UTC).timestamp() * 1_000)


def an_event(day: dt.date = TODAY, account: str = "acct_a") -> Event:
    at = dt.datetime.combine(day, dt.time(12), dt.UTC)
    return Event(b"e" * 20, "evt_e", account, "live", "verification.completed", None, None, None, None, at, b"{}", 0)


def a_record(offset: int = 0, timestamp_ms: int = NOON_MS, partition: int = 0) -> Record:
    return Record("topic", partition, offset, timestamp_ms, b"key", b"value", ())


def bury(record: Record, dead: DeadEvent) -> DeadRecord:
    return DeadRecord(
        record.topic, record.partition, record.offset, dead.reason, dead.detail, record.key, b"[]", record.value
    )


def a_builder() -> BatchBuilder:
    return BatchBuilder("log", DAYS, bury)


@pytest.mark.parametrize("days", [-2, 0, 1], ids=["first", "today", "last"])
def test_an_event_lies_on_its_own_day(days: int) -> None:
    day = TODAY + dt.timedelta(days=days)

    assert place(an_event(day), a_record(timestamp_ms=0), DAYS) == day


@pytest.mark.parametrize("days", [-3, 2], ids=["too old", "too new"])
def test_an_event_of_a_day_that_is_not_kept_lies_on_its_records_day(days: int) -> None:
    assert place(an_event(TODAY + dt.timedelta(days=days)), a_record(), DAYS) == TODAY


@pytest.mark.parametrize("timestamp_ms", [-1, 0, NOON_MS - 3 * 86_400_000, 2**62, -(2**63)])
def test_an_event_without_a_day_that_is_kept_lies_nowhere(timestamp_ms: int) -> None:
    assert place(an_event(dt.date(2020, 1, 1)), a_record(timestamp_ms=timestamp_ms), DAYS) is None


def test_a_builder_sorts_events_dead_and_skipped() -> None:
    builder = a_builder()
    builder.add_span(("topic", 0), 5, 9)
    builder.add(a_record(5), an_event())
    builder.add(a_record(6), DeadEvent(DeadReason.NOT_JSON, "at byte 0"))
    builder.add(a_record(7), Skipped("unknown_type"))
    builder.add(a_record(8, timestamp_ms=-1), an_event(dt.date(2020, 1, 1)))

    batch = builder.build()

    assert batch.spans == (Span("topic", 0, 5, 9),)
    assert [(p.offset, p.event_day) for p in batch.events] == [(5, TODAY)]
    assert [(d.offset, d.reason) for d in batch.dead] == [(6, DeadReason.NOT_JSON), (8, DeadReason.BAD_TIMESTAMP)]
    assert builder.skipped == {("topic", 0): 1}


@pytest.mark.parametrize("is_buried", [False, True])
def test_events_of_unknown_accounts_are_counted_or_buried_and_the_others_stay(is_buried: bool) -> None:
    builder = a_builder()
    builder.add_span(("topic", 0), 0, 3)
    records = {("topic", 0, offset): a_record(offset) for offset in range(3)}
    for offset, account in enumerate(["acct_a", "acct_b", "acct_a"]):
        builder.add(a_record(offset), an_event(account=account))
    assert builder.accounts() == {"acct_a", "acct_b"}

    builder.drop_accounts(frozenset({"acct_b"}), records=records if is_buried else None)

    batch = builder.build()
    assert [placed.offset for placed in batch.events] == [0, 2]
    assert [(d.offset, d.reason, d.detail) for d in batch.dead] == (
        [(1, DeadReason.UNKNOWN_ACCOUNT, "acct_b")] if is_buried else []
    )
    assert builder.skipped == ({} if is_buried else {("topic", 0): 1})
    assert batch.spans == (Span("topic", 0, 0, 3),)


def test_an_event_that_is_there_twice_with_two_times_lies_on_one_day() -> None:
    builder = a_builder()
    yesterday = TODAY - dt.timedelta(days=1)
    builder.add(a_record(1), an_event(TODAY))
    builder.add(a_record(2), an_event(yesterday))
    builder.add(a_record(3), an_event(yesterday, account="acct_b"))

    assert [placed.event_day for placed in builder.build().events] == [TODAY, TODAY, yesterday]


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    spans, events, dead = [], [], []
    for partition in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, 50))
        offsets = draw(st.lists(st.integers(start, start + 60), unique=True, max_size=12))
        offsets.sort()
        stop = (offsets[-1] if offsets else start) + 1 + draw(st.integers(0, 3))
        spans.append(Span("topic", partition, start, stop))
        for offset in offsets:
            if draw(st.booleans()):
                events.append(PlacedEvent("topic", partition, offset, TODAY, an_event()))
            else:
                dead.append(
                    bury(a_record(offset, partition=partition), DeadEvent(DeadReason.NOT_JSON, "")),
                )
    # Events of unknown accounts are buried after all others: the dead are in no order.
    return Batch("log", tuple(spans), tuple(events), tuple(draw(st.permutations(dead))))


def n_items(batch: Batch) -> int:
    return len(batch.events) + len(batch.dead)


def leaves(batch: Batch) -> list[Batch]:
    parts = halves(batch)
    return [batch] if parts is None else [leaf for part in parts for leaf in leaves(part)]


@given(batches())
def test_halves_hold_the_same_and_read_the_same_stretches(batch: Batch) -> None:
    parts = halves(batch)
    if parts is None:
        assert (len(batch.spans), n_items(batch) <= 1) == (1, True)
        return
    first, second = parts

    assert sorted(first.events + second.events) == sorted(batch.events)
    assert sorted(first.dead + second.dead) == sorted(batch.dead)
    assert first.log_id == second.log_id == batch.log_id
    for part in parts:
        places = [(item.partition, item.offset) for item in part.events]
        places += [(item.partition, item.offset) for item in part.dead]
        for partition, offset in places:
            assert [s.start <= offset < s.stop for s in part.spans if s.partition == partition] == [True]


@given(batches())
def test_halving_again_and_again_ends_with_single_records_in_stretches_that_chain(batch: Batch) -> None:
    found = leaves(batch)

    assert all(n_items(leaf) <= 1 and len(leaf.spans) == 1 for leaf in found)
    assert sum(n_items(leaf) for leaf in found) == n_items(batch)
    for span in batch.spans:
        chain = [leaf.spans[0] for leaf in found if leaf.spans[0].partition == span.partition]
        assert (chain[0].start, chain[-1].stop) == (span.start, span.stop)
        assert all(one.stop == other.start for one, other in pairwise(chain))


@given(batches(), st.sets(st.integers(0, 3)))
def test_only_is_the_part_of_the_named_partitions(batch: Batch, wanted: set[int]) -> None:
    part = only(batch, [("topic", partition) for partition in wanted])

    assert part.spans == tuple(span for span in batch.spans if span.partition in wanted)
    assert part.events == tuple(placed for placed in batch.events if placed.partition in wanted)
    assert part.dead == tuple(dead for dead in batch.dead if dead.partition in wanted)
    assert part.log_id == batch.log_id
