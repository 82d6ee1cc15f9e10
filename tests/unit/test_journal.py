"""What the rooms tell becomes the right counts and the right lines."""

import datetime as dt
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from dispatcher.journal import Journal, short_line
from dispatcher.kit import clock
from dispatcher.model.batch import Accepted, Batch, DeadRecord, PlacedEvent, Span
from dispatcher.model.delivery import Settlement
from dispatcher.model.endpoint import Target
from dispatcher.model.event import DeadReason, Event
from dispatcher.model.ids import DeliveryIds
from dispatcher.model.news import News, NewsKind
from dispatcher.model.outcome import OutcomeKind, Phases, Verdict, VerdictKind
from dispatcher.telemetry.metrics import Metrics
from tests.support.builders import BORN, a_delivery, a_settlement, a_target, an_outcome, some_news

IDS = DeliveryIds(b"k" * 32)


class Book:
    """A journal, its metrics, and what changed in them since the start."""

    def __init__(self, attempts_logged: str = "failures") -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, ["verification.completed", *NewsKind])
        self.journal = Journal(self.metrics, IDS, attempts_logged=attempts_logged)

    def counted(self) -> dict[str, float]:
        """Return every sample that is not zero, as `name{values}`; buckets and sums left out."""
        return {
            sample.name.removeprefix("dispatcher_")
            + (f"{{{','.join(sample.labels.values())}}}" * bool(sample.labels)): (sample.value)
            for family in self.registry.collect()
            for sample in family.samples
            if sample.value and not sample.name.endswith(("_bucket", "_sum"))
        }

    def attempted(self, settlement: Settlement, target: Target | None = None) -> list[Any]:
        """Tell the journal of an attempt and return what it logged."""
        with capture_logs() as lines:
            self.journal.attempted(settlement.delivery, target or a_target(), settlement)
        return list(lines)


def failed(verdict: VerdictKind = VerdictKind.RETRY, retry_in: float | None = 5.04) -> Settlement:
    outcome = an_outcome(OutcomeKind.HTTP_5XX, status=503, reason="the peer said so")
    return a_settlement(a_delivery(attempts=1), outcome=outcome, verdict=Verdict(verdict, 2, retry_in), attempt_no=2)


def an_event(kind: str = "verification.completed", dropped_fields: int = 0) -> Event:
    return Event(
        b"e" * 20, "evt_e", "acct_5hQ2vN8rTb", "live", kind, None, None, None, None, BORN, b"{}", dropped_fields
    )


def placed(partition: int, event: Event) -> PlacedEvent:
    return PlacedEvent("t", partition, 1, dt.date(2026, 11, 3), event)


def dead(partition: int, reason: DeadReason) -> DeadRecord:
    return DeadRecord("t", partition, 2, reason, "data.x", None, b"[]", b"sealed")


def test_a_delivered_first_attempt_counts_in_every_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Book()
    monkeypatch.setattr(clock, "now", lambda: BORN.timestamp() + 2.0)
    outcome = an_outcome(phases=Phases(0.001, 0.002, None, 0.003))

    book.attempted(a_settlement(outcome=outcome, started_mono=0.5))

    assert book.counted() == {
        "attempts_total{delivered}": 1,
        "deliveries_total{delivered}": 1,
        "attempt_duration_seconds_count{dns}": 1,
        "attempt_duration_seconds_count{connect}": 1,
        "attempt_duration_seconds_count{wait}": 1,
        "attempt_duration_seconds_count{total}": 1,
        "end_to_end_seconds_count": 1,
        "ingest_to_first_attempt_seconds_count": 1,
    }
    assert book.metrics.spread("end_to_end_seconds").total == pytest.approx(2.0)
    assert book.metrics.spread("ingest_to_first_attempt_seconds").total == pytest.approx(0.5)
    assert book.metrics.spread("attempt_duration_seconds", "total").total == pytest.approx(0.02)


def test_attempts_are_counted_whether_or_not_anybody_asks() -> None:
    book = Book()
    ended = {VerdictKind.DELIVERED: a_settlement(), VerdictKind.RETRY: failed()}
    for n in range(2_500):
        book.attempted(ended[VerdictKind.RETRY if n % 5 == 0 else VerdictKind.DELIVERED])

    assert len(book.journal._noted) < 1_000
    for _ in range(2):
        counted = book.counted()
        assert (counted["deliveries_total{delivered}"], counted["deliveries_total{retry}"]) == (2_000, 500)
        assert (counted["attempts_total{delivered}"], counted["attempts_total{http_5xx}"]) == (2_000, 500)
        assert counted["attempt_duration_seconds_count{total}"] == 2_500
        assert counted["end_to_end_seconds_count"] == 2_000


