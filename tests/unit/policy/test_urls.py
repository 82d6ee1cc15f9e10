"""The URL grammar: what passes, what is refused, and with which code."""

import pytest
import yarl
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.policy.addresses import EgressPolicy
from dispatcher.policy.urls import (
    DEFAULT_PORT_RULES,
    EndpointUrl,
    PortRules,
    UrlFault,
    UrlRefusal,
    UrlRules,
    read_url,
)

PUBLIC = UrlRules()
LOCAL = UrlRules(allow_http=True, allow_localhost=True, egress=EgressPolicy.parse(["127.0.0.0/8", "::1"], []))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("https://example.com", ("https", "example.com", 443, "/", "https://example.com/")),
        ("HTTPS://Example.COM:443/A/../b", ("https", "example.com", 443, "/b", "https://example.com/b")),
        ("https://a.example.com:8443?x=1", ("https", "a.example.com", 8443, "/?x=1", "https://a.example.com:8443/?x=1")),
        ("https://xn--fa-hia.de/%2e?q=%41@b", ("https", "xn--fa-hia.de", 443, "/?q=%41@b", "https://xn--fa-hia.de/?q=%41@b")),
        ("https://8.8.8.8/", ("https", "8.8.8.8", 443, "/", "https://8.8.8.8/")),
        ("https://[2606:4700:0::1111]/", ("https", "2606:4700::1111", 443, "/", "https://[2606:4700::1111]/")),
    ],
)  # fmt: skip
def test_a_plain_url_gets_its_normal_form(text: str, parts: tuple[str, str, int, str, str]) -> None:
    assert read_url(text, PUBLIC) == EndpointUrl(*parts)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("https://example.com/" + "a" * 2029, UrlFault.TOO_LONG),
        ("http://example.com/", UrlFault.NOT_HTTPS),
        ("ftp://example.com/", UrlFault.NOT_HTTPS),
        ("javascript://example.com/", UrlFault.NOT_HTTPS),
        ("https://user:secret@example.com/", UrlFault.HAS_CREDENTIALS),
        ("https://@example.com/", UrlFault.HAS_CREDENTIALS),
        ("https://example.com:80/", UrlFault.FORBIDDEN_PORT),
        ("https://example.com:22/", UrlFault.FORBIDDEN_PORT),
        ("https://example.com:5432/", UrlFault.FORBIDDEN_PORT),
        ("https://127.0.0.1/", UrlFault.FORBIDDEN_ADDRESS),
        ("https://169.254.169.254/", UrlFault.FORBIDDEN_ADDRESS),
        ("https://[::1]/", UrlFault.FORBIDDEN_ADDRESS),
        ("https://[::ffff:8.8.8.8]/", UrlFault.FORBIDDEN_ADDRESS),
        ("https://localhost/", UrlFault.FORBIDDEN_ADDRESS),
        ("https://intranet/", UrlFault.FORBIDDEN_ADDRESS),
        ("https://vault.security.svc/", UrlFault.FORBIDDEN_ADDRESS),
        ("https://printer.local/", UrlFault.FORBIDDEN_ADDRESS),
        ("https://a.internal/", UrlFault.FORBIDDEN_ADDRESS),
    ],
)
def test_a_refusal_has_a_precise_code(text: str, code: UrlFault) -> None:
    refusal = read_url(text, PUBLIC)

    assert isinstance(refusal, UrlRefusal)
    assert refusal.code is code


