"""The address classifier against the blocks it must refuse, and the spellings that hide them."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.model.errors import ConfigurationError
from dispatcher.policy.addresses import PUBLIC_ONLY, AddressFault, EgressPolicy, refusal_of

REFUSED_V4 = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
    "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
]  # fmt: skip
REFUSED_V6 = [
    "::/8", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "200::/7", "5f00::/16",
    "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "2001::/23", "2001:db8::/32", "2002::/16",
    "3fff::/20",
]  # fmt: skip
METADATA = [
    "169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.169.253", "169.254.42.42",
    "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd00:ec2::23",
    "fd20:ce::254",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0",
          "192.0.1.0", "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2a00:1450:4001::1",
          "2001:4860:4860::8888", "2003::1"]  # fmt: skip
EVERYTHING = EgressPolicy.parse(["0.0.0.0/0", "::/0"], [])

ipv4 = st.integers(0, 2**32 - 1).map(lambda number: str(ipaddress.IPv4Address(number)))
ipv6 = st.integers(0, 2**128 - 1).map(lambda number: str(ipaddress.IPv6Address(number)))


@st.composite
def inside(draw: st.DrawFn, blocks: list[str]) -> str:
    """Return an address in one of the blocks, its first and last more often than chance has it."""
    network = ipaddress.ip_network(draw(st.sampled_from(blocks)))
    last = network.num_addresses - 1
    offset = draw(st.sampled_from([0, last]) | st.integers(0, last))
    return str(network[offset])


@given(inside(REFUSED_V4 + REFUSED_V6))
def test_every_address_of_a_special_block_is_refused(address: str) -> None:
    assert refusal_of(address, PUBLIC_ONLY) is not None


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_accepted(address: str) -> None:
    assert refusal_of(address, PUBLIC_ONLY) is None


@given(ipv4)
def test_an_ipv4_address_is_accepted_exactly_when_no_block_holds_it(address: str) -> None:
    is_special = any(ipaddress.ip_address(address) in ipaddress.ip_network(block) for block in REFUSED_V4)

    assert (refusal_of(address, PUBLIC_ONLY) is not None) == is_special


@given(ipv6)
def test_an_ipv6_address_outside_global_unicast_is_refused(address: str) -> None:
    is_global = ipaddress.ip_address(address) in ipaddress.ip_network("2000::/3")

    assert is_global or refusal_of(address, PUBLIC_ONLY) is not None


@given(ipv4)
def test_an_ipv4_address_inside_an_ipv6_one_is_refused(address: str) -> None:
    number = int(ipaddress.IPv4Address(address))

    for spelling in spellings(number):
        assert refusal_of(spelling, PUBLIC_ONLY) is not None


def spellings(number: int) -> list[str]:
    """Return the IPv6 addresses that lead to an IPv4 one somewhere."""
    return [
        str(ipaddress.IPv6Address(one))
        for one in (
            number,
            0xFFFF << 32 | number,
            0xFFFF << 48 | number,
            0x64FF9B << 96 | number,
            0x64FF9B0001 << 80 | number,
            0x2002 << 112 | number << 80,
            0x20010000 << 96 | number ^ 0xFFFFFFFF,
            0xFE80 << 112 | 0x5EFE << 32 | number,
        )
    ]


@pytest.mark.parametrize("address", METADATA)
def test_metadata_is_refused_whatever_the_operator_allows(address: str) -> None:
    assert refusal_of(address, EVERYTHING) is AddressFault.METADATA


@pytest.mark.parametrize("address", [one for one in METADATA if "." in one])
def test_metadata_inside_an_ipv6_address_is_refused_whatever_the_operator_allows(
    address: str,
) -> None:
    for spelling in spellings(int(ipaddress.IPv4Address(address))):
        assert refusal_of(spelling, EVERYTHING) is AddressFault.METADATA


def test_an_allowed_range_opens_a_private_network_and_nothing_beside_it() -> None:
    policy = EgressPolicy.parse(["10.1.0.0/16", "fd12:3456::/32"], [])

    assert refusal_of("10.1.255.255", policy) is None
    assert refusal_of("fd12:3456::1", policy) is None
    assert refusal_of("10.2.0.0", policy) is AddressFault.NOT_PUBLIC
    assert refusal_of("::ffff:10.1.0.1", policy) is AddressFault.NOT_PUBLIC


def test_a_denied_range_shuts_public_addresses_and_holes_of_an_allowed_range() -> None:
    policy = EgressPolicy.parse(["10.0.0.0/8"], ["8.8.8.0/24", "10.96.0.0/12"])

    assert refusal_of("8.8.8.8", policy) is AddressFault.DENIED
    assert refusal_of("10.96.0.1", policy) is AddressFault.DENIED
    assert refusal_of("10.1.0.1", policy) is None


@pytest.mark.parametrize(
    "text",
    ["", "example.com", "127.1", "0x7f.0.0.1", "010.0.0.1", "1.1.1.1 ", "[::1]", "fe80::1%eth0",
     "2606:4700::1111%1", "2130706433", "1.1.1.1/32"],
)  # fmt: skip
def test_what_is_no_plain_address_is_refused(text: str) -> None:
    assert refusal_of(text, EVERYTHING) is AddressFault.NOT_AN_ADDRESS


def test_every_bad_range_of_the_settings_is_named() -> None:
    with pytest.raises(ConfigurationError) as caught:
        EgressPolicy.parse(["10.0.0.0/8", "10.0.0.1/8"], ["nonsense"])

    assert len(caught.value.faults) == 2
