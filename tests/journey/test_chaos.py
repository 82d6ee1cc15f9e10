"""A short sweep of kill points: two processes under load, each death followed by a judgement of all that happened."""

from pathlib import Path

import pytest

from dispatcher.kit.failpoints import Point
from tests.chaos.points import Target
from tests.chaos.run import Wishes, run
from tests.chaos.world import Size

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

POINTS = (Point.ACCEPT_SENT, Point.ATTEMPT_WRITTEN, Point.SETTLE_SENT)


async def test_kills_at_the_points_that_matter_lose_nothing_and_repeat_no_more_than_was_in_flight(
    tmp_path: Path,
) -> None:
    size = Size(n_processes=2, per_second=20.0)
    wishes = Wishes([Target(point) for point in POINTS], n_random=0, seed=7, size=size, quiet_seconds=120.0)

    report = await run(tmp_path, wishes, print)

    print(*report.lines(), sep="\n")
    assert report.findings.violations == []
    assert [cycle.name for cycle in report.cycles if not cycle.reached] == []
    assert (list(report.exit_codes), list(report.fallen)) == ([0, 0], [])
    assert report.findings.n_events > 0
    assert report.findings.bound > 0
    assert report.is_good
