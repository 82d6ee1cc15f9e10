"""What `doctor` calls good, doubtful and bad."""

from pathlib import Path

import pytest

from dispatcher.cli import doctor
from dispatcher.cli.checks.database import days_finding, replicas_finding, waiting_finding
from dispatcher.cli.checks.egress import policy_findings
from dispatcher.cli.checks.finding import Finding, Level, clock_finding
from dispatcher.cli.checks.kafka import lag_finding
from dispatcher.cli.checks.places import find_places
from dispatcher.intake.survey import Survey, _chosen
from dispatcher.ledger.checkup import Vitals, Waiting
from dispatcher.policy.addresses import EgressPolicy
from tests.support.terminal import run

VITALS = Vitals(160_000, "16.0", 0.001, 0.0, 1, 0)


@pytest.mark.parametrize(
    ("ahead", "level"), [(0.0, "ok"), (-1.9, "ok"), (2.0, "warn"), (-59.0, "warn"), (60.0, "fail"), (-900.0, "fail")]
)
def test_clocks_are_judged_by_what_signatures_bear(ahead: float, level: str) -> None:
    found = clock_finding("clock", ahead, "the database's")

    assert found.level == level
    assert ("behind" in found.detail) == (ahead <= 0)


@pytest.mark.parametrize(("days", "level"), [(7, "ok"), (3, "ok"), (2, "warn"), (1, "warn"), (0, "fail"), (-3, "fail")])
def test_tables_are_wanted_some_days_ahead(days: int, level: str) -> None:
    assert days_finding(days).level == level


@pytest.mark.parametrize(("live", "overdue", "level"), [(1, 0, "ok"), (2, 1, "warn"), (0, 0, "fail"), (0, 2, "fail")])
def test_somebody_must_be_alive(live: int, overdue: int, level: str) -> None:
    assert replicas_finding(VITALS._replace(n_live=live, n_overdue=overdue)).level == level


@pytest.mark.parametrize(("age", "level"), [(0.0, "ok"), (59.0, "ok"), (60.0, "warn"), (600.0, "fail")])
def test_what_is_due_must_not_wait_for_long(age: float, level: str) -> None:
    assert waiting_finding(Waiting(3, 0, age), n_live=1).level == level


def a_survey(**changes: object) -> Survey:
    place = ("t", 0)
    return Survey("log", 1, 0.01, {place: 100}, {place: 40}, ())._replace(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("positions", "detail", "level"),
    [
        ({("t", 0): 100}, "0 records", "ok"),
        ({("t", 0): 90}, "10 records", "ok"),
        ({}, "60 records", "ok"),
        ({("t", 0): 101}, "beyond the end of t/0", "warn"),
    ],
)
def test_lag_is_what_was_not_taken_in(positions: dict[tuple[str, int], int], detail: str, level: str) -> None:
    found = lag_finding(a_survey(), positions)

    assert detail in found.detail
    assert found.level == level


def test_much_lag_is_told() -> None:
    assert lag_finding(a_survey(ends={("t", 0): 20_000}), {}).level == "warn"


def test_topics_are_chosen_by_name_or_by_pattern() -> None:
    there = {"a.v1", "a.v2", "b"}

    assert _chosen(("a.v1", "c"), there) == (["a.v1"], ("c",))
    assert _chosen(("/a\\..*/",), there) == (["a.v1", "a.v2"], ())
    assert _chosen(("/z.*/",), there) == ([], ("/z.*/",))


@pytest.mark.parametrize(("allowed", "levels"), [([], ["ok", "ok"]), (["127.0.0.0/8"], ["ok", "warn"])])
def test_metadata_stays_refused_and_private_addresses_are_told(allowed: list[str], levels: list[str]) -> None:
    assert [one.level for one in policy_findings(EgressPolicy.parse(allowed, ()))] == levels


@pytest.mark.parametrize(
    ("levels", "code", "said"),
    [
        ("ok ok", 0, "all is well"),
        ("ok skip", 0, "all is well but for 1 not looked at"),
        ("skip skip", 3, "nothing could be looked at"),
        ("skip warn ok", 0, "1 warn, 1 not looked at"),
        ("fail skip", 3, "1 fail, 1 not looked at"),
    ],
)
def test_what_could_not_be_looked_at_is_not_called_well(levels: str, code: int, said: str) -> None:
    found = [Finding("x", Level(level), "", None) for level in levels.split()]

    assert (doctor.exit_code(found), doctor.summary(found)) == (code, said)


def test_doctor_tells_of_variables_that_were_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_DATABASE__URL", "postgresql://db/x")
    monkeypatch.setenv("DISPATCHER_PORT", "tcp://10.0.0.7:8080")

    (found,) = find_places().findings

    assert (found.level, "DISPATCHER_PORT" in found.detail) == (Level.WARN, True)


def test_doctor_with_nothing_to_look_at_says_so(tmp_path: Path) -> None:
    folder = {"DISPATCHER_DATA_DIR": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}

    done = run("doctor", "kafka", environment=folder)

    assert (done.code, done.err.strip()) == (3, "nothing could be looked at")
