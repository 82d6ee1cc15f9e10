"""The bytes of a request."""

import pytest

from dispatcher.policy.signing import Signer
from dispatcher.sending.request import Template
from tests.support.builders import a_delivery, a_target

USER_AGENT = "Dispatcher-Webhooks/1 (+https://docs.test)"


def filled(template: Template, body: bytes = b"{}", *, attempts_before: int = 0) -> bytes:
    delivery = a_delivery(public_event_id="evt_1", event_type="a.b", body=body, attempts_before=attempts_before)
    return template.fill(delivery, 2 + attempts_before, 1793697900, delivery_id="dlv_1")


def test_a_delivery_that_is_sent_again_says_which_attempt_will_be_its_last() -> None:
    request = filled(Template(a_target(schedule=(0.0, 5.0, 60.0)), USER_AGENT), attempts_before=10)

    assert b"x-webhook-attempt: 12/13\r\n" in request


def test_a_request_is_exactly_these_bytes() -> None:
    target = a_target(headers=(("X-Own", "50% off"),), path="/hook?a=%41")

    request = filled(Template(target, USER_AGENT), b'{"a":"\xc3\xa9"}')

    signature = Signer([target.keys[0].key]).sign(b"evt_1", b"1793697900", b'{"a":"\xc3\xa9"}')
    assert request == (
        b"POST /hook?a=%41 HTTP/1.1\r\n"
        b"host: example.com\r\n"
        b"content-type: application/json\r\n"
        b"user-agent: Dispatcher-Webhooks/1 (+https://docs.test)\r\n"
        b"accept-encoding: identity\r\n"
        b"x-webhook-environment: live\r\n"
        b"webhook-id: evt_1\r\n"
        b"webhook-timestamp: 1793697900\r\n"
        b"webhook-signature: " + signature + b"\r\n"
        b"x-webhook-event: a.b\r\n"
        b"x-webhook-delivery: dlv_1\r\n"
        b"x-webhook-attempt: 2/3\r\n"
        b"X-Own: 50% off\r\n"
        b"content-length: 10\r\n"
        b"\r\n"
        b'{"a":"\xc3\xa9"}'
    )


@pytest.mark.parametrize(
    ("scheme", "hostname", "port", "host"),
    [
        ("https", "a.com", 443, b"a.com"),
        ("https", "a.com", 8443, b"a.com:8443"),
        ("http", "a.com", 80, b"a.com"),
        ("http", "a.com", 443, b"a.com:443"),
        ("https", "2606:4700::1111", 8443, b"[2606:4700::1111]:8443"),
    ],
)
def test_the_host_header_names_a_port_that_is_not_the_usual_one(
    scheme: str, hostname: str, port: int, host: bytes
) -> None:
    template = Template(a_target(scheme=scheme, hostname=hostname, port=port), USER_AGENT)

    assert b"\r\nhost: " + host + b"\r\n" in filled(template)


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": (("x-a", "b\r\nx-evil: 1"),)},
        {"headers": (("x-a\r\nx-evil", "b"),)},
        {"path": "/a\r\nx-evil: 1"},
        {"hostname": "a.com\r\n"},
        {"headers": (("x-a", "ä"),)},
    ],
)
def test_a_line_break_cannot_get_into_a_request(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        Template(a_target(**changes), USER_AGENT)


def test_a_line_break_cannot_get_in_by_the_event_type() -> None:
    template = Template(a_target(), USER_AGENT)

    with pytest.raises(ValueError, match="cannot be sent"):
        template.fill(a_delivery(event_type="a\r\nb"), 1, 0, delivery_id="dlv_1")
