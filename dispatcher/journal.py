"""What the rooms tell the metrics and the log, in one place.

Each room states the few facts it reports as a protocol beside its use; this class fulfils them all, so that no room
knows a metric's name.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import structlog

from dispatcher.kit import clock
from dispatcher.model.batch import Accepted, Batch
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.endpoint import Target
from dispatcher.model.ids import DeliveryIds
from dispatcher.model.news import News, NewsKind
from dispatcher.model.outcome import OutcomeKind, Phases, VerdictKind
from dispatcher.telemetry.metrics import OTHER_TYPE, PHASES, Metrics

_log = structlog.get_logger("journal")

Watcher = Callable[[Delivery, Target, Settlement], None]

_NOTED: Final = 1_000
"""Attempts that wait to be counted, about 200 KB: that many at once cost a third of what they cost one by one."""

_Noted = tuple[OutcomeKind, VerdictKind, float, Phases, float | None, float | None]
"""An attempt as it is counted: how it ended, its seconds and its phases', how long the first one waited, how late a
delivery came."""


class Journal:
    """Counts and logs. `attempts_logged` is all, failures or none; `watchers` see every attempt (the demo does)."""

    def __init__(self, metrics: Metrics, delivery_ids: DeliveryIds, *, attempts_logged: str) -> None:
        self.watchers: list[Watcher] = []
        self._metrics: Final = metrics
        self._ids = delivery_ids
        self._logged = attempts_logged
        self._noted: list[_Noted] = []
        metrics.before_scrape(self._count_noted)
        self._attempts = metrics.counts("attempts").values
        self._deliveries = metrics.counts("deliveries").values
        self._events = metrics.counts("events").values
        self._records = metrics.counts("records")
        self._lag = metrics.counts("kafka_lag_records").values
        self._phases = [metrics.spread("attempt_duration_seconds", phase) for phase in PHASES[:-1]]
        self._total = metrics.spread("attempt_duration_seconds", "total")
        self._end_to_end = metrics.spread("end_to_end_seconds")
        self._first_attempt = metrics.spread("ingest_to_first_attempt_seconds")
        self._settle_seconds = metrics.spread("settle_seconds")
        self._settle_batch = metrics.spread("settle_batch_size")
        self._tokens = metrics.counts("tokens")

    # lanes

    def attempted(self, delivery: Delivery, target: Target | None, settlement: Settlement) -> None:
        """Note one attempt with its verdict, or a verdict without an attempt."""
        outcome, verdict = settlement.outcome, settlement.verdict.kind
        if outcome is None:
            self._deliveries[(verdict,)] += 1
            return
        waited = late = None
        if delivery.attempts == 0:
            waited = settlement.started_mono - delivery.accepted_mono
        # How late a delivery comes that somebody had sent again says nothing about us.
        if verdict is VerdictKind.DELIVERED and not delivery.attempts_before:
            late = clock.now() - delivery.occurred_at.timestamp()
        self._noted.append((outcome.kind, verdict, outcome.duration_seconds, outcome.phases, waited, late))
        if len(self._noted) >= _NOTED:
            self._count_noted()
        if target is not None:
            if self._logged == "all" or (self._logged == "failures" and outcome.kind is not OutcomeKind.DELIVERED):
                self._log_attempt(delivery, target, settlement)
            for watch in self.watchers:
                watch(delivery, target, settlement)

    def _count_noted(self) -> None:
        if not self._noted:
            return
        outcomes, verdicts, durations, phases, waits, delays = zip(*self._noted, strict=True)
        self._noted.clear()
        for outcome, n in Counter(outcomes).items():
            self._attempts[(outcome,)] += n
        for verdict, n in Counter(verdicts).items():
            self._deliveries[(verdict,)] += n
        self._total.observe_all(durations)
        for spread, seconds in zip(self._phases, zip(*phases, strict=True), strict=True):
            spread.observe_all([one for one in seconds if one is not None])
        self._first_attempt.observe_all([waited for waited in waits if waited is not None])
        self._end_to_end.observe_all([max(0.0, late) for late in delays if late is not None])

    def _log_attempt(self, delivery: Delivery, target: Target, settlement: Settlement) -> None:
        outcome, verdict = settlement.outcome, settlement.verdict
        assert outcome is not None
        _log.log(
            logging.INFO if outcome.kind is OutcomeKind.DELIVERED else logging.WARNING,
            "attempt_settled",
            event_id=delivery.public_event_id,
            event_type=delivery.event_type,
            account_id=target.account,
            endpoint_id=target.public_id,
            delivery_id=self._ids.show(delivery.delivery_id),
            host=target.authority,
            attempt=settlement.attempt_no,
            attempt_max=delivery.last_attempt(target.schedule),
            status=outcome.status,
            outcome=outcome.kind,
            reason=outcome.reason or None,
            verdict=verdict.kind,
            duration_seconds=round(outcome.duration_seconds, 4),
            queued_seconds=round(settlement.started_mono - delivery.accepted_mono, 4),
            retry_in_seconds=None if verdict.retry_in_seconds is None else round(verdict.retry_in_seconds, 1),
        )

    def tokens(self, n_granted: int, n_used: int, n_expired: int) -> None:
        """Count rate tokens: granted by Postgres, used for a request, died unused."""
        for result, n in (("granted", n_granted), ("used", n_used), ("expired", n_expired)):
            if n:
                self._tokens.add(result, by=n)

    # recording

    def settled(self, n_settlements: int, seconds: float) -> None:
        """Note one written batch of settlements."""
        self._settle_seconds.observe(seconds)
        self._settle_batch.observe(n_settlements)

    # health

    def announced(self, news: Sequence[News]) -> None:
        """Note operational events. That a delivery was given up stands in the line of its last attempt."""
        for one in news:
            self._events[(one.kind,)] += 1
            if one.kind is NewsKind.ENDPOINT_FAILING:
                _log.warning("endpoint_failing", endpoint_id=one.about.public_id, account_id=one.about.account)
            elif one.kind is NewsKind.ENDPOINT_DISABLED:
                _log.warning(
                    "endpoint_disabled",
                    endpoint_id=one.about.public_id,
                    account_id=one.about.account,
                    reason=one.about.disabled_reason,
                )

    # intake

    def accepted(self, batch: Batch, accepted: Accepted, seconds: float) -> None:
        """Note one accepted batch: events by type, duplicates, conflicts, dead records, refused partitions."""
        self._metrics.spread("accept_seconds").observe(seconds)
        self._records.add("accepted", by=accepted.n_events)
        self._records.add("duplicate", by=accepted.n_duplicates)
        refused = accepted.refused
        events = [one.event for one in batch.events if not refused or (one.topic, one.partition) not in refused]
        for event_type, n_events in Counter([event.type for event in events]).items():
            key = (event_type,)
            self._events[key if key in self._events else (OTHER_TYPE,)] += n_events
        self._metrics.counts("dropped_fields").add(by=sum([event.dropped_fields for event in events]))
        for dead in batch.dead:
            if (dead.topic, dead.partition) in accepted.refused:
                continue
            self._records.add("dead")
            self._metrics.counts("dead_events").add(dead.reason)
            _log.warning(
                "record_died",
                topic=dead.topic,
                partition=dead.partition,
                offset=dead.offset,
                reason=dead.reason,
                detail=dead.detail,
            )
        if accepted.n_conflicts:
            self._metrics.counts("event_conflicts").add(by=accepted.n_conflicts)
            _log.error("event_conflicted", n_events=accepted.n_conflicts)
        if accepted.refused:
            self._records.add("refused", by=_n_records(batch, accepted.refused))
            self._metrics.counts("progress_refused").add(by=len(accepted.refused))
            _log.warning("positions_refused", partitions=sorted(f"{topic}/{part}" for topic, part in accepted.refused))

    def skipped(self, n_records: int, reason: str) -> None:
        """Note records that are sound but not for us."""
        self._records.add("skipped", by=n_records)
        _log.debug("records_skipped", n_records=n_records, reason=reason)

    def lost(self, topic: str, partition: int, from_offset: int, to_offset: int) -> None:
        """Note records that were deleted from Kafka before they were read. Loud: a person must look."""
        self._metrics.counts("lost_records").add(by=to_offset - from_offset)
        _log.error("records_lost", topic=topic, partition=partition, from_offset=from_offset, to_offset=to_offset)

    def copied(self, n_records: int, result: str) -> None:
        """Note copies for the dead-letter topic that were sent, failed or found no room (dropped)."""
        self._metrics.counts("dead_letter_copies").add(result, by=n_records)
        if result == "dropped":
            _log.warning("dead_letter_copies_dropped", n_records=n_records)

    def beyond(self, topic: str, partition: int, position: int) -> None:
        """Note a partition that ends before what was accepted of it. Loud: a log became shorter."""
        self._metrics.counts("positions_beyond_log").add()
        _log.error("position_beyond_log", topic=topic, partition=partition, position=position)

    def lagged(self, lags: Mapping[tuple[str, int], int | None]) -> None:
        """Note how many records of each assigned partition are not accepted yet; others are forgotten.

        One whose end is unknown (None) has no lag, rather than none to speak of.
        """
        self._lag.clear()
        for (topic, partition), lag in lags.items():
            if lag is not None:
                self._lag[topic, str(partition)] = lag
        self._metrics.counts("kafka_partitions").put(len(lags))

    # the whole process

    def fenced(self) -> None:
        """Note that this process was taken over, whichever of its tasks find that out: it happens once in a life."""
        self._metrics.counts("fenced").put(1)

    # due-reader

    def adopted(self, n_deliveries: int) -> None:
        """Note deliveries that were ours without our knowing."""
        self._metrics.counts("adopted_rows").add(by=n_deliveries)
        _log.warning("deliveries_adopted", n_deliveries=n_deliveries)


def _n_records(batch: Batch, partitions: Collection[tuple[str, int]]) -> int:
    """Count the records of some partitions that a batch would have stored, as events or as dead ones."""
    events = sum((placed.topic, placed.partition) in partitions for placed in batch.events)
    return events + sum((dead.topic, dead.partition) in partitions for dead in batch.dead)


def short_line(delivery: Delivery, target: Target, settlement: Settlement, when: str) -> str:
    """Return one readable line about an attempt: time, type, endpoint, status, milliseconds, what follows."""
    outcome: Any = settlement.outcome
    answer = outcome.status if outcome.status is not None else outcome.kind
    follow = ""
    if settlement.verdict.retry_in_seconds is not None:
        follow = f"  again in {settlement.verdict.retry_in_seconds:.0f} s"
    elif settlement.verdict.kind is not VerdictKind.DELIVERED:
        follow = f"  {settlement.verdict.kind}"
    milliseconds = outcome.duration_seconds * 1_000
    attempt = f"{settlement.attempt_no}/{delivery.last_attempt(target.schedule)}"
    return (
        f"{when}  {delivery.event_type:<32} {target.public_id}  {attempt:>5}  {answer}  {milliseconds:6.1f} ms{follow}"
    )
