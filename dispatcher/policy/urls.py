"""The grammar of endpoint URLs: refuse, never repair.

Parsers disagree about odd URLs, and every disagreement is a way past a check: what one calls a name,
another dials as 127.0.0.1. So the text must already be plain before a parser sees it; then the WHATWG
parser's normal form is what is stored and used, and a second parser must read the same in it.
Internationalised names come as A-labels (`xn--`); converting is the dashboard's courtesy.
"""

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

import ada_url
import yarl

from dispatcher.policy.addresses import PUBLIC_ONLY, EgressPolicy, refusal_of

LONGEST_URL: Final = 2048
DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_HIGHEST_PORT: Final = 65535

_PLAIN: Final = re.compile(r"[\x21-\x7e]+")
_FORBIDDEN: Final = frozenset('\\<>{}|^"`')
_SHAPE: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)(/[^#]*|\?[^#]*)?(#.*)?")
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9\-]{0,61}[a-z0-9])?")
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LONGEST_NAME: Final = 253

_SPECIAL_USE: Final = frozenset(
    {
        "alt",
        "arpa",
        "corp",
        "home",
        "internal",
        "intranet",
        "invalid",
        "lan",
        "local",
        "localdomain",
        "localhost",
        "onion",
        "private",
        "svc",
        "test",
    }
)

_REFUSED_PORTS: Final = frozenset(
    {
        *(1433, 1521, 2049, 2181, 2375, 2376, 2379, 2380, 3306, 3389, 5432, 5672),
        *range(5900, 6000),
        *(6379, 6443, 8086, 8500, 9042, 9092, 9200, 9300, 10250, 10255),
        *(11211, 15672, 27017, 27018, 27019, 50051),
    }
)
"""Data stores and control planes: inside an allowed range they stay shut, listed one by one they open."""


class UrlFault(StrEnum):
    """Why a URL is refused. Closed; part of the API."""

    TOO_LONG = "url_too_long"
    MALFORMED = "url_malformed"
    NOT_HTTPS = "url_not_https"
    HAS_CREDENTIALS = "url_has_credentials"
    FORBIDDEN_PORT = "url_forbidden_port"
    FORBIDDEN_ADDRESS = "url_forbidden_address"


class UrlRefusal(NamedTuple):
    """Why a URL cannot be used, for machines and for people. Never quotes the URL."""

    code: UrlFault
    message: str


class EndpointUrl(NamedTuple):
    """A URL that passed. `path` begins with a slash and includes the query; `url` is the normal form.

    `hostname` is lower case and without brackets.
    """

    scheme: str
    hostname: str
    port: int
    path: str
    url: str


@dataclass(frozen=True, slots=True)
class PortRules:
    """Allowed ports: those listed one by one, and those inside a range that are no data store's."""

    singles: frozenset[int]
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> "PortRules":
        """Read a setting such as `443,8443,1024-65535`.

        Raises:
            ValueError: something between the commas is neither a port nor a range.
        """
        singles, ranges = set(), []
        for part in text.replace(" ", "").split(","):
            first, dash, last = part.partition("-")
            low, high = _read_port(first), _read_port(last if dash else first)
            if low > high:
                message = f"port range {part!r} runs backwards"
                raise ValueError(message)
            if dash:
                ranges.append((low, high))
            else:
                singles.add(low)
        return cls(frozenset(singles), tuple(ranges))

    def allows(self, port: int) -> bool:
        """Tell whether a request may go to this port."""
        if port in self.singles:
            return True
        return port not in _REFUSED_PORTS and any(low <= port <= high for low, high in self.ranges)


DEFAULT_PORT_RULES: Final = PortRules(frozenset({443, 8443}), ((1024, 65535),))


@dataclass(frozen=True, slots=True)
class UrlRules:
    """What the operator and the environment allow.

    `allow_http` is for the test environment only: the caller decides, and port 80 comes with it.
    `allow_localhost` makes `localhost` and names below it valid; their addresses still need `egress` to allow them.
    """

    ports: PortRules = DEFAULT_PORT_RULES
    allow_http: bool = False
    allow_localhost: bool = False
    egress: EgressPolicy = PUBLIC_ONLY


