"""Signatures against published vectors and an independent library."""

import base64
import datetime as dt
import json
from pathlib import Path

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.policy.signing import NEW_KEY_BYTES, Signer, last4, parse_secret, show_secret

VECTORS = json.loads(Path("schemas/vectors/signatures.json").read_text("utf-8"))["vectors"]

keys = st.binary(min_size=24, max_size=64)
bodies = st.dictionaries(st.text(max_size=20), st.text(max_size=200), max_size=3).map(
    lambda data: json.dumps(data, ensure_ascii=False).encode()
)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_published_vector_is_reproduced(vector: dict[str, str]) -> None:
    key = parse_secret(vector["secret"])
    assert key is not None

    made = Signer([key]).sign(vector["id"].encode(), str(vector["timestamp"]).encode(), vector["body"].encode())

    assert made.decode() == vector["signature"]


def test_two_keys_sign_newest_first_in_one_value_with_one_space() -> None:
    newest, older = b"n" * 36, b"o" * 32

    made = Signer([newest, older]).sign(b"evt_1", b"1793697900", b"{}")

    alone = [Signer([key]).sign(b"evt_1", b"1793697900", b"{}") for key in (newest, older)]
    assert made == b" ".join(alone)
    assert made.count(b" ") == 1


@given(st.lists(keys, min_size=1, max_size=3), bodies)
def test_each_key_of_a_rotation_verifies_with_the_independent_library(rotation: list[bytes], body: bytes) -> None:
    now = str(int(dt.datetime.now(dt.UTC).timestamp()))

    made = Signer(rotation).sign(b"evt_1", now.encode(), body)

    headers = {"webhook-id": "evt_1", "webhook-timestamp": now, "webhook-signature": made.decode()}
    for key in rotation:
        assert standardwebhooks.Webhook(show_secret(key)).verify(body, headers) == json.loads(body)


@given(keys, bodies, st.integers(0, 10_000))
def test_a_changed_byte_fails_with_the_independent_library(key: bytes, body: bytes, at: int) -> None:
    now = str(int(dt.datetime.now(dt.UTC).timestamp()))
    made = Signer([key]).sign(b"evt_1", now.encode(), body + b"x")
    changed = bytearray(body + b"x")
    changed[at % len(changed)] = ord("y") if changed[at % len(changed)] != ord("y") else ord("z")
    headers = {"webhook-id": "evt_1", "webhook-timestamp": now, "webhook-signature": made.decode()}

    with pytest.raises((standardwebhooks.WebhookVerificationError, UnicodeDecodeError)):
        standardwebhooks.Webhook(show_secret(key)).verify(bytes(changed), headers)


@pytest.mark.parametrize("rotation", [[], [b"k" * 23], [b"k" * 36, b"k" * 65]])
def test_no_key_or_one_of_a_wrong_length_is_refused(rotation: list[bytes]) -> None:
    with pytest.raises(ValueError, match="24 to 64 bytes"):
        Signer(rotation)


@given(keys)
def test_a_secret_survives_its_text_form(key: bytes) -> None:
    assert parse_secret(show_secret(key)) == key


def test_a_new_secret_has_no_padding_and_is_told_by_its_end() -> None:
    text = show_secret(bytes(range(NEW_KEY_BYTES)))

    assert "=" not in text
    assert last4(text) == text[-4:]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX",
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFQ==",
        "whsec_" + base64.b64encode(b"k" * 65).decode(),
        "whsec_" + base64.urlsafe_b64encode(b"\xff" * 36).decode(),
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX\n",
        "whsec_AAECAwQFBgcI CQoLDA0ODxAREhMUFRYX",
        "whsec_" + "é" * 48,
        show_secret(b"k" * 25)[:-3] + "x==",
    ],
)
def test_any_other_text_is_no_secret(text: str) -> None:
    assert parse_secret(text) is None
