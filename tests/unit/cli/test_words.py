"""Times, tables and bars as people read them."""

import datetime as dt
import sys
from typing import Any

import pytest

from dispatcher.cli import table
from dispatcher.cli.progress import bar
from dispatcher.cli.table import draw, fit, plain, width_of
from dispatcher.cli.tail import line_of
from dispatcher.cli.times import parse_duration, parse_moment, relative

NOW = dt.datetime(2026, 11, 3, 12, 0, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "now"),
        (0.9, "now"),
        (-1, "1 s ago"),
        (5, "in 5 s"),
        (-59.9, "59 s ago"),
        (-60, "1 min ago"),
        (3_540, "in 59 min"),
        (4.6, "in 5 s"),
        (86_400 * 90 - 1, "in 90 d"),
        (-7_200, "2 h ago"),
        (86_400 * 3, "in 3 d"),
    ],
)
def test_instants_are_told_from_now_to_one_unit(seconds: float, expected: str) -> None:
    assert relative(NOW + dt.timedelta(seconds=seconds), NOW) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("90s", 90),
        ("1h30m", 5_400),
        ("2d", 172_800),
        ("1.5s", 1.5),
        ("", None),
        ("5", None),
        ("s", None),
        ("-1s", None),
        ("1s ", None),
        ("1 s", None),
    ],
)
def test_durations_are_read_as_people_type_them(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("6h", NOW - dt.timedelta(hours=6)),
        ("0s", NOW),
        ("2026-11-03T09:00:00Z", dt.datetime(2026, 11, 3, 9, tzinfo=dt.UTC)),
        ("2026-11-03T10:00:00+01:00", dt.datetime(2026, 11, 3, 9, tzinfo=dt.UTC)),
        ("2026-11-03", dt.datetime(2026, 11, 3).astimezone()),
        ("2026-11-03t10:00:00.5+01:00", dt.datetime(2026, 11, 3, 9, 0, 0, 500_000, tzinfo=dt.UTC)),
        ("2026-11-03T09:00:00", dt.datetime(2026, 11, 3, 9).astimezone()),
        ("2026-W48-5T00:00:00Z", None),
        ("20261103", None),
        ("2026-11-03T09:00:60Z", None),
        ("yesterday", None),
        ("", None),
        ("99999999999d", None),
        ("9999999d", None),
    ],
)
def test_moments_are_ages_or_iso_times(text: str, moment: dt.datetime | None) -> None:
    assert parse_moment(text, NOW) == moment


def test_columns_shrink_then_the_last_are_left_out() -> None:
    assert fit([10, 40, 20], [False, True, True], 100) == [10, 40, 20]
    assert fit([10, 40, 20], [False, True, True], 60) == [10, 26, 20]
    assert fit([10, 40, 20], [False, True, False], 44) == [10, 32]
    assert fit([50, 40], [False, False], 10) == [50]


@pytest.mark.parametrize("room", range(20, 130, 7))
def test_no_line_of_a_terminal_is_wider_than_it(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(room))
    rows = [["we_1", "https://example.com/" + "x" * 60, "日本語" * 20], ["we_22", "-", "e\u0301" * 40]]

    lines = list(draw(["id", "url", "description"], rows, [False, True, True]))

    assert max(width_of(line) for line in lines) <= room
    assert all(line.startswith(name) for line, name in zip(lines, ["id", "we_1", "we_22"], strict=True))


def test_what_is_cut_keeps_both_ends() -> None:
    cut = table._cut("https://example.com/hooks/one", 16)
    assert (len(cut), cut[:5], cut[-3:]) == (16, "https", "one")


def test_control_characters_are_shown_not_sent() -> None:
    assert plain("a\x1b[2Jb\x07\n\u202e") == "a\\x1b[2Jb\\x07\\n\\u202e"
    assert plain("Zoë 日本") == "Zoë 日本"


@pytest.mark.parametrize(
    ("done", "total", "expected"),
    [(0, 4, "[........................] 0/4"), (2, 4, "[############............] 2/4")],
)
def test_a_bar_fills(done: int, total: int, expected: str) -> None:
    assert bar(done, total) == expected


@pytest.mark.parametrize("done", [0, 5])
def test_a_bar_of_nothing_is_full(done: int) -> None:
    assert bar(done, 0).startswith("[########################]")


ATTEMPT: dict[str, Any] = {
    "started_at": "2026-11-03T12:00:00.085Z",
    "event_type": "verification.completed",
    "endpoint_id": "we_SpKc7ymZvJRZinOn",
    "attempt": 1,
    "status_code": 500,
    "outcome": "http_5xx",
    "verdict": "retry",
    "duration_ms": 2,
    "next_at": "2026-11-03T12:00:05.200Z",
}


def test_an_attempt_is_one_line_with_what_comes_next() -> None:
    line = line_of(ATTEMPT)
    done = line_of({**ATTEMPT, "status_code": 204, "verdict": "delivered", "next_at": None})
    lost = line_of({**ATTEMPT, "status_code": None, "outcome": "dns_error", "verdict": "exhausted", "next_at": None})

    assert "verification.completed         we_SpKc7ymZvJRZinOn    #1   500       2 ms  retry in 5 s" in line
    assert done.endswith("204       2 ms")
    assert lost.endswith("dns_error      2 ms  exhausted")
