"""Opaque places in lists."""

import base64
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.api.cursors import LONGEST_CURSOR, Cursors, from_micros, to_micros
from dispatcher.api.problems import Problem
from dispatcher.ledger.accounts import Tenant
from dispatcher.vault import PlaceSeals

SEALS = PlaceSeals(b"k" * 32)
TENANT = Tenant(1, "test")
CURSORS = Cursors(SEALS, TENANT, "deliveries:7")


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3))
def test_a_place_comes_back_as_it_was(place: list[int]) -> None:
    text = CURSORS.show(place)

    assert CURSORS.read(text, len(place)) == place
    assert len(text) <= LONGEST_CURSOR


@pytest.mark.parametrize(
    "other",
    [
        Cursors(SEALS, TENANT, "deliveries:8"),
        Cursors(SEALS, TENANT, "attempts:7"),
        Cursors(SEALS, Tenant(2, "test"), "deliveries:7"),
        Cursors(SEALS, Tenant(1, "live"), "deliveries:7"),
    ],
)
def test_a_place_of_another_list_is_refused(other: Cursors) -> None:
    with pytest.raises(Problem) as caught:
        CURSORS.read(other.show([1]), 1)

    assert (caught.value.status, caught.value.code) == (400, "invalid_cursor")


def test_a_place_of_another_installation_is_refused() -> None:
    with pytest.raises(Problem):
        CURSORS.read(Cursors(PlaceSeals(b"l" * 32), TENANT, "deliveries:7").show([1]), 1)


def test_a_place_of_another_length_is_refused() -> None:
    with pytest.raises(Problem):
        CURSORS.read(CURSORS.show([1, 2]), 1)


@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(Problem):
        CURSORS.read(text, 1)


@given(st.datetimes(timezones=st.just(dt.UTC)))
def test_an_instant_keeps_every_microsecond(instant: dt.datetime) -> None:
    assert from_micros(to_micros(instant)) == instant