def test_what_was_sent_again_says_nothing_about_our_speed() -> None:
    book = Book("all")

    (line,) = book.attempted(a_settlement(a_delivery(attempts=10, attempts_before=10), attempt_no=11))

    assert (line["attempt"], line["attempt_max"]) == (11, 10 + len(a_target().schedule))
    assert "end_to_end_seconds_count" not in book.counted()
    assert "ingest_to_first_attempt_seconds_count" not in book.counted()


@pytest.mark.parametrize("kind", [VerdictKind.RETRY, VerdictKind.EXHAUSTED, VerdictKind.GONE])
def test_a_failed_later_attempt_counts_its_outcome_and_its_verdict(kind: VerdictKind) -> None:
    book = Book()

    book.attempted(failed(kind))

    assert book.counted() == {
        "attempts_total{http_5xx}": 1,
        f"deliveries_total{{{kind}}}": 1,
        "attempt_duration_seconds_count{total}": 1,
    }


@pytest.mark.parametrize("kind", [VerdictKind.PARKED, VerdictKind.HELD, VerdictKind.CANCELED])
def test_a_verdict_without_an_attempt_counts_no_attempt_and_says_nothing(kind: VerdictKind) -> None:
    book = Book("all")
    seen: list[Settlement] = []
    book.journal.watchers.append(lambda _, __, settlement: seen.append(settlement))

    lines = book.attempted(a_settlement(outcome=None, verdict=Verdict(kind, 0, 1.0), key_ids=()))

    assert book.counted() == {f"deliveries_total{{{kind}}}": 1}
    assert (lines, seen) == ([], [])


