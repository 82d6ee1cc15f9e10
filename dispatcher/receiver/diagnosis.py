"""Say which rule a request breaks, in words, and what to do about it.

`verify` stops at the first broken rule and cannot say why a signature does not match. Here everything is looked at,
and where nothing matches, what usually goes wrong is undone step by step: once the signature fits, the cause is known.
"""

import base64
import hmac
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from dispatcher.receiver.capture import Capture
from dispatcher.receiver.rules import BODY_CURES, RAW_BODY, Finding, Rule
from dispatcher.receiver.verify import (
    SIGNED_HEADERS,
    TOLERANCE_SECONDS,
    InvalidWebhook,
    known_signatures,
    secret_key,
    sign,
    signed_headers,
)

_FOLDED: Final = re.compile(r",\s*(?=v\d+a?,)")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What became of a request. `secret_number` counts from 1: which of the secrets signed it, None if none did."""

    event_id: str | None
    signed_at: int | None
    secret_number: int | None
    findings: list[Finding]

    @property
    def is_verified(self) -> bool:
        """Tell whether a receiver would accept it."""
        return not self.findings


def diagnose(
    capture: Capture, secrets: Sequence[str], *, now: float, tolerance: float = TOLERANCE_SECONDS
) -> Diagnosis:
    """Look at everything in a request, as of `now` (Unix seconds); without findings a receiver accepts it."""
    keys, findings = _keys(secrets)
    headers = _headers(capture, findings)
    if headers is None:
        return Diagnosis(None, None, None, findings)
    event_id, stamp, offered = headers
    signed_at = int(stamp)
    _check_age(int(now) - signed_at, signed_at, tolerance, findings)
    signatures = known_signatures(offered)
    number = _signer(keys, event_id, stamp, capture.body, signatures)
    if not signatures:
        findings.append(
            Finding(
                Rule.NO_KNOWN_SIGNATURE,
                "webhook-signature holds no entry of version v1",
                "Pass the whole header on: v1a entries come beside v1, never alone.",
            )
        )
    elif keys and number is None:
        findings += _causes(capture, keys, secrets, event_id, stamp, signatures)
    return Diagnosis(event_id, signed_at, number, findings)


def _keys(secrets: Sequence[str]) -> tuple[dict[int, bytes], list[Finding]]:
    keys: dict[int, bytes] = {}
    findings = []
    for number, secret in enumerate(secrets, 1):
        try:
            keys[number] = secret_key(secret)
        except ValueError as fault:
            standard = secret.replace("-", "+").replace("_", "/").replace("whsec/", "whsec_")
            rule, cure = Rule.SECRET_MALFORMED, "Copy it whole, from whsec_ on, as it was shown."
            if standard != secret:
                rule, cure = Rule.SECRET_URL_SAFE, "Secrets are in the standard alphabet: write + for - and / for _."
                with suppress(ValueError):
                    keys[number] = secret_key(standard)
            findings.append(Finding(rule, f"secret {number}: {fault}", cure))
    return keys, findings


def _headers(capture: Capture, findings: list[Finding]) -> tuple[str, str, str] | None:
    """Return id, timestamp and signatures, mended where it is plain what they were; None when they cannot be used."""
    values = {}
    for name in SIGNED_HEADERS:
        found = capture.all_of(name)
        if not found:
            cure = "Proxies and frameworks drop or rename headers: look at what your server gets."
            findings.append(Finding(Rule.HEADER_MISSING, f"the header {name} is missing", cure))
            continue
        if len(found) > 1:
            cure = "It is sent once: something in between adds a second one."
            findings.append(Finding(Rule.HEADER_REPEATED, f"the header {name} came {len(found)} times", cure))
        values[name] = _mended(name, found[0], findings)
    try:
        return signed_headers(values)
    except InvalidWebhook as fault:
        if len(values) == len(SIGNED_HEADERS):
            cure = "Pass the header on as it came; nothing may change it on the way."
            findings.append(Finding(Rule.HEADER_MALFORMED, str(fault), cure))
        return None


def _mended(name: str, value: str, findings: list[Finding]) -> str:
    # Signatures hold a comma each; the other two none.
    folded = _FOLDED.sub(" ", value) if name == "webhook-signature" else value.partition(",")[0]
    if folded != value:
        cure = "One line is sent, with spaces between its entries: a proxy folded two; let it pass one on, unchanged."
        findings.append(Finding(Rule.HEADERS_FOLDED, f"{name} holds two header lines, folded with a comma", cure))
        value = folded
    if name == "webhook-timestamp" and value.isdigit() and len(value) == 13:
        cure = "It is sent in seconds: pass the header on as it came."
        findings.append(Finding(Rule.TIMESTAMP_IN_MILLISECONDS, "webhook-timestamp is in milliseconds", cure))
        value = value[:-3]
    return value


def _check_age(age: int, signed_at: int, tolerance: float, findings: list[Finding]) -> None:
    if age > tolerance:
        what = f"webhook-timestamp is {age} s in the past; {tolerance:g} s are allowed"
        cure = (
            f"A saved request grows old: --now {signed_at} judges it as of its sending. If it was refused on arrival, "
            "set the clock (NTP), and verify before a queue, not after it."
        )
        findings.append(Finding(Rule.TIMESTAMP_TOO_OLD, what, cure))
    if -age > tolerance:
        what = f"webhook-timestamp is {-age} s in the future; {tolerance:g} s are allowed"
        findings.append(Finding(Rule.TIMESTAMP_TOO_NEW, what, "Set this machine's clock (NTP)."))


def _signer(
    keys: Mapping[int, bytes], event_id: str, stamp: str, body: bytes, signatures: Sequence[bytes]
) -> int | None:
    """Return the number, from 1, of the key that made one of the signatures."""
    for number, key in keys.items():
        expected = sign(key, event_id, stamp, body)
        if any(hmac.compare_digest(one, expected) for one in signatures):
            return number
    return None


def _causes(
    capture: Capture,
    keys: Mapping[int, bytes],
    secrets: Sequence[str],
    event_id: str,
    stamp: str,
    signatures: Sequence[bytes],
) -> list[Finding]:
    """Return why no signature matches; never empty."""
    for rule, body in _undone(capture.body):
        if _signer(keys, event_id, stamp, body, signatures):
            what, cure = BODY_CURES[rule]
            return [Finding(rule, what, cure)]
    own_id = _id_in(capture.body)
    if own_id not in {None, event_id}:
        what = f"webhook-id is {event_id}, the id in the body {own_id}"
        cure = "These are the headers of one request and the body of another, or the header was changed."
        return [Finding(Rule.ID_MISMATCH, what, cure)]
    texts = [text.strip().removeprefix(cut).encode() for text in secrets for cut in ("", "whsec_")]
    if _signer(dict(enumerate(texts, 1)), event_id, stamp, capture.body, signatures):
        cure = "Whoever made this signature has to decode the secret after whsec_ from base64 first."
        return [Finding(Rule.SECRET_NOT_DECODED, "it was signed with the text of the secret as key", cure)]
    return [_guess(capture)]


def _undone(body: bytes) -> Iterator[tuple[Rule, bytes]]:
    """Yield what the body was before the usual accidents."""
    yield Rule.BODY_TRAILING_NEWLINE, body.rstrip(b"\r\n")
    yield Rule.BODY_NEWLINE_LOST, body + b"\n"
    yield Rule.BODY_NEWLINE_LOST, body + b"\r\n"
    yield Rule.BODY_LINE_ENDS, body.replace(b"\r\n", b"\n")
    yield Rule.BODY_LINE_ENDS, body.replace(b"\n", b"\r\n")
    yield Rule.BODY_BYTE_ORDER_MARK, body.removeprefix(b"\xef\xbb\xbf")
    parsed = _parsed(body)
    if isinstance(parsed, str):
        yield Rule.BODY_QUOTED, parsed.encode("utf-8", "replace")
    elif parsed is not None:
        for keep_unicode in (False, True):
            compact = json.dumps(parsed, separators=(",", ":"), ensure_ascii=not keep_unicode)
            yield Rule.BODY_REWRITTEN, compact.encode("utf-8", "replace")
    with suppress(ValueError):
        yield Rule.BODY_IN_BASE64, base64.b64decode(body.strip(), validate=True)
    with suppress(UnicodeError):
        yield Rule.BODY_WRONG_CHARSET, body.decode().encode("latin-1")


def _guess(capture: Capture) -> Finding:
    """Return the likeliest cause, where undoing things did not help."""
    told = [int(value) for value in capture.all_of("content-length") if value.isdigit()]
    if told and told[0] != len(capture.body):
        what = f"content-length says {told[0]} bytes, the body has {len(capture.body)}"
        return Finding(Rule.BODY_CUT, what, "Save the whole body, as bytes; compare with the request again.")
    parsed = _parsed(capture.body)
    if parsed is None:
        return Finding(Rule.BODY_NOT_JSON, "the body is not JSON: cut, compressed or of another request", RAW_BODY)
    # What we send has no blanks between its parts.
    if b'": ' in capture.body or b'", ' in capture.body or b"\n" in capture.body:
        return Finding(
            Rule.BODY_REWRITTEN, "the body has blanks that we never send: it was parsed and written again", RAW_BODY
        )
    what = "no given secret signed exactly this body"
    cure = (
        "Each endpoint has its own secret, and live and test differ: compare its last four characters with those that "
        "the endpoint shows; during a rotation give both. If it is the right one, the body was changed on the way."
    )
    return Finding(Rule.WRONG_SECRET, what, cure)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return None


def _id_in(body: bytes) -> str | None:
    parsed = _parsed(body)
    own = parsed.get("id") if isinstance(parsed, dict) else None
    return own if isinstance(own, str) else None
