"""Instants: which texts are one."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.policy.instants import read_instant

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
