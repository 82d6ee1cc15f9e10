"""Instants: which texts are one."""

import datetime as dt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatcher.policy.instants import read_instant, read_shown
from dispatcher.policy.projection import show_timestamp

NINE = dt.datetime(2026, 11, 3, 9, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-03T09:00:00Z", NINE),
        ("2026-11-03t09:00:00z", NINE),
        ("2026-11-03T10:30:00+01:30", NINE),
        ("2026-11-03T09:00:00-00:00", NINE),
        ("2026-11-03T09:00:00.000Z", NINE),
        ("2026-11-03T09:00:00.1234567899Z", NINE.replace(microsecond=123_456)),
        ("9999-12-31T23:59:59.999999Z", dt.datetime.max.replace(tzinfo=dt.UTC)),
    ],
)
def test_what_rfc_3339_says_is_read(text: str, instant: dt.datetime) -> None:
    assert read_instant(text) == instant


@pytest.mark.parametrize(
    "text",
    [
        "", "yesterday", "2026-11-03", "2026-11-03T09:00:00", "2026-11-03T09:00Z", "2026-11-03 09:00:00Z",
        "20261103T090000Z", "2026-W48-5T00:00:00Z", "2026-308T09:00:00Z", "2026-11-03T09:00:00+01",
        "2026-11-03T09:00:00+0100", "2026-11-03T09:00:00,5Z", "2026-11-03T09:00:00.Z", "2026-11-03T09:00:60Z",
        "2026-11-03T24:00:00Z", "2026-02-30T09:00:00Z", "2026-11-03T09:00:00+24:00", "2026-11-03T09:00:00+01:60",
        "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "\u0662026-11-03T09:00:00Z", "2026-11-03T09:00:00Z\n",
    ],
)  # fmt: skip
def test_every_other_form_is_refused(text: str) -> None:
    assert read_instant(text) is None


@given(st.datetimes(timezones=st.just(dt.UTC)))
def test_what_we_would_write_is_read_back(instant: dt.datetime) -> None:
    assert read_instant(instant.isoformat()) == instant


@given(st.datetimes(timezones=st.just(dt.UTC)))
def test_a_body_shows_an_instant_in_the_form_that_is_read_at_once(instant: dt.datetime) -> None:
    shown = show_timestamp(instant)

    assert read_shown(shown) == read_instant(shown) == instant.replace(microsecond=instant.microsecond // 1_000 * 1_000)
    assert read_shown(shown).tzinfo is dt.UTC  # type: ignore[union-attr]


@given(st.text("0123456789T:.-Z+ tz\u0662\ud800", min_size=22, max_size=26))
@example("2026-11-03T24:00:00.000Z")
@example("2026-11-03T09:00:60.000Z")
@example("2026-02-30T09:00:00.000Z")
@example("0000-01-01T00:00:00.000Z")
@example("2026-11-03t09:00:00.000Z")
@example("2026-11-03T09:00:00.0000Z")
@example("2026-11-03T09:00:00.000+00:00")
@example("2026-W45-2T09:24:55.312Z")
@example("\u0662026-11-03T09:00:00.00Z")
def test_what_is_read_at_once_is_an_instant_and_shown_as_it_was_written(text: str) -> None:
    at_once = read_shown(text)

    assert at_once is None or (at_once == read_instant(text) and show_timestamp(at_once) == text)
