"""The table of a run says everything, and only a run in which everything went as planned is good."""

from dataclasses import replace

import pytest

from dispatcher.kit.failpoints import Point
from tests.chaos.history import Findings, Rule, Violation
from tests.chaos.points import Action, Cycle, Target
from tests.chaos.report import Report, percentile
from tests.chaos.toxics import Harm, Link, Toxic

REPORT = Report(
    cycles=[
        Cycle("settle.sent:3:kill", 2, 7, 4.0, target=Target(Point.SETTLE_SENT)),
        Cycle("settle.sent:1:hang", 1, 5, 14.0, target=Target(Point.SETTLE_SENT, Action.HANG)),
        Cycle("kill -9", 1, 3, 2.0),
    ],
    findings=Findings(1_000, 2_000, 4, 2, 15, -3.5),
    takeovers=[8.0, 8.5, 20.0],
    exit_codes=[0, 0],
    fallen=[],
    seconds=60.0,
    quiet_seconds=9.0,
    ends={"kill -9": 2},
    harms=[Harm("p0", Link.KAFKA, Toxic.STALL, 1.0, 2.0)],
    seed=7,
)


def test_the_table_has_a_row_for_every_promise_and_every_point() -> None:
    text = "\n".join(REPORT.lines())

    for words in (
        "4 in 3 cycles",
        "1,000",
        "2,000",
        "8.5 / 20.0 / 20.0 s",
        "9.0 s",
        "-3.5 requests",
        "links to Kafka      stall 1",
        "acts: kill -9 1",
        "ends: kill -9 2",
    ):
        assert words in text
    (row,) = [line.split() for line in text.splitlines() if "settle.sent" in line]
    assert row == ["settle.sent", "1/1", "0/0", "1/1", "12", "18.0"]
    assert REPORT.is_good


@pytest.mark.parametrize(
    "flawed",
    [
        replace(REPORT, fallen=["p1-3 ended by itself with 1"]),
        replace(REPORT, exit_codes=[0, 1]),
        replace(REPORT, cycles=[*REPORT.cycles, Cycle("scaled", 0, 0, 1.0, reached=False)]),
        replace(REPORT, findings=replace(REPORT.findings, violations=[Violation(Rule.LOST, "evt_1")])),
    ],
    ids=["fallen", "exit", "not-as-planned", "violation"],
)
def test_any_flaw_makes_a_run_bad_and_is_named(flawed: Report) -> None:
    assert not flawed.is_good
    assert len(list(flawed.lines())) > len(list(REPORT.lines()))


def test_percentiles_are_values_that_occurred() -> None:
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.5, 0.99, 1.0)] == [2.0, 3.0, 3.0]
