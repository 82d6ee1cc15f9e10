"""`GET /v1/deliveries/{id}/attempts/{n}`: one attempt whole, its request rebuilt and its answer made harmless.

A request is not stored. What it said is: the same for all (method, names), the endpoint's (URL, own headers), its
event's (body), or recorded with the attempt (second, numbers, secrets that signed). So it is put together again, and
what cannot be is null with the reason.
"""

import base64
from typing import Any, Final
from urllib.parse import urlsplit

from dispatcher.api.call import Answer, Call
from dispatcher.api.problems import not_found
from dispatcher.api.shapes import MASK, show_attempt
from dispatcher.ledger.attempts import AttemptLedger, SentTo, WholeAttempt
from dispatcher.ledger.logs import LoggedAttempt, LoggedResponse
from dispatcher.model.errors import SealBroken
from dispatcher.model.ids import show_event_id
from dispatcher.model.outcome import OutcomeKind
from dispatcher.policy.signing import Signer
from dispatcher.policy.urls import DEFAULT_PORTS

_LONGEST_NUMBER: Final = 5
_NEVER_SENT: Final = frozenset(
    {
        OutcomeKind.DNS_ERROR,
        OutcomeKind.CONNECTION_REFUSED,
        OutcomeKind.TIMEOUT_CONNECT,
        OutcomeKind.TLS_ERROR,
        OutcomeKind.ADDRESS_FORBIDDEN,
    }
)
_TEXTS: Final = ("text/", "application/json", "application/xml", "application/x-www-form-urlencoded")
_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"


async def read_attempt(call: Call) -> Answer:
    """Show one attempt. Bodies, ours and theirs, need the scope `payloads:read`."""
    number = call.services.delivery_ids.parse(call.path["id"])
    attempt_no = _attempt_number(call.path["n"])
    if number is None or attempt_no is None:
        raise not_found()
    ledger = AttemptLedger(call.services.pool)
    found = await ledger.find(call.tenant, number, attempt_no)
    if found is None:
        raise not_found()
    signature, unsigned_because = await _sign_again(call, ledger, found)
    may_read = call.may_read_payloads
    shown = {
        **show_attempt(found.attempt, call.services.delivery_ids),
        "endpoint_id": found.endpoint.public_id,
        "request": {
            "method": "POST",
            "url": found.endpoint.url,
            "headers": _sent_headers(call, found, signature),
            "is_signed_again": signature is not None,
            "unsigned_because": unsigned_because,
            "is_changed": found.endpoint.settings_at > found.attempt.started_at,
            **_sent_body(found.body, may_read=may_read),
        },
        "response": None if found.response is None else show_answer(found.response, may_read=may_read),
    }
    return Answer(shown)


def show_answer(response: LoggedResponse, *, may_read: bool) -> dict[str, Any]:
    """Return an answer as JSON can hold it. `may_read`: with its body."""
    content_type = next((_latin(value) for name, value in response.headers if name.lower() == b"content-type"), None)
    text = _text_of(response.body, content_type or "", is_cut=response.is_cut)
    body = base64.b64encode(response.body).decode("ascii") if text is None else text
    return {
        "status_code": response.status,
        "headers": [{"name": _latin(name), "value": _latin(value)} for name, value in response.headers],
        "content_type": content_type,
        "body": body if may_read else None,
        "body_encoding": "base64" if text is None else "utf-8",
        "is_replaced": text is not None and text.encode() != response.body,
        "is_cut": response.is_cut,
        "without_body_because": None if may_read else "scope",
    }


def _attempt_number(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER and not text.startswith("0")
    return int(text) if is_number and int(text) < 1 << 15 else None


async def _sign_again(call: Call, ledger: AttemptLedger, found: WholeAttempt) -> tuple[str | None, str | None]:
    """Return the signature that the request bore, or None and why it cannot be made again."""
    attempt = found.attempt
    signed_at, key_ids = attempt.detail.get("at"), attempt.detail.get("keys") or ()
    if signed_at is None or not key_ids:
        return None, "not_sent" if attempt.outcome in _NEVER_SENT else "not_recorded"
    if found.body is None:
        return None, "body_gone"
    sealed = await ledger.sealed_keys(found.endpoint.endpoint_id, key_ids)
    if len(sealed) < len(key_ids):
        return None, "secret_gone"
    public_id, vault = found.endpoint.public_id, call.services.vault
    try:
        keys = [vault.open(sealed[number], f"endpoint_secret:{public_id}:{number}") for number in key_ids]
    except SealBroken:
        return None, "secret_unreadable"
    signed = Signer(keys).sign(show_event_id(attempt.event_id).encode(), b"%d" % signed_at, found.body)
    return signed.decode("ascii"), None


def _sent_headers(call: Call, found: WholeAttempt, signature: str | None) -> list[dict[str, str | None]]:
    """Return the headers in the order of the wire; a test holds it against what the sending room writes."""
    attempt, endpoint = found.attempt, found.endpoint
    lines: list[tuple[str, str | None]] = [
        ("host", _host_of(endpoint)),
        ("content-type", "application/json"),
        ("user-agent", call.services.user_agent),
        ("accept-encoding", "identity"),
        ("x-webhook-environment", call.tenant.environment),
        ("webhook-id", show_event_id(attempt.event_id)),
        ("webhook-timestamp", _recorded(attempt, "at")),
        ("webhook-signature", signature),
        ("x-webhook-event", attempt.event_type),
        ("x-webhook-delivery", call.services.delivery_ids.show(attempt.delivery_id)),
        ("x-webhook-attempt", _attempt_of(attempt)),
        *((name, MASK) for name in endpoint.header_names),
        ("content-length", None if found.body is None else str(len(found.body))),
    ]
    return [{"name": name, "value": value} for name, value in lines]


def _sent_body(body: bytes | None, *, may_read: bool) -> dict[str, str | None]:
    if not may_read:
        return {"body": None, "without_body_because": "scope"}
    if body is None:
        return {"body": None, "without_body_because": "past_retention"}
    return {"body": body.decode(), "without_body_because": None}


def _recorded(attempt: LoggedAttempt, fact: str) -> str | None:
    value = attempt.detail.get(fact)
    return None if value is None else str(value)


def _attempt_of(attempt: LoggedAttempt) -> str | None:
    last = attempt.detail.get("of")
    return None if last is None else f"{attempt.attempt_no}/{last}"


def _host_of(endpoint: SentTo) -> str:
    url = urlsplit(endpoint.url)
    name = url.hostname or ""
    name = f"[{name}]" if ":" in name else name
    port = url.port or DEFAULT_PORTS[url.scheme]
    return name if port == DEFAULT_PORTS[url.scheme] else f"{name}:{port}"


def _latin(value: bytes) -> str:
    return value.decode("latin-1")


def _text_of(body: bytes, content_type: str, *, is_cut: bool) -> str | None:
    """Return a body as text, None when it is none: what is not UTF-8 passes as text only when it says that it is."""
    if b"\0" in body:
        return None
    text = body.decode("utf-8", "replace")
    # A character that the cut went through says nothing about the rest.
    is_whole = _REPLACED not in (text[:-1] if is_cut else text) or _REPLACED.encode() in body
    return text if is_whole or content_type.lower().startswith(_TEXTS) else None