@pytest.mark.parametrize(
    "text",
    [
        "", "example.com", "https://", "https:///x", "https:/example.com", "//example.com/",
        " https://example.com/", "https://exa mple.com/", "https://example.com/\n", "https://exa\tmple.com/",
        "https://example.com/\0", "https://example.com\\@evil.com/", "https://example.com/<x>",
        "https://example.com/{x}", "https://example.com/a|b", "https://example.com/^", "https://example.com/`",
        'https://example.com/"', "https://exämple.com/", "https://①②⑦.⓪.⓪.①/", "https://example。com/",
        "https://ho%6fks.example.com/", "https://%31%32%37.0.0.1/", "https://127.1/", "https://0x7f000001/",
        "https://0x7f.1/", "https://2130706433/", "https://010.0.0.1/", "https://127.0.0.1./", "https://1.2.3.4.5/",
        "https://a.0x/", "https://[fe80::1%25eth0]/", "https://[::1/", "https://::1/", "https://[::g]/",
        "https://example.com./", "https://a..example.com/", "https://-a.example.com/", "https://a-.example.com/",
        "https://a_b.example.com/", "https://" + "a" * 64 + ".com/", "https://" + "a." * 130 + "com/",
        "https://example.com:/", "https://example.com:+443/", "https://example.com:０443/", "https://example.com:0443/",
        "https://example.com:0/", "https://example.com:65536/", "https://example.com:123456/",
        "https://example.com/#fragment", "https://xn--a.example.com/", "https://xn--zzzzzzzz.example.com/",
    ],
)  # fmt: skip
def test_what_a_parser_would_repair_is_refused_as_malformed(text: str) -> None:
    refusal = read_url(text, PUBLIC)

    assert isinstance(refusal, UrlRefusal)
    assert refusal.code is UrlFault.MALFORMED


@pytest.mark.parametrize(
    ("text", "hostname", "port"),
    [
        ("http://localhost:3000/hook", "localhost", 3000),
        ("https://localhost/hook", "localhost", 443),
        ("http://a.localhost:3000/hook", "a.localhost", 3000),
        ("http://127.0.0.1:9000/hook", "127.0.0.1", 9000),
        ("http://[::1]:9000/hook", "::1", 9000),
        ("http://example.com/hook", "example.com", 80),
    ],
)
def test_local_rules_open_loopback_and_plain_http(text: str, hostname: str, port: int) -> None:
    url = read_url(text, LOCAL)

    assert isinstance(url, EndpointUrl)
    assert (url.hostname, url.port, url.path) == (hostname, port, "/hook")


def test_local_rules_open_nothing_else() -> None:
    codes = [
        read_url(text, LOCAL)[0]
        for text in (
            "http://10.0.0.1/",
            "http://printer.local/",
            "http://example.com:22/",
            "ws://a.com/",
        )
    ]

    assert codes == [
        UrlFault.FORBIDDEN_ADDRESS,
        UrlFault.FORBIDDEN_ADDRESS,
        UrlFault.FORBIDDEN_PORT,
        UrlFault.NOT_HTTPS,
    ]


@given(st.text(max_size=40) | st.from_regex(r"https?://[ -~]{0,40}"))
def test_no_text_breaks_the_reader_and_a_normal_form_is_its_own_normal_form(text: str) -> None:
    first = read_url(text, LOCAL)

    if isinstance(first, EndpointUrl):
        assert read_url(first.url, LOCAL) == first
        assert first.path.startswith("/")


def test_a_url_that_grows_too_long_in_its_normal_form_is_refused() -> None:
    refusal = read_url("https://example.com/?" + "'" * 1000, PUBLIC)

    assert isinstance(refusal, UrlRefusal)
    assert refusal.code is UrlFault.TOO_LONG


def test_a_url_that_a_second_parser_reads_differently_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other(text: str, *, encoded: bool) -> yarl.URL:
        return parse(text.replace("example", "evil"), encoded=encoded)

    parse = yarl.URL
    monkeypatch.setattr(yarl, "URL", other)

    refusal = read_url("https://example.com/", PUBLIC)

    assert isinstance(refusal, UrlRefusal)
    assert refusal.code is UrlFault.MALFORMED


def test_ports_listed_one_by_one_open_what_a_range_keeps_shut() -> None:
    ports = PortRules.parse("443, 5432,8000-9999")

    assert [ports.allows(port) for port in (443, 5432, 8000, 9999)] == [True] * 4
    assert [ports.allows(port) for port in (80, 7999, 9092, 9200)] == [False] * 4


def test_the_default_ports_are_those_of_the_setting() -> None:
    assert PortRules.parse("443,8443,1024-65535") == DEFAULT_PORT_RULES


@pytest.mark.parametrize("text", ["", "443,", "https", "0", "65536", "9-8", "1-2-3", "-5", "٤٤٣"])
def test_a_list_of_ports_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="port"):
        PortRules.parse(text)