def read_url(text: str, rules: UrlRules) -> EndpointUrl | UrlRefusal:
    """Return the URL's parts and normal form, or the first reason to refuse it. Asks no DNS."""
    if len(text) > LONGEST_URL:
        return UrlRefusal(UrlFault.TOO_LONG, f"the URL is longer than {LONGEST_URL} characters")
    shape = _SHAPE.fullmatch(text) if _is_plain(text) else None
    if shape is None:
        return _malformed("the URL must be plain ASCII of the form https://name/path")
    scheme, authority, _, fragment = shape.groups()
    refusal = _refusal_of_scheme(scheme.lower(), rules) or _refusal_of_authority(authority)
    if refusal is not None:
        return refusal
    if fragment is not None:
        return _malformed("a fragment (#...) is never sent; remove it")
    split = _AUTHORITY.fullmatch(authority)
    if split is None:
        return _malformed("the host or port cannot be read")
    host, port_text = split.groups()
    refusal = _refusal_of_host(host.lower(), rules) or _refusal_of_port(port_text, scheme.lower(), rules)
    return refusal or _normalised(text)


def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text) is not None and _FORBIDDEN.isdisjoint(text)


def _refusal_of_scheme(scheme: str, rules: UrlRules) -> UrlRefusal | None:
    if scheme == "https" or (scheme == "http" and rules.allow_http):
        return None
    return UrlRefusal(UrlFault.NOT_HTTPS, "the URL must begin with https://")


def _refusal_of_authority(authority: str) -> UrlRefusal | None:
    if "@" in authority:
        message = "user and password are not allowed in the URL; use a custom header"
        return UrlRefusal(UrlFault.HAS_CREDENTIALS, message)
    if "%" in authority:
        return _malformed("percent-encoding is not allowed in the host")
    return None


def _refusal_of_host(host: str, rules: UrlRules) -> UrlRefusal | None:
    if host.startswith("["):
        return _refusal_of_address(host[1:-1], rules)
    labels = host.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        # Browsers read any such host as an IPv4 address, in octal and hexadecimal too.
        return _refusal_of_address(host, rules)
    if len(host) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        return _malformed("the host name may hold letters, digits and inner hyphens between full stops")
    if labels[-1] == "localhost" and rules.allow_localhost:
        return None
    if len(labels) == 1 or labels[-1] in _SPECIAL_USE:
        return UrlRefusal(UrlFault.FORBIDDEN_ADDRESS, "the host must be a public domain name")
    return None


def _refusal_of_address(address: str, rules: UrlRules) -> UrlRefusal | None:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return _malformed("the host is an IP address in a form that is not accepted")
    if refusal_of(address, rules.egress) is not None:
        return UrlRefusal(UrlFault.FORBIDDEN_ADDRESS, "requests to this address are not allowed")
    return None


def _refusal_of_port(port_text: str | None, scheme: str, rules: UrlRules) -> UrlRefusal | None:
    if port_text is not None and port_text.startswith("0"):
        return _malformed("the port must be a plain number above 0")
    port = int(port_text) if port_text else DEFAULT_PORTS[scheme]
    if port > _HIGHEST_PORT:
        return _malformed(f"the port is above {_HIGHEST_PORT}")
    if rules.ports.allows(port) or (scheme == "http" and port == DEFAULT_PORTS["http"]):
        return None
    return UrlRefusal(UrlFault.FORBIDDEN_PORT, f"requests to port {port} are not allowed")


def _normalised(text: str) -> EndpointUrl | UrlRefusal:
    try:
        normal = ada_url.URL(text)
        second = yarl.URL(normal.href, encoded=True)
        # Asking for the decoded host makes the second parser decode the A-labels, strictly.
        hostname, decoded = second.raw_host or "", second.host
    except ValueError:
        return _malformed("the URL cannot be read; internationalised names need valid xn-- labels")
    scheme = normal.protocol.removesuffix(":")
    port = int(normal.port) if normal.port else DEFAULT_PORTS.get(scheme, 0)
    path = normal.pathname + normal.search
    first = (scheme, normal.hostname.strip("[]"), port, path)
    if not decoded or first != (second.scheme, hostname, second.port, second.raw_path_qs):
        return _malformed("the URL is ambiguous: two parsers read it differently")
    if len(normal.href) > LONGEST_URL:
        return UrlRefusal(UrlFault.TOO_LONG, f"the URL is longer than {LONGEST_URL} characters")
    return EndpointUrl(*first, normal.href)


def _malformed(message: str) -> UrlRefusal:
    return UrlRefusal(UrlFault.MALFORMED, message)


def _read_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _HIGHEST_PORT):
        message = f"{text!r} is not a port"
        raise ValueError(message)
    return int(text)
