"""The receiver's check: what we sign passes, everything else is refused, and only in one way."""

import base64
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Library

from dispatcher.policy.signing import Signer, show_secret
from dispatcher.receiver import InvalidWebhook, Reason, Webhook, verify
from tests.support.record_files import SCHEMAS

PUBLISHED = json.loads((SCHEMAS / "vectors" / "signatures.json").read_text(encoding="utf-8"))
VECTORS: dict[str, dict[str, Any]] = {vector["name"]: vector for vector in PUBLISHED["vectors"]}
KEY, OTHER = b"k" * 36, b"o" * 36
SECRET = show_secret(KEY)
NOW = 1_793_697_900
BODY = '{"name":"José 日本"}'.encode()


def signed(
    body: bytes = BODY, *, keys: tuple[bytes, ...] = (KEY,), at: int = NOW, event_id: str = "evt_b4zq2k7m5x3n6p"
) -> dict[str, str]:
    """Return the headers that the dispatcher would send."""
    signature = Signer(keys).sign(event_id.encode(), str(at).encode(), body)
    return {"Webhook-Id": event_id, "webhook-timestamp": str(at), "WEBHOOK-SIGNATURE": signature.decode()}


def test_what_we_sign_passes_here_and_in_the_independent_library() -> None:
    import time

    now = int(time.time())
    assert verify(signed(at=now), BODY, SECRET) == Webhook("evt_b4zq2k7m5x3n6p", now, BODY)
    lowered = {name.lower(): value for name, value in signed(at=now).items()}
    assert Library(SECRET).verify(BODY, lowered)


def test_either_secret_passes_while_one_is_rotated() -> None:
    headers = signed(keys=(OTHER, KEY))

    assert verify(headers, BODY, SECRET, now=NOW).id
    assert verify(headers, BODY, show_secret(OTHER), now=NOW).id
    assert verify(signed(), BODY, [show_secret(OTHER), SECRET], now=NOW).id


@given(at=st.integers(0, len(BODY) - 1), bit=st.integers(0, 7))
def test_one_changed_bit_is_refused(at: int, bit: int) -> None:
    altered = bytearray(BODY)
    altered[at] ^= 1 << bit

    with pytest.raises(InvalidWebhook, match="no signature matches"):
        verify(signed(), bytes(altered), SECRET, now=NOW)


@pytest.mark.parametrize(("offset", "passes"), [(300, True), (-300, True), (301, False), (-301, False)])
def test_five_minutes_both_ways(offset: int, passes: bool) -> None:
    if passes:
        verify(signed(), BODY, SECRET, now=NOW + offset + 0.9)
        return
    with pytest.raises(InvalidWebhook, match="301 s in the") as refused:
        verify(signed(), BODY, SECRET, now=NOW + offset)
    assert refused.value.reason is (Reason.TIMESTAMP_TOO_OLD if offset > 0 else Reason.TIMESTAMP_TOO_NEW)


def test_the_tolerance_can_be_narrower() -> None:
    verify(signed(), BODY, SECRET, now=NOW + 10, tolerance=10)
    with pytest.raises(InvalidWebhook, match="more than 10"):
        verify(signed(), BODY, SECRET, now=NOW + 11, tolerance=10)


def test_a_text_as_body_stands_for_its_utf8() -> None:
    assert verify(signed(), BODY.decode(), SECRET, now=NOW).body == BODY
    with pytest.raises(InvalidWebhook) as refused:
        verify(signed(), "\ud800", SECRET, now=NOW)
    assert refused.value.reason is Reason.BODY_NOT_UTF8


def test_the_event_is_the_parsed_body() -> None:
    assert verify(signed(), BODY, SECRET, now=NOW).event() == {"name": "José 日本"}


@pytest.mark.parametrize("name", ["Webhook-Id", "webhook-timestamp", "WEBHOOK-SIGNATURE"])
def test_a_missing_header_is_named(name: str) -> None:
    headers = signed()
    del headers[name]

    with pytest.raises(InvalidWebhook, match=name.lower()):
        verify(headers, BODY, SECRET, now=NOW)


@pytest.mark.parametrize("name", ["Webhook-Id", "webhook-timestamp", "WEBHOOK-SIGNATURE"])
def test_a_header_that_came_twice_is_refused_even_when_both_are_equal(name: str) -> None:
    headers = [*signed().items(), (name.title(), signed()[name])]

    with pytest.raises(InvalidWebhook, match=f"{name.lower()} came 2 times") as refused:
        verify(headers, BODY, SECRET, now=NOW)
    assert refused.value.reason is Reason.HEADER_REPEATED


@pytest.mark.parametrize("event_id", ["", "evt.1", "evt 1", "evt_1, evt_1", "evt_1\n", "é", "e" * 257])
def test_an_id_that_could_be_read_two_ways_is_refused(event_id: str) -> None:
    with pytest.raises(InvalidWebhook, match="webhook-id") as refused:
        verify(signed(event_id=event_id), BODY, SECRET, now=NOW)
    assert refused.value.reason is Reason.HEADER_MALFORMED


@pytest.mark.parametrize("stamp", ["", "-1", "+1793697900", "1793697900.0", " 1793697900", "١٢٣", "1793697900000"])
def test_a_timestamp_is_decimal_seconds(stamp: str) -> None:
    with pytest.raises(InvalidWebhook, match="webhook-timestamp") as refused:
        verify({**signed(), "webhook-timestamp": stamp}, BODY, SECRET, now=NOW)
    assert refused.value.reason is Reason.HEADER_MALFORMED


