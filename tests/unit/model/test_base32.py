"""Base32 of whole numbers: what the library writes, for every length that ids have."""

import base64

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.model.base32 import Base32


@given(st.integers(0, 2**160 - 1))
def test_thirty_two_characters_are_those_of_the_library(number: int) -> None:
    assert Base32(32).show(number) == base64.b32encode(number.to_bytes(20, "big")).decode().lower()


@given(st.integers(0, 2**80 - 1))
def test_sixteen_characters_are_those_of_the_library(number: int) -> None:
    assert Base32(16).show(number) == base64.b32encode(number.to_bytes(10, "big")).decode().lower()


def test_a_small_number_is_filled_up_with_the_character_of_nothing() -> None:
    assert Base32(8).show(33) == "aaaaaabb"
