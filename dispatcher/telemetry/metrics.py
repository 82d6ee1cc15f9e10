"""The metric catalogue: every metric, its labels and their closed values, and where they are counted.

Counting is a plain addition on a Python number, scraped by a collector of our own: the client library's own
counters take a lock per increment, which at ten increments per delivery would cost more than signing it.
All combinations of labels exist from the start, so that a rate never has a hole. No label names a host, an
account, an endpoint or an id.
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dispatcher.model.endpoint import EndpointStatus, HealthState
from dispatcher.model.event import DeadReason
from dispatcher.model.outcome import OutcomeKind, VerdictKind

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LONG_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3_600.0, 86_400.0)
SIZES: Final = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0)
PHASES: Final = ("dns", "connect", "tls", "wait", "total")
RECORD_RESULTS: Final = ("accepted", "duplicate", "skipped", "dead", "refused")
COPY_RESULTS: Final = ("sent", "failed", "dropped")
TOKEN_RESULTS: Final = ("granted", "used", "expired")
DAILY_TABLES: Final = ("event", "attempt", "response")
OTHER_TYPE: Final = "other"
ENDPOINT_STATES: Final = (*(status.value for status in EndpointStatus), HealthState.FAILING.value)
"""An endpoint counts once: one that is enabled and fails is `failing`."""


@dataclass(frozen=True, slots=True)
class Description:
    """One line of the catalogue. `kind` is counter, gauge or histogram; `labels` maps names to closed values."""

    name: str
    kind: str
    help: str
    labels: Mapping[str, Sequence[str]]
    buckets: tuple[float, ...] = ()


class Counts:
    """A counter or gauge: `counts[labels]` is its value; a metric without labels has the key `()`."""

    __slots__ = ("values",)

    def __init__(self, keys: Iterable[tuple[str, ...]]) -> None:
        self.values: dict[tuple[str, ...], float] = dict.fromkeys(keys, 0.0)

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Count up. Labels outside the closed list raise KeyError."""
        self.values[labels] += by

    def put(self, value: float, *labels: str) -> None:
        """Set the value."""
        self.values[labels] = value


class Spread:
    """A histogram without further labels: how many values fell below each bound."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def observe_all(self, values: Sequence[float]) -> None:
        """Count many values at once, in no order: a look-up for each bound rather than for each value."""
        ascending = sorted(values)
        places = [bisect_right(ascending, bound) for bound in self._bounds]
        for bucket, (below, upto) in enumerate(itertools.pairwise((0, *places, len(ascending)))):
            self.counts[bucket] += upto - below
        self.total += sum(ascending)

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, how many at or below it), the last for all."""
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        return list(zip(bounds, itertools.accumulate(self.counts), strict=True))


_EVENTS: Final = "dispatcher_events"

