"""A request that is refused gets the rule that it breaks, and what would have to be done."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.policy.signing import Signer, show_secret
from dispatcher.receiver import InvalidWebhook, verify
from dispatcher.receiver.capture import Capture
from dispatcher.receiver.diagnosis import Diagnosis, diagnose
from dispatcher.receiver.rules import Rule
from tests.support.record_files import SCHEMAS

NOW = 1_793_697_900
EVENT_ID = "evt_um5ftg6iliy2zijxfx6es3pxihofvoh5"
# With + and / in its text.
KEY = b"\xfb\xef\xbe" * 12
SECRET = show_secret(KEY)
EXAMPLE = (SCHEMAS / "examples" / "good" / "verification.completed.json").read_bytes()
# With what can go wrong: not ASCII, line ends inside a text.
BODY = EXAMPLE.replace(b"user-4711", "Jürgen".encode())
CASES = [line.split("|") for line in (SCHEMAS / "vectors" / "cases.psv").read_text("utf-8").splitlines()]


def signed(body: bytes = BODY, *, event_id: str = EVENT_ID, key: bytes = KEY, at: int = NOW) -> dict[str, str]:
    signature = Signer([key]).sign(event_id.encode(), str(at).encode(), body).decode()
    return {"webhook-id": event_id, "webhook-timestamp": str(at), "webhook-signature": signature}


def look(
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    body: bytes = BODY,
    *secrets: str,
    now: float = NOW,
) -> Diagnosis:
    pairs = headers if isinstance(headers, list) else list((headers or signed()).items())
    return diagnose(Capture(pairs, body), secrets or [SECRET], now=now)


def rules(found: Diagnosis) -> list[Rule]:
    return [finding.rule for finding in found.findings]


def test_a_sound_request_breaks_nothing_and_the_secret_is_told() -> None:
    found = look(signed(), BODY, show_secret(b"o" * 36), SECRET)

    assert found.is_verified
    assert (found.event_id, found.signed_at, found.secret_number) == (EVENT_ID, NOW, 2)


BODY_ACCIDENTS: dict[Rule, list[Callable[[bytes], bytes]]] = {
    Rule.BODY_TRAILING_NEWLINE: [lambda body: body + b"\n", lambda body: body + b"\r\n"],
    Rule.BODY_BYTE_ORDER_MARK: [lambda body: b"\xef\xbb\xbf" + body],
    Rule.BODY_REWRITTEN: [
        lambda body: json.dumps(json.loads(body)).encode(),
        lambda body: json.dumps(json.loads(body), indent=2, ensure_ascii=False).encode(),
        lambda body: json.dumps(json.loads(body), separators=(",", ":")).encode(),
        # Not to be undone, but to be seen.
        lambda body: json.dumps(json.loads(body), sort_keys=True).encode(),
    ],
    Rule.BODY_IN_BASE64: [base64.b64encode, lambda body: base64.b64encode(body) + b"\n"],
    Rule.BODY_QUOTED: [lambda body: json.dumps(body.decode()).encode()],
    Rule.BODY_WRONG_CHARSET: [lambda body: body.decode("latin-1").encode()],
    Rule.BODY_NOT_JSON: [lambda body: body[:-1], lambda _: b"", lambda body: b"\x1f\x8b" + body],
    Rule.WRONG_SECRET: [lambda body: body.replace(b"approved", b"declined")],
    Rule.ID_MISMATCH: [lambda body: body.replace(EVENT_ID.encode(), b"evt_zgevy4z4ayrryq4ge23p326biaf4v7w2")],
}


@pytest.mark.parametrize(
    ("rule", "accident"),
    [(rule, accident) for rule, accidents in BODY_ACCIDENTS.items() for accident in accidents],
    ids=lambda value: str(value) if isinstance(value, Rule) else "",
)
def test_what_happened_to_a_body_is_found(rule: Rule, accident: Callable[[bytes], bytes]) -> None:
    found = look(signed(), accident(BODY))

    assert rules(found) == [rule]
    assert found.findings[0].what
    assert found.findings[0].cure.endswith(".")


@pytest.mark.parametrize(
    ("rule", "sent", "received"),
    [
        (Rule.BODY_NEWLINE_LOST, b'{"a":1}\n', b'{"a":1}'),
        (Rule.BODY_LINE_ENDS, b'{"a":\n1}', b'{"a":\r\n1}'),
        (Rule.BODY_LINE_ENDS, b'{"a":\r\n1}', b'{"a":\n1}'),
    ],
)
def test_what_happened_to_a_body_with_line_breaks_is_found(rule: Rule, sent: bytes, received: bytes) -> None:
    assert rules(look(signed(sent), received)) == [rule]


def test_a_length_that_is_not_the_bodys_is_told() -> None:
    found = look(signed() | {"Content-Length": str(len(BODY))}, BODY[:-7])

    assert rules(found) == [Rule.BODY_CUT]
    assert f"{len(BODY)} bytes, the body has {len(BODY) - 7}" in found.findings[0].what


@pytest.mark.parametrize(
    ("rule", "secret"),
    [
        (Rule.SECRET_URL_SAFE, SECRET.replace("+", "-").replace("/", "_")),
        (Rule.SECRET_MALFORMED, SECRET[:-1]),
        (Rule.SECRET_MALFORMED, "whsec_"),
        (Rule.WRONG_SECRET, show_secret(b"o" * 36)),
    ],
)
def test_what_is_wrong_with_a_secret_is_found_and_the_secret_not_shown(rule: Rule, secret: str) -> None:
    found = look(signed(), BODY, secret)

    assert rules(found) == [rule]
    assert secret.removeprefix("whsec_")[:20] not in str(found.findings) or len(secret) < 10


@pytest.mark.parametrize("key", [SECRET.encode(), SECRET.removeprefix("whsec_").encode()])
def test_a_signature_made_with_the_undecoded_secret_is_found(key: bytes) -> None:
    assert rules(look(signed(key=key))) == [Rule.SECRET_NOT_DECODED]


HEADER_ACCIDENTS: list[tuple[Rule, Callable[[dict[str, str]], Any]]] = [
    (Rule.HEADER_MISSING, lambda h: {n: v for n, v in h.items() if n != "webhook-timestamp"}),
    (Rule.HEADER_REPEATED, lambda h: [*h.items(), ("Webhook-Signature", h["webhook-signature"])]),
    (Rule.HEADERS_FOLDED, lambda h: h | {"webhook-signature": f"v1,AAAA, {h['webhook-signature']}"}),
    (Rule.HEADERS_FOLDED, lambda h: h | {"webhook-signature": f"{h['webhook-signature']},v1,AAAA"}),
    (Rule.HEADERS_FOLDED, lambda h: h | {"webhook-id": f"{EVENT_ID}, {EVENT_ID}"}),
    (Rule.HEADERS_FOLDED, lambda h: h | {"webhook-timestamp": f"{NOW},{NOW}"}),
    (Rule.HEADER_MALFORMED, lambda h: h | {"webhook-signature": h["webhook-signature"][3:]}),
    (Rule.HEADER_MALFORMED, lambda h: h | {"webhook-id": "evt_é"}),
    (Rule.TIMESTAMP_IN_MILLISECONDS, lambda h: h | {"webhook-timestamp": f"{NOW}000"}),
    (Rule.NO_KNOWN_SIGNATURE, lambda h: h | {"webhook-signature": "v1a,AAAA"}),
    (Rule.ID_MISMATCH, lambda h: h | {"webhook-id": "evt_zgevy4z4ayrryq4ge23p326biaf4v7w2"}),
]


@pytest.mark.parametrize(("rule", "accident"), HEADER_ACCIDENTS)
def test_what_happened_to_the_headers_is_found(rule: Rule, accident: Callable[[dict[str, str]], Any]) -> None:
    assert rules(look(accident(signed()))) == [rule]


@pytest.mark.parametrize(("offset", "rule"), [(301, Rule.TIMESTAMP_TOO_OLD), (-301, Rule.TIMESTAMP_TOO_NEW)])
def test_an_old_request_is_told_to_be_old_and_everything_else_looked_at_all_the_same(offset: int, rule: Rule) -> None:
    assert rules(look(now=NOW + offset)) == [rule]
    assert look(now=NOW + offset).secret_number == 1
    assert rules(look(signed(), BODY + b"\n", now=NOW + offset)) == [rule, Rule.BODY_TRAILING_NEWLINE]
    assert f"--now {NOW}" in look(now=NOW + 301).findings[0].cure


def agrees(headers: list[tuple[str, str]], body: bytes, secrets: list[str], now: int) -> bool:
    """Tell whether `verify` accepts exactly what nothing is found in."""
    try:
        verify(headers, body, secrets, now=now)
        accepted = True
    except (InvalidWebhook, ValueError):
        accepted = False
    return diagnose(Capture(headers, body), secrets, now=now).is_verified is accepted


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1])
def test_it_agrees_with_the_check_on_everything_published(case: list[str]) -> None:
    verdict, _, now, secrets, event_id, stamp, signature, body = case
    headers = [("webhook-id", event_id), ("webhook-timestamp", stamp), ("webhook-signature", signature)]

    found = diagnose(Capture(headers, base64.b64decode(body)), secrets.split(), now=int(now))

    assert found.is_verified is (verdict == "accept")
    assert agrees(headers, base64.b64decode(body), secrets.split(), int(now))


TEXT = st.text(max_size=40) | st.sampled_from(list(signed().values())) | st.from_regex(r"(v1a?,[A-Za-z+/=, ]{0,20})*")


@given(
    headers=st.lists(st.tuples(st.sampled_from([*signed(), "content-length"]), TEXT), max_size=5),
    body=st.binary(max_size=40) | st.just(BODY) | st.from_regex(r"[\[{\"0-9:,\]} ]*").map(str.encode),
    secrets=st.lists(st.just(SECRET) | st.text(max_size=20), max_size=2),
)
def test_it_agrees_with_the_check_on_anything_and_never_fails(
    headers: list[tuple[str, str]], body: bytes, secrets: list[str]
) -> None:
    assert agrees(headers, body, secrets, NOW) or not secrets