@pytest.mark.parametrize(
    "form", ["{0}, {0}", "{0},{0}", "{0}  {0}", " {0}", "{0} ", "{0} v1", "v1", "", "{0}" + " {0}" * 10]
)
def test_a_list_of_signatures_that_we_never_send_is_refused_whole(form: str) -> None:
    headers = signed()

    with pytest.raises(InvalidWebhook, match="webhook-signature") as refused:
        verify({**headers, "WEBHOOK-SIGNATURE": form.format(headers["WEBHOOK-SIGNATURE"])}, BODY, SECRET, now=NOW)
    assert refused.value.reason is Reason.HEADER_MALFORMED


def receive(vector: dict[str, Any], now: int) -> str:
    """Verify a published message at a moment."""
    names = {"webhook-id": "id", "webhook-timestamp": "timestamp", "webhook-signature": "signature"}
    headers = {name: str(vector[field]) for name, field in names.items()}
    return verify(headers, vector["body"].encode(), vector["secret"], now=now).id


@pytest.mark.parametrize("vector", VECTORS.values(), ids=lambda vector: vector["description"])
def test_every_published_signature_passes(vector: dict[str, Any]) -> None:
    assert receive(vector, vector["timestamp"]) == vector["id"]


@pytest.mark.parametrize("case", PUBLISHED["accepted"], ids=lambda case: case["name"])
def test_the_published_edges_pass(case: dict[str, Any]) -> None:
    vector = VECTORS[case["vector"]] | case.get("change", {})

    assert receive(vector, case.get("now", vector["timestamp"]))


@pytest.mark.parametrize("case", PUBLISHED["refused"], ids=lambda case: case["name"])
def test_what_is_published_as_refused_is_refused(case: dict[str, Any]) -> None:
    vector = VECTORS[case["vector"]] | case.get("change", {})

    with pytest.raises(InvalidWebhook) as refused:
        receive(vector, case.get("now", VECTORS[case["vector"]]["timestamp"]))
    assert refused.value.reason == case["reason"]


@pytest.mark.parametrize(
    "secret", ["", "whsec_", " \n", "whsec_no base64", "whsec_é", "whsec_AA-_", "whsec_A", "whsec_====", SECRET[:-20]]
)
def test_a_secret_that_is_none_is_the_receivers_own_fault_and_accepts_nobody(secret: str) -> None:
    digest = hmac.digest(b"", f"evt_1.{NOW}.".encode() + BODY, "sha256")
    signature = f"v1,{base64.b64encode(digest).decode()}"
    headers = {"webhook-id": "evt_1", "webhook-timestamp": str(NOW), "webhook-signature": signature}

    for secrets in (secret, [secret], [SECRET, secret]):
        with pytest.raises(ValueError, match="the secret is"):
            verify(headers, BODY, secrets, now=NOW)


def test_no_secrets_accept_nobody() -> None:
    with pytest.raises(ValueError, match="no secret"):
        verify(signed(), BODY, [], now=NOW)


@pytest.mark.parametrize("form", ["{}\n", " {} ", "{}"])
def test_blanks_around_a_secret_and_its_prefix_do_not_matter(form: str) -> None:
    assert verify(signed(), BODY, form.format(SECRET), now=NOW).id
    assert verify(signed(), BODY, form.format(SECRET.removeprefix("whsec_")), now=NOW).id


@pytest.mark.parametrize("version", ["v2", "v1a", "V1"])
def test_a_good_signature_under_another_version_is_skipped(version: str) -> None:
    headers = signed()
    signature = headers["WEBHOOK-SIGNATURE"].partition(",")[2]

    with pytest.raises(InvalidWebhook, match="no v1 entry") as refused:
        verify({**headers, "WEBHOOK-SIGNATURE": f"{version},{signature}"}, BODY, SECRET, now=NOW)
    assert refused.value.reason is Reason.NO_KNOWN_SIGNATURE
    verify({**headers, "WEBHOOK-SIGNATURE": f"{version},x {headers['WEBHOOK-SIGNATURE']}"}, BODY, SECRET, now=NOW)


# Servers decode foreign bytes in headers to lone surrogates.
ANYTHING = st.characters(codec="utf-8") | st.characters(categories=["Cs"])


@pytest.mark.parametrize("name", ["Webhook-Id", "webhook-timestamp", "WEBHOOK-SIGNATURE"])
def test_foreign_bytes_in_a_header_are_refused_like_anything_else(name: str) -> None:
    headers = signed()
    headers[name] = "v1,\udcff" if name.isupper() else "\udcff"

    with pytest.raises(InvalidWebhook):
        verify(headers, BODY, SECRET, now=NOW)


@given(
    event_id=st.text(ANYTHING, max_size=30),
    stamp=st.text(ANYTHING, max_size=15),
    signature=st.text(ANYTHING, max_size=200) | st.text(ANYTHING, max_size=50).map(lambda text: f"v1,{text}"),
    body=st.binary(max_size=50),
)
def test_no_request_can_raise_anything_else(event_id: str, stamp: str, signature: str, body: bytes) -> None:
    headers = {"webhook-id": event_id, "webhook-timestamp": stamp, "webhook-signature": signature}

    with pytest.raises(InvalidWebhook):
        verify(headers, body, SECRET, now=NOW)
    with pytest.raises(InvalidWebhook):
        verify({**headers, "webhook-timestamp": str(NOW)}, body, SECRET, now=NOW)