def test_an_event_from_the_future_never_makes_a_negative_time(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Book()
    monkeypatch.setattr(clock, "now", lambda: BORN.timestamp() - 60.0)

    book.attempted(a_settlement())

    assert book.metrics.spread("end_to_end_seconds").total == 0.0


@pytest.mark.parametrize(("setting", "of_success", "of_failure"), [("all", 1, 1), ("failures", 0, 1), ("none", 0, 0)])
def test_attempts_are_logged_as_the_setting_says(setting: str, of_success: int, of_failure: int) -> None:
    book = Book(setting)

    assert len(book.attempted(a_settlement())) == of_success
    assert len(book.attempted(failed())) == of_failure


def test_a_failed_attempt_is_one_wide_line_and_a_warning() -> None:
    settlement = failed()

    (line,) = Book().attempted(settlement)

    assert line == {
        "event": "attempt_settled",
        "log_level": "warning",
        "event_id": "evt_" + line["event_id"][4:],
        "event_type": "verification.completed",
        "account_id": "acct_5hQ2vN8rTb",
        "endpoint_id": "we_0000000000000001",
        "delivery_id": IDS.show(settlement.delivery.delivery_id),
        "host": "https://example.com:443",
        "attempt": 2,
        "attempt_max": 3,
        "status": 503,
        "outcome": "http_5xx",
        "reason": "the peer said so",
        "verdict": "retry",
        "duration_seconds": 0.02,
        "queued_seconds": 0.0,
        "retry_in_seconds": 5.0,
    }


def test_watchers_see_every_attempt_whatever_is_logged() -> None:
    book, seen = Book("none"), list[OutcomeKind]()
    book.journal.watchers.append(lambda _, __, settlement: seen.append(settlement.outcome.kind))  # type: ignore[union-attr]

    book.attempted(a_settlement())
    book.attempted(failed())

    assert seen == [OutcomeKind.DELIVERED, OutcomeKind.HTTP_5XX]


def test_an_accepted_batch_counts_events_duplicates_and_dead_records() -> None:
    book = Book()
    batch = Batch(
        "log",
        (Span("t", 0, 0, 9),),
        (placed(0, an_event()), placed(0, an_event("unheard.of", dropped_fields=3))),
        (dead(0, DeadReason.NOT_JSON), dead(0, DeadReason.TOO_LARGE)),
    )

    with capture_logs() as lines:
        book.journal.accepted(batch, Accepted(frozenset(), (), 1, 1, 0), 0.01)

    assert book.counted() == {
        "accept_seconds_count": 1,
        "records_total{accepted}": 1,
        "records_total{duplicate}": 1,
        "records_total{dead}": 2,
        "events_total{verification.completed}": 1,
        "events_total{other}": 1,
        "dropped_fields_total": 3,
        "dead_events_total{not_json}": 1,
        "dead_events_total{too_large}": 1,
    }
    assert [(line["event"], line["reason"], line["offset"]) for line in lines] == [
        ("record_died", "not_json", 2),
        ("record_died", "too_large", 2),
    ]
    assert "sealed" not in str(lines)


def test_what_a_refused_partition_brought_counts_as_refused_alone() -> None:
    book = Book()
    brought = tuple(placed(1, an_event(dropped_fields=2)) for _ in range(3))
    batch = Batch("log", (), brought, (dead(1, DeadReason.NOT_JSON),))

    with capture_logs() as lines:
        book.journal.accepted(batch, Accepted(frozenset({("t", 1), ("t", 0)}), (), 0, 0, 0), 0.01)

    assert book.counted() == {"accept_seconds_count": 1, "records_total{refused}": 4, "progress_refused_total": 2}
    assert [(line["event"], line["partitions"]) for line in lines] == [("positions_refused", ["t/0", "t/1"])]


def test_a_conflict_is_loud() -> None:
    book = Book()

    with capture_logs() as lines:
        book.journal.accepted(Batch("log", (), (), ()), Accepted(frozenset(), (), 0, 2, 2), 0.01)

    assert book.counted()["event_conflicts_total"] == 2
    assert [(line["event"], line["log_level"], line["n_events"]) for line in lines] == [
        ("event_conflicted", "error", 2)
    ]


def test_skipped_lost_beyond_and_adopted_are_counted_as_many_as_they_are() -> None:
    book = Book()

    with capture_logs() as lines:
        book.journal.skipped(4, "not in the catalogue")
        book.journal.lost("t", 0, 10, 17)
        book.journal.beyond("t", 0, 100)
        book.journal.adopted(3)
        book.journal.copied(2, "sent")
        book.journal.copied(5, "dropped")
        book.journal.settled(25, 0.004)

    assert book.counted() == {
        "records_total{skipped}": 4,
        "lost_records_total": 7,
        "positions_beyond_log_total": 1,
        "adopted_rows_total": 3,
        "dead_letter_copies_total{sent}": 2,
        "dead_letter_copies_total{dropped}": 5,
        "settle_seconds_count": 1,
        "settle_batch_size_count": 1,
    }
    assert book.metrics.spread("settle_batch_size").total == 25
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["records_lost", "position_beyond_log"]


def test_the_lag_shows_the_partitions_that_are_ours_and_no_others() -> None:
    book = Book()

    book.journal.lagged({("t", 0): 5, ("t", 1): 6})
    book.journal.lagged({("t", 1): 7, ("t", 2): None})

    assert book.counted() == {"kafka_lag_records{t,1}": 7, "kafka_partitions": 2}
    assert ("t", "2") not in book.metrics.counts("kafka_lag_records").values


def test_no_sample_names_a_host_an_account_an_endpoint_or_an_id() -> None:
    book = Book("all")
    settlement = failed()
    book.attempted(settlement)
    book.attempted(a_settlement())

    text = generate_latest(book.registry).decode()

    for name in ("example.com", "acct_", "we_00", "evt_", "dlv_"):
        assert name not in text


def test_the_short_line_says_what_happened_and_what_follows() -> None:
    target = a_target()
    retried, ended, done = failed(), failed(VerdictKind.EXHAUSTED, None), a_settlement()

    lines = [short_line(one.delivery, target, one, "09:24:55") for one in (retried, ended, done)]

    assert lines == [
        "09:24:55  verification.completed           we_0000000000000001    2/3  503    20.0 ms  again in 5 s",
        "09:24:55  verification.completed           we_0000000000000001    2/3  503    20.0 ms  exhausted",
        "09:24:55  verification.completed           we_0000000000000001    1/3  200    20.0 ms",
    ]


@pytest.mark.parametrize(
    ("news", "line"),
    [
        (some_news(), {"event": "endpoint_failing"}),
        (
            some_news(NewsKind.ENDPOINT_DISABLED, disabled_reason="gone"),
            {"event": "endpoint_disabled", "reason": "gone"},
        ),
        (some_news(NewsKind.DELIVERY_EXHAUSTED), None),
    ],
    ids=lambda given: given.kind if isinstance(given, News) else None,
)
def test_news_count_as_events_and_endpoints_in_trouble_are_logged(news: News, line: dict[str, str] | None) -> None:
    book = Book()

    with capture_logs() as lines:
        book.journal.announced([news])

    whose = {"endpoint_id": "we_0000000000000001", "account_id": "acct_5hQ2vN8rTb", "log_level": "warning"}
    assert lines == ([] if line is None else [{**line, **whose}])
    assert book.counted() == {f"events_total{{{news.kind}}}": 1}
