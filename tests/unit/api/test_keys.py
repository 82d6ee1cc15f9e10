"""The text form of API keys."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.ledger import minting
from dispatcher.ledger.keys import parse_key

SECRET = minting.secret_of(b"\x01" * 32)
KEY = minting.checked(f"whd_test_abcdefgh0123_{SECRET}")


def test_a_key_is_taken_apart() -> None:
    parts = parse_key(KEY)

    assert parts is not None
    assert parts.key_id == "abcdefgh0123"
    assert parts.secret_sha256 == minting.digest_of(SECRET)


@given(st.integers(0, len(KEY) - 1), st.sampled_from(string.ascii_letters + string.digits + "_-é"))
def test_a_key_with_one_wrong_character_is_none(place: int, wrong: str) -> None:
    text = KEY[:place] + wrong + KEY[place + 1 :]

    assert (parse_key(text) is None) == (text != KEY)


@pytest.mark.parametrize(
    "text", ["", "whd", "whd_test", KEY[:-1], KEY + "0", KEY.upper(), " " + KEY, "é" * 80, "_" * 70]
)
def test_other_texts_are_none(text: str) -> None:
    assert parse_key(text) is None


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_different_secrets_have_different_texts_of_one_length(first: bytes, second: bytes) -> None:
    texts = minting.secret_of(first), minting.secret_of(second)

    assert (texts[0] == texts[1]) == (first == second)
    assert {len(text) for text in texts} == {43}
