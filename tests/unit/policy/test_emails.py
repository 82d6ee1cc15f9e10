"""E-mail addresses as names: one spelling each, and nothing but addresses."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.policy.emails import LONGEST_EMAIL, normal_email

LOCAL = st.text(string.ascii_letters + string.digits + ".!#$%&'*+/=?^_`{|}~-", min_size=1, max_size=64)
LABEL = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?", fullmatch=True)
DOMAIN = st.lists(LABEL, min_size=2, max_size=4).map(".".join)


@given(LOCAL, DOMAIN)
def test_an_address_has_one_spelling_whatever_its_case(local: str, domain: str) -> None:
    text = f"{local}@{domain}"
    normal = normal_email(text)

    assert normal == text.lower()
    assert normal_email(text.upper()) == normal_email(normal) == normal


@given(st.text(max_size=300) | st.from_regex(r"[^@]{0,40}@[^@]{0,40}"))
def test_what_passes_is_one_short_line_of_visible_ascii_with_one_at(text: str) -> None:
    normal = normal_email(text)
    if normal is None:
        return

    assert len(normal) <= LONGEST_EMAIL
    assert normal.isascii()
    assert normal.isprintable()
    assert " " not in normal
    assert normal.count("@") == 1
    assert normal == normal.lower()


@given(LOCAL, DOMAIN, st.data())
def test_one_strange_character_spoils_an_address(local: str, domain: str, data: st.DataObject) -> None:
    text = f"{local}@{domain}"
    place = data.draw(st.integers(0, len(text)))
    strange = data.draw(st.sampled_from(' @\t\n\r\x00\x7f"<>(),:;[]\\éİßаⅠ․＠'))

    assert normal_email(text[:place] + strange + text[place:]) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "ada",
        "ada@",
        "@example.com",
        "ada@localhost",
        "ada@example.com.",
        "ada@.example.com",
        "ada@-example.com",
        "ada@example-.com",
        "ada@[192.0.2.1]",
        "ada@exämple.com",
        "ada@еxample.com",
        "ada@\N{KELVIN SIGN}.example.com",
        '"ada"@example.com',
        "a" * 65 + "@example.com",
        f"ada@{'a' * 64}.com",
        f"ada@{'a.' * 125}com",
        "Ada <ada@example.com>",
        "ada@example.com\n",
    ],
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert normal_email(text) is None


@pytest.mark.parametrize("text", ["Ada@Example.COM", "ada+webhooks@xn--exmple-cua.com", "o'hara@mail.example.co.uk"])
def test_addresses_in_use_pass(text: str) -> None:
    assert normal_email(text) == text.lower()


def test_the_longest_address_passes() -> None:
    longest = "a" * 64 + "@" + ".".join(["b" * 61] * 3 + ["c"]) + "d"

    assert len(longest) <= LONGEST_EMAIL
    assert normal_email(longest) == longest
    assert normal_email("a" * 64 + "@" + ".".join(["b" * 63] * 3)) is None