_CATALOGUE: Final = (
    Description(
        "dispatcher_records", "counter", "Kafka records read, by what became of them", {"result": RECORD_RESULTS}
    ),
    Description(_EVENTS, "counter", "Events accepted", {"type": ()}),
    Description(
        "dispatcher_dropped_fields", "counter", "Fields of records that are not part of the published schema", {}
    ),
    Description("dispatcher_event_conflicts", "counter", "Duplicates whose body differs from the stored one", {}),
    Description(
        "dispatcher_deliveries",
        "counter",
        "Settled deliveries, by verdict",
        {"verdict": [kind.value for kind in VerdictKind]},
    ),
    Description(
        "dispatcher_attempts", "counter", "Attempts, by outcome", {"outcome": [kind.value for kind in OutcomeKind]}
    ),
    Description(
        "dispatcher_attempt_duration_seconds", "histogram", "Time of an attempt, by phase", {"phase": PHASES}, SECONDS
    ),
    Description(
        "dispatcher_end_to_end_seconds", "histogram", "From the event's own time to its delivery", {}, LONG_SECONDS
    ),
    Description(
        "dispatcher_ingest_to_first_attempt_seconds",
        "histogram",
        "From acceptance to the start of the first attempt",
        {},
        SECONDS,
    ),
    Description("dispatcher_accept_seconds", "histogram", "Time of statement S1", {}, SECONDS),
    Description("dispatcher_settle_seconds", "histogram", "Time of statement S2, with retries", {}, SECONDS),
    Description("dispatcher_settle_batch_size", "histogram", "Settlements per statement S2", {}, SIZES),
    Description("dispatcher_kafka_lag_records", "gauge", "Records not yet accepted", {"topic": (), "partition": ()}),
    Description("dispatcher_kafka_partitions", "gauge", "Partitions assigned to this process", {}),
    Description("dispatcher_oldest_due_age_seconds", "gauge", "Age of the oldest delivery that is due in Postgres", {}),
    Description(
        "dispatcher_oldest_throttled_age_seconds",
        "gauge",
        "Age of the oldest delivery that waits for its host's rate",
        {},
    ),
    Description("dispatcher_due_deliveries", "gauge", "Deliveries due in Postgres", {}),
    Description(
        "dispatcher_held_deliveries",
        "gauge",
        "Deliveries made before their endpoint was paused or disabled, and held; events that come after have none",
        {},
    ),
    Description("dispatcher_delivery_dead_rows", "gauge", "Dead rows of the delivery table, not yet vacuumed", {}),
    Description(
        "dispatcher_oldest_transaction_age_seconds",
        "gauge",
        "Age of the oldest transaction of the database, which keeps dead rows; other roles' need pg_read_all_stats",
        {},
    ),
    Description("dispatcher_in_flight", "gauge", "Attempts under way", {}),
    Description("dispatcher_suspects_in_flight", "gauge", "Attempts under way to hosts that keep us waiting", {}),
    Description("dispatcher_lanes", "gauge", "Lanes in memory", {}),
    Description("dispatcher_lane_bytes", "gauge", "Counted bytes of deliveries and unwritten results in memory", {}),
    Description("dispatcher_unsettled", "gauge", "Settlements not yet written", {}),
    Description("dispatcher_hosts_paused", "gauge", "Hosts that are paused", {}),
    Description("dispatcher_tokens", "counter", "Rate tokens, by what became of them", {"result": TOKEN_RESULTS}),
    Description("dispatcher_takeovers", "counter", "Replicas taken over by this process", {}),
    Description("dispatcher_taken_over_rows", "counter", "Deliveries freed by takeovers", {}),
    Description("dispatcher_adopted_rows", "counter", "Deliveries found to be ours after a lost answer", {}),
    Description("dispatcher_fenced", "counter", "Times that this process was taken over, and so had to end", {}),
    Description("dispatcher_progress_refused", "counter", "Batches refused because a position stood elsewhere", {}),
    Description("dispatcher_lost_records", "counter", "Records deleted from Kafka before they were read", {}),
    Description(
        "dispatcher_positions_beyond_log",
        "counter",
        "Partitions that ended before what was accepted of them, and were read from their beginning",
        {},
    ),
    Description(
        "dispatcher_dead_events",
        "counter",
        "Dead events, by reason",
        {"reason": [reason.value for reason in DeadReason]},
    ),
    Description(
        "dispatcher_dead_letter_copies",
        "counter",
        "Copies of dead records for the dead-letter topic, by what became of them",
        {"result": COPY_RESULTS},
    ),
    Description("dispatcher_seals_under_old_keys", "gauge", "Stored values sealed with a key that is not primary", {}),
    Description("dispatcher_seals_renewed", "counter", "Stored values sealed again with the primary key", {}),
    Description("dispatcher_loop_lag_seconds", "gauge", "How late the event loop runs", {}),
    Description("dispatcher_log_lines_dropped", "counter", "Log lines dropped because nobody read them", {}),
    Description("dispatcher_replica_lease_seconds", "gauge", "Seconds left of the own lease", {}),
    Description("dispatcher_live_replicas", "gauge", "Replicas whose lease holds", {}),
    Description("dispatcher_partitions_ahead_days", "gauge", "Days for which tables are made ahead", {}),
    Description("dispatcher_dropped_tables", "counter", "Daily tables dropped by retention", {"table": DAILY_TABLES}),
    Description(
        "dispatcher_kept_back_tables",
        "gauge",
        "Daily tables of events past their retention that are still needed",
        {},
    ),
    Description(
        "dispatcher_endpoints",
        "gauge",
        "Endpoints, by status; enabled ones that fail are failing",
        {"status": ENDPOINT_STATES},
    ),
)
"""The types of events come with the schemas: `catalogue` puts them in."""


def catalogue(event_types: Sequence[str]) -> list[Description]:
    """Return every metric. `event_types` closes the label of the events; others count as `other`."""
    closed = {"type": (*event_types, OTHER_TYPE)}
    return [replace(one, labels=closed) if one.name == _EVENTS else one for one in _CATALOGUE]


class Metrics(Collector):
    """All metrics of one process, registered in `registry`. One loop counts and scrapes."""

    def __init__(self, registry: CollectorRegistry, event_types: Sequence[str]) -> None:
        self.catalogue: Final = catalogue(event_types)
        self._counts: dict[str, Counts] = {}
        self._spreads: dict[str, dict[tuple[str, ...], Spread]] = {}
        self._before_scrape: list[Callable[[], None]] = []
        for one in self.catalogue:
            keys = list(itertools.product(*one.labels.values()))
            if one.kind == "histogram":
                self._spreads[one.name] = {key: Spread(one.buckets) for key in keys}
            else:
                self._counts[one.name] = Counts(keys)
        registry.register(self)

    def counts(self, name: str) -> Counts:
        """Return a counter or gauge by its name without `_total`; a name that does not exist raises KeyError."""
        return self._counts[f"dispatcher_{name}"]

    def spread(self, name: str, *labels: str) -> Spread:
        """Return one histogram by its name and labels."""
        return self._spreads[f"dispatcher_{name}"][labels]

    def before_scrape(self, refresh: Callable[[], None]) -> None:
        """Call `refresh` before each scrape; for gauges that are read off something. Must be quick."""
        self._before_scrape.append(refresh)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it stands."""
        for refresh in self._before_scrape:
            refresh()
        for one in self.catalogue:
            names = list(one.labels)
            if one.kind == "histogram":
                histogram = HistogramMetricFamily(one.name, one.help, labels=names)
                for key, spread in self._spreads[one.name].items():
                    histogram.add_metric(key, spread.buckets(), spread.total)
                yield histogram
                continue
            family: CounterMetricFamily | GaugeMetricFamily
            family = (CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily)(
                one.name, one.help, labels=names
            )
            for key, value in self._counts[one.name].values.items():
                family.add_metric(key, value)
            yield family
