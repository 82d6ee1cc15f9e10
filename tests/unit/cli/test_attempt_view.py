"""One attempt as people read it."""

from typing import Any

import pytest

from dispatcher.cli.attempt_view import print_attempt


def an_attempt(**changed: Any) -> dict[str, Any]:
    """Return an attempt as the API shows it whole."""
    request = {
        "method": "POST",
        "url": "https://example.com/hooks",
        "headers": [{"name": "host", "value": "example.com"}, {"name": "webhook-signature", "value": "v1,abc="}],
        "body": '{"id":"evt_1"}',
        "without_body_because": None,
        "unsigned_because": None,
        "is_changed": False,
    }
    whole = {
        "delivery_id": "dlv_74pqhkj2n3or4",
        "endpoint_id": "we_3JqPz7LmA0",
        "attempt": 2,
        "started_at": "2026-11-03T09:24:55.312Z",
        "next_at": "2026-11-03T09:29:55.312Z",
        "duration_ms": 31,
        "status_code": 503,
        "outcome": "http_5xx",
        "verdict": "retry",
        "phases": {"dns_ms": 1.26, "connect_ms": 0.31, "tls_ms": None, "wait_ms": 28.4},
        "reused_connection": False,
        "address": "203.0.113.9",
        "reason": None,
        "request": request | changed.pop("request", {}),
        "response": an_answer(),
    }
    return whole | changed


def an_answer(**changed: Any) -> dict[str, Any]:
    """Return an answer as the API shows it."""
    plain = {
        "status_code": 503,
        "headers": [{"name": "Retry-After", "value": "5"}],
        "body": "busy",
        "body_encoding": "utf-8",
        "is_replaced": False,
        "is_cut": False,
        "without_body_because": None,
    }
    return plain | changed


def printed(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    """Return the lines, the first without how long ago it was, and what is told beside them."""
    print_attempt(found)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    return [lines[0].partition(" (")[0], *lines[1:]], said.err


def test_an_exchange_reads_from_the_request_to_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    lines, beside = printed(an_attempt(), capsys)

    assert lines == [
        "attempt 2 of dlv_74pqhkj2n3or4 to we_3JqPz7LmA0, 2026-11-03T09:24:55.312Z",
        "",
        "POST https://example.com/hooks",
        "host: example.com",
        "webhook-signature: v1,abc=",
        "",
        '{"id":"evt_1"}',
        "",
        "retry in 5 min  503 http_5xx in 31 ms (DNS 1.3 ms, TCP 0.3 ms, wait 28 ms) from 203.0.113.9",
        "",
        "HTTP 503",
        "Retry-After: 5",
        "",
        "busy",
    ]
    assert beside == ""


def test_an_attempt_that_never_got_out_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    lines, _ = printed(
        an_attempt(
            status_code=None,
            outcome="dns_error",
            verdict="exhausted",
            next_at=None,
            phases=dict.fromkeys(("dns_ms", "connect_ms", "tls_ms", "wait_ms")),
            address=None,
            reason="no such name",
            request={
                "headers": [
                    {"name": "webhook-timestamp", "value": None},
                    {"name": "webhook-signature", "value": None},
                ],
                "body": None,
                "without_body_because": "past_retention",
                "unsigned_because": "not_sent",
            },
            response=None,
        ),
        capsys,
    )

    assert lines[3:] == [
        "webhook-timestamp: (not recorded)",
        "webhook-signature: (nothing was sent)",
        "",
        "(the body is past its retention)",
        "",
        "exhausted  dns_error in 31 ms",
        "  -> no such name",
        "",
        "(no answer came)",
    ]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"response": an_answer(body="AP8=", body_encoding="base64")}, "(2 bytes that are no text; -o json has"),
        ({"response": an_answer(body=None, without_body_because="scope")}, "(a body needs a key with the scope"),
        ({"response": an_answer(body="\x1b[2J\tx")}, "\\x1b[2J"),
        ({"response": None}, "(the answer was an empty 2xx, or is past its retention)"),
        ({"response": an_answer(is_cut=True)}, "The answer was longer"),
        ({"response": an_answer(is_replaced=True)}, "Bytes of the answer that are no UTF-8"),
        ({"request": {"is_changed": True}}, "The endpoint was changed since"),
        ({"reused_connection": True}, " over a kept connection"),
        ({"verdict": "delivered", "outcome": "delivered", "status_code": 204, "next_at": None}, "delivered  204 in"),
    ],
)
def test_what_is_special_about_an_exchange_is_told(
    changed: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, beside = printed(an_attempt(**changed), capsys)

    assert line in "\n".join([*lines, beside])
    assert "\x1b" not in "".join(lines)
