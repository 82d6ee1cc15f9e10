"""Custom headers: which may be sent."""

import pytest

from dispatcher.policy.headers import faults_of


def codes_of(*headers: tuple[str, str]) -> list[str]:
    return [fault.code for fault in faults_of(headers)]


def test_ordinary_headers_pass() -> None:
    assert codes_of(("Authorization", "Bearer abc.def"), ("X-Tenant", "a b"), ("x-z", "!")) == []


@pytest.mark.parametrize(
    "name",
    [
        "Host", "content-length", "Content-Type", "content-encoding", "Transfer-Encoding", "connection",
        "TE", "trailer", "upgrade", "keep-alive", "proxy-authorization", "expect", "cookie", "forwarded",
        "X-Forwarded-For", "via", "webhook-id", "Webhook-Anything", "x-webhook-event", "user-agent",
        "accept-encoding", "traceparent",
    ],
)  # fmt: skip
def test_a_header_of_ours_or_of_the_connection_is_reserved(name: str) -> None:
    assert codes_of((name, "x")) == ["header_reserved"]


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "ä", "a\0", "(a)", "a" * 65])
def test_a_name_that_is_no_token_is_malformed(name: str) -> None:
    assert codes_of((name, "x")) == ["header_name_malformed"]


@pytest.mark.parametrize("value", ["", " a", "a ", "a\r\nb: c", "a\tb", "ä", "a\0", "\x7f", "a" * 1025])
def test_a_value_that_is_not_visible_text_is_malformed(value: str) -> None:
    (fault,) = faults_of([("x-a", value)])

    assert (fault.name, fault.code) == ("x-a", "header_value_malformed")


def test_a_header_given_twice_in_any_case_is_refused() -> None:
    assert codes_of(("x-a", "1"), ("X-A", "2")) == ["header_duplicate"]


def test_number_and_size_are_bounded_and_every_fault_is_told() -> None:
    many = [(f"x-{number}", "v" * 1000) for number in range(11)]

    assert codes_of(*many, ("host", "a")) == [
        "too_many_headers",
        "headers_too_large",
        "header_reserved",
    ]


def test_a_fault_never_quotes_the_value() -> None:
    (fault,) = faults_of([("x-token", "hunter2\n")])

    assert "hunter2" not in repr(fault)
