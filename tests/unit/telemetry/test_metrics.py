"""Metrics: what a scrape shows, complete from the first one on."""

import itertools
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from dispatcher.model.outcome import OutcomeKind, VerdictKind
from dispatcher.telemetry.metrics import SECONDS, Metrics, Spread, catalogue

TYPES = ["verification.created", "verification.completed"]
FOREIGN = {"host", "account", "account_id", "endpoint", "endpoint_id", "url", "id", "event_id", "delivery_id"}


class Scraped:
    """Metrics of their own, and what a scrape of them shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, TYPES)

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def samples(self) -> Iterator[Sample]:
        for family in text_string_to_metric_families(self.text()):
            yield from family.samples

    def value(self, name: str, **labels: str) -> float:
        (found,) = (sample.value for sample in self.samples() if sample.name == name and sample.labels == labels)
        return found


def test_every_combination_of_labels_is_there_from_the_first_scrape_on() -> None:
    scraped = Scraped()
    shown = {(sample.name, frozenset(sample.labels.items())) for sample in scraped.samples()}

    for one in catalogue(TYPES):
        name = {"counter": f"{one.name}_total", "histogram": f"{one.name}_count"}.get(one.kind, one.name)
        for values in itertools.product(*one.labels.values()):
            assert (name, frozenset(zip(one.labels, values, strict=True))) in shown
    assert all(sample.value == 0.0 for sample in scraped.samples())


def test_the_lists_of_the_model_are_labels_whole() -> None:
    labels = {one.name: one.labels for one in catalogue(TYPES)}

    assert set(labels["dispatcher_attempts"]["outcome"]) == set(OutcomeKind)
    assert set(labels["dispatcher_deliveries"]["verdict"]) == set(VerdictKind)
    assert list(labels["dispatcher_events"]["type"]) == [*TYPES, "other"]


def test_no_label_names_a_host_an_account_an_endpoint_or_an_id() -> None:
    assert [one.name for one in catalogue(TYPES) if FOREIGN & set(one.labels)] == []


def test_no_metric_is_listed_twice_and_each_says_what_it_means() -> None:
    listed = catalogue(TYPES)

    assert len({one.name for one in listed}) == len(listed)
    assert all(one.help and one.name.startswith("dispatcher_") for one in listed)
    assert all(bool(one.buckets) == (one.kind == "histogram") for one in listed)


def test_what_is_counted_is_scraped() -> None:
    scraped = Scraped()

    scraped.metrics.counts("records").add("accepted", by=3)
    scraped.metrics.counts("records").add("accepted")
    scraped.metrics.counts("in_flight").put(7)

    assert scraped.value("dispatcher_records_total", result="accepted") == 4
    assert scraped.value("dispatcher_records_total", result="dead") == 0
    assert scraped.value("dispatcher_in_flight") == 7


def test_a_label_or_a_metric_outside_the_catalogue_is_a_fault() -> None:
    metrics = Scraped().metrics

    with pytest.raises(KeyError):
        metrics.counts("records").add("example.com")
    with pytest.raises(KeyError):
        metrics.counts("unheard_of")


def test_gauges_are_read_off_just_before_each_scrape() -> None:
    scraped = Scraped()
    numbers = itertools.count(1)
    scraped.metrics.before_scrape(lambda: scraped.metrics.counts("lanes").put(next(numbers)))

    assert scraped.value("dispatcher_lanes") == 1
    assert scraped.value("dispatcher_lanes") == 2


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_histogram_counts_each_value_in_every_bucket_that_it_fits(values: list[float]) -> None:
    spread = Spread(SECONDS)
    for value in values:
        spread.observe(value)

    for bound, count in spread.buckets():
        assert count == sum(value <= float(bound) for value in values)
    assert spread.total == pytest.approx(sum(values))


@given(st.lists(st.floats(0, 100) | st.sampled_from(SECONDS), max_size=50))
def test_values_counted_at_once_are_counted_as_one_by_one(values: list[float]) -> None:
    at_once, one_by_one = Spread(SECONDS), Spread(SECONDS)
    at_once.observe_all(values)
    for value in values:
        one_by_one.observe(value)

    assert at_once.counts == one_by_one.counts
    assert at_once.total == pytest.approx(one_by_one.total)


def test_a_histogram_is_scraped_with_its_sum_and_count() -> None:
    scraped = Scraped()
    for seconds in (0.001, 0.002, 99.0):
        scraped.metrics.spread("attempt_duration_seconds", "dns").observe(seconds)

    name = "dispatcher_attempt_duration_seconds"
    assert scraped.value(f"{name}_count", phase="dns") == 3
    assert scraped.value(f"{name}_sum", phase="dns") == pytest.approx(99.003)
    assert scraped.value(f"{name}_bucket", phase="dns", le="0.001") == 1
    assert scraped.value(f"{name}_bucket", phase="dns", le="10") == 2
    assert scraped.value(f"{name}_bucket", phase="dns", le="+Inf") == 3
    assert scraped.value(f"{name}_count", phase="tls") == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, which comes with Prometheus")
def test_the_checker_of_prometheus_accepts_a_scrape() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=Scraped().text(), capture_output=True, text=True, check=False
    )

    # Tables are made by the day: seconds would hide what the number says.
    known = 'dispatcher_partitions_ahead_days use base unit "seconds" instead of "days"'
    assert (checked.stdout, checked.stderr.splitlines()) == ("", [known])
