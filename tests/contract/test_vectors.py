"""Every published signature, checked with plain HMAC and with an independent library."""

import base64
import datetime as dt
import hashlib
import hmac
import json
from typing import Any

import pytest
import standardwebhooks.webhooks
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from dispatcher.receiver import Reason
from tests.support.record_files import SCHEMAS

PUBLISHED = json.loads((SCHEMAS / "vectors" / "signatures.json").read_text())
VECTORS: dict[str, dict[str, Any]] = {vector["name"]: vector for vector in PUBLISHED["vectors"]}


def key_of(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix("whsec_"), validate=True)


def content_of(vector: dict[str, Any]) -> bytes:
    return f"{vector['id']}.{vector['timestamp']}.{vector['body']}".encode()


def headers_of(vector: dict[str, Any]) -> dict[str, str]:
    return {
        "webhook-id": vector["id"],
        "webhook-timestamp": str(vector["timestamp"]),
        "webhook-signature": vector["signature"],
    }


def receive_at(now: int, vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify as a receiver whose clock shows `now`; raises when the message is refused."""

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return dt.datetime.fromtimestamp(now, tz)

    monkeypatch.setattr(standardwebhooks.webhooks, "datetime", Clock)
    Webhook(vector["secret"]).verify(vector["body"].encode(), headers_of(vector))


def test_all_nine_vectors_are_published() -> None:
    assert "".join(VECTORS) == "ABCDEFGHI"


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_is_what_hmac_makes_of_it(name: str) -> None:
    vector = VECTORS[name]
    body = vector["body"].encode()

    digest = hmac.digest(key_of(vector["secret"]), content_of(vector), "sha256")

    assert vector["signature"] == "v1," + base64.b64encode(digest).decode()
    assert len(body) == vector["body_bytes"]
    assert hashlib.sha256(body).hexdigest() == vector["body_sha256"]
    assert 24 <= len(key_of(vector["secret"])) <= 64


@pytest.mark.parametrize("name", VECTORS)
def test_an_independent_library_accepts_every_vector(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    receive_at(VECTORS[name]["timestamp"], VECTORS[name], monkeypatch)


def test_vector_c_signs_the_example_byte_for_byte() -> None:
    example = (SCHEMAS / "examples" / "good" / "verification.completed.json").read_bytes()

    assert VECTORS["C"]["body"].encode() == example
    assert len(example) == 806
    assert hashlib.sha256(example).hexdigest() == ("ccf3ddc6b19ea0d8428a182bf6cb98465904f1a0851acade7d2c9d6f446cfda4")


def test_both_secrets_verify_during_a_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    rotation = PUBLISHED["rotation"]
    entries = [VECTORS[name]["signature"] for name in rotation["vectors"]]

    assert rotation["webhook_signature"] == " ".join(entries)
    for name in rotation["vectors"]:
        vector = VECTORS[name] | {"signature": rotation["webhook_signature"]}
        receive_at(vector["timestamp"], vector, monkeypatch)


@pytest.mark.parametrize("case", PUBLISHED["refused"], ids=lambda case: case["name"])
def test_what_must_be_refused_is_refused(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    vector = VECTORS[case["vector"]] | case.get("change", {})
    now = case.get("now", VECTORS[case["vector"]]["timestamp"])

    # A list of entries that it cannot split raises ValueError there; receivers have to catch everything.
    with pytest.raises((WebhookVerificationError, ValueError)):
        receive_at(now, vector, monkeypatch)


def test_every_refusal_has_a_reason_of_the_receivers_list_and_every_reason_of_one_request_a_refusal() -> None:
    published = {case["reason"] for case in PUBLISHED["refused"]}

    # The other three are about requests that one vector cannot show.
    assert set(Reason) - published == {Reason.HEADER_MISSING, Reason.HEADER_REPEATED, Reason.BODY_NOT_UTF8}
    assert published <= set(Reason)


@pytest.mark.parametrize("case", PUBLISHED["accepted"], ids=lambda case: case["name"])
def test_the_edges_of_what_is_accepted(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    vector = VECTORS[case["vector"]] | case.get("change", {})

    receive_at(case.get("now", vector["timestamp"]), vector, monkeypatch)


def test_the_asymmetric_entry_verifies_with_its_public_key_and_not_over_another_body() -> None:
    published = PUBLISHED["ed25519"]
    secret = base64.b64decode(published["secret_key"].removeprefix("whsk_"))
    public = base64.b64decode(published["public_key"].removeprefix("whpk_"))
    signature = base64.b64decode(published["entry"].removeprefix("v1a,"))
    content = content_of(VECTORS[published["vector"]])

    assert secret == bytes(range(32)) + public
    assert Ed25519PrivateKey.from_private_bytes(secret[:32]).sign(content) == signature
    Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content + b"\n")
