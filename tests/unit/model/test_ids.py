"""Public ids: permutations without a pattern, the same in every process, one spelling each."""

import base64
import re

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.model.ids import DeliveryIds, event_id_of, new_test_event_id, parse_event_id, show_event_id

NUMBERS = st.integers(0, 2**63 - 1)
IDS = DeliveryIds(b"k" * 32)


@given(NUMBERS)
def test_a_delivery_id_leads_back_to_its_number(number: int) -> None:
    text = IDS.show(number)

    assert len(text) == 17
    assert text.startswith("dlv_")
    assert IDS.parse(text) == number


@given(st.sets(NUMBERS, min_size=2, max_size=50))
def test_different_numbers_have_different_ids(numbers: set[int]) -> None:
    assert len({IDS.show(number) for number in numbers}) == len(numbers)


@given(NUMBERS)
def test_another_installation_shows_another_id(number: int) -> None:
    assert DeliveryIds(b"j" * 32).show(number) != IDS.show(number)


def test_neighbours_share_nothing_that_tells_their_order() -> None:
    shown = [IDS.show(number) for number in range(1_000)]

    assert shown != sorted(shown)
    assert len({text[:8] for text in shown}) > 990


@given(st.text(max_size=20))
def test_what_is_no_delivery_id_is_none(text: str) -> None:
    found = IDS.parse(text)

    assert found is None or IDS.show(found) == text


@given(NUMBERS)
def test_there_is_no_second_spelling(number: int) -> None:
    text = IDS.show(number)
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    twin = text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]

    assert IDS.parse(twin) is None
    assert IDS.parse(text.upper()) is None


@given(st.binary(min_size=20, max_size=20))
def test_event_ids_are_base32_as_the_library_makes_it(raw: bytes) -> None:
    assert show_event_id(raw) == "evt_" + base64.b32encode(raw).decode().lower()
    assert parse_event_id(show_event_id(raw)) == raw


def test_event_ids_are_the_published_ones() -> None:
    assert show_event_id(event_id_of("/verification-core", "7c1d-0006")) == "evt_um5ftg6iliy2zijxfx6es3pxihofvoh5"
    assert show_event_id(event_id_of("/verification-core/eu", "A234-1234-1234")) == (
        "evt_zgevy4z4ayrryq4ge23p326biaf4v7w2"
    )


def test_a_test_events_id_is_told_apart_and_is_no_event_that_is_stored() -> None:
    shown = show_event_id(new_test_event_id())

    assert re.fullmatch(r"evt_test_[a-z2-7]{26}", shown)
    assert parse_event_id(shown) is None
