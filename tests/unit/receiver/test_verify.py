"""The receiver's check: what we sign passes, everything else is refused, and only in one way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from dispatcher.policy.signing import Signer, show_secret
from dispatcher.receiver import InvalidWebhook, verify

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
    assert verify(signed(at=now), BODY, SECRET) == "evt_b4zq2k7m5x3n6p"
    lowered = {name.lower(): value for name, value in signed(at=now).items()}
    assert Webhook(SECRET).verify(BODY, lowered)


def test_either_secret_passes_while_one_is_rotated() -> None:
    headers = signed(keys=(OTHER, KEY))

    assert verify(headers, BODY, SECRET, now=NOW)
    assert verify(headers, BODY, show_secret(OTHER), now=NOW)
    assert verify(signed(), BODY, show_secret(OTHER), SECRET, now=NOW)


@given(at=st.integers(0, len(BODY) - 1), bit=st.integers(0, 7))
def test_one_changed_bit_is_refused(at: int, bit: int) -> None:
    altered = bytearray(BODY)
    altered[at] ^= 1 << bit

    with pytest.raises(InvalidWebhook, match="no signature matches"):
        verify(signed(), bytes(altered), SECRET, now=NOW)


@pytest.mark.parametrize(("offset", "passes"), [(300, True), (-300, True), (301, False), (-301, False)])
def test_five_minutes_both_ways(offset: int, passes: bool) -> None:
    if passes:
        verify(signed(), BODY, SECRET, now=NOW + offset)
        return
    with pytest.raises(InvalidWebhook, match="5 minutes"):
        verify(signed(), BODY, SECRET, now=NOW + offset)


@pytest.mark.parametrize("name", ["Webhook-Id", "webhook-timestamp", "WEBHOOK-SIGNATURE"])
def test_a_missing_header_is_named(name: str) -> None:
    headers = signed()
    del headers[name]

    with pytest.raises(InvalidWebhook, match=name.lower()):
        verify(headers, BODY, SECRET, now=NOW)


@given(
    event_id=st.text(max_size=30),
    stamp=st.text(max_size=15),
    signature=st.text(max_size=200),
    body=st.binary(max_size=50),
)
def test_no_request_can_raise_anything_else(event_id: str, stamp: str, signature: str, body: bytes) -> None:
    headers = {"webhook-id": event_id, "webhook-timestamp": stamp, "webhook-signature": signature}

    with pytest.raises(InvalidWebhook):
        verify(headers, body, SECRET, now=NOW)
    with pytest.raises(InvalidWebhook):
        verify({**headers, "webhook-timestamp": str(NOW)}, body, SECRET, now=NOW)
