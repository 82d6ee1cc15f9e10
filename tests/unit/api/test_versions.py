"""Entity tags and If-Match."""

import contextlib
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.api.cursors import from_micros
from dispatcher.api.problems import Problem
from dispatcher.api.versions import read_if_match, show_tag

EPOCH = from_micros(0).replace(tzinfo=None)
WHEN = dt.datetime(2026, 11, 3, 9, 0, 0, 1, tzinfo=dt.UTC)


@given(st.datetimes(min_value=EPOCH, timezones=st.just(dt.UTC)))
def test_a_tag_comes_back_as_its_version(version: dt.datetime) -> None:
    assert read_if_match(show_tag(version)) == frozenset([version])


@pytest.mark.parametrize("header", [None, "*", " * "])
def test_any_version_will_do(header: str | None) -> None:
    assert read_if_match(header) is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f'"nope", {show_tag(WHEN)}', frozenset([WHEN])),
        (f"W/{show_tag(WHEN)}", frozenset()),
        ('"ffffffffffffffff"', frozenset()),
        ('""', frozenset()),
        (f"{show_tag(WHEN)},{show_tag(WHEN)}", frozenset([WHEN])),
    ],
)
def test_what_is_not_our_strong_tag_matches_nothing(header: str, expected: frozenset[dt.datetime]) -> None:
    assert read_if_match(header) == expected


@pytest.mark.parametrize("header", ["", "abc", '"a', '"a" "b"', ",", '"a",', "*, *", '"a\x7f"', '"a",' * 30 + '"a"'])
def test_what_is_no_list_of_tags_is_refused(header: str) -> None:
    with pytest.raises(Problem) as caught:
        read_if_match(header)

    assert (caught.value.status, caught.value.code) == (400, "invalid_if_match")


@given(st.text(max_size=60))
def test_any_header_is_read_or_refused_never_stumbled_over(header: str) -> None:
    with contextlib.suppress(Problem):
        read_if_match(header)
