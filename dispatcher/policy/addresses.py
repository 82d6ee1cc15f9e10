"""Which addresses a request may go to: a pure classifier over integers.

In order, the first that applies decides:

1. text that is no plain address (a zone identifier included): refused
2. metadata and link-local services, also inside an IPv6 spelling of them: refused, nothing re-opens them
3. the operator's denied ranges: refused
4. the operator's allowed ranges: accepted
5. IPv6 outside 2000::/3, and the special blocks below: refused
6. everything else: accepted

The flags of the standard library (`is_global` and its like) are of no use here: they call NAT64, 6to4,
site-local, IPv4-compatible, multicast and SRv6 addresses global, and changed between patch releases.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from dispatcher.model.errors import ConfigurationError


class AddressFault(StrEnum):
    """Why an address is refused. Closed."""

    NOT_AN_ADDRESS = "not_an_address"
    METADATA = "metadata"
    DENIED = "denied"
    NOT_PUBLIC = "not_public"


class Block(NamedTuple):
    """A range of addresses of one family: the bits of `prefix` that `mask` covers."""

    version: int
    prefix: int
    mask: int

    def holds(self, version: int, number: int) -> bool:
        """Tell whether an address lies inside."""
        return version == self.version and number & self.mask == self.prefix


def read_block(text: str) -> Block:
    """Return the block of a CIDR; a single address is a block of one.

    Raises:
        ValueError: not a CIDR, or bits are set below its prefix.
    """
    network = ipaddress.ip_network(text)
    return Block(network.version, int(network.network_address), int(network.netmask))


def _blocks(*texts: str) -> tuple[Block, ...]:
    return tuple(read_block(text) for text in texts)


_NEVER: Final = _blocks(
    "169.254.0.0/16",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "fd00:ec2::254/128",
    "fd00:ec2::23/128",
    "fd20:ce::254/128",
)
"""Metadata services of the large clouds. All of IPv4 link-local: more of them live there than are known."""

_NOT_PUBLIC: Final = _blocks(
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
)
_GLOBAL_UNICAST: Final = read_block("2000::/3")

_CARRIERS: Final = (
    (read_block("::/96"), 0),
    (read_block("::ffff:0:0/96"), 0),
    (read_block("::ffff:0:0:0/96"), 0),
    (read_block("64:ff9b::/96"), 0),
    (read_block("64:ff9b:1::/48"), 0),
    (read_block("2002::/16"), 80),
)
"""IPv6 blocks that carry an IPv4 address, and how many bits lie to the right of it."""

_TEREDO: Final = read_block("2001::/32")
_ISATAP: Final = 0x00005EFE
_LOW_32: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """The operator's say over addresses. Empty: the public internet and nothing else."""

    allow: tuple[Block, ...] = ()
    deny: tuple[Block, ...] = ()

    @classmethod
    def parse(cls, allow_cidrs: Iterable[str], deny_cidrs: Iterable[str]) -> "EgressPolicy":
        """Build the policy from CIDR texts.

        Raises:
            ConfigurationError: names every text that is not a CIDR.
        """
        faults: list[str] = []
        allow = tuple(_read_all(allow_cidrs, faults))
        deny = tuple(_read_all(deny_cidrs, faults))
        if faults:
            raise ConfigurationError(faults)
        return cls(allow, deny)


PUBLIC_ONLY: Final = EgressPolicy()


def refusal_of(address: str, policy: EgressPolicy) -> AddressFault | None:
    """Return why a request must not go to `address`, None when it may.

    `address` is an address in text, without brackets; a name is refused as no address.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return AddressFault.NOT_AN_ADDRESS
    if "%" in address:
        return AddressFault.NOT_AN_ADDRESS
    version, number = parsed.version, int(parsed)
    if _is_metadata(version, number):
        return AddressFault.METADATA
    if _is_in(policy.deny, version, number):
        return AddressFault.DENIED
    if _is_in(policy.allow, version, number) or _is_public(version, number):
        return None
    return AddressFault.NOT_PUBLIC


def _is_public(version: int, number: int) -> bool:
    if _is_in(_NOT_PUBLIC, version, number):
        return False
    return version != 6 or _GLOBAL_UNICAST.holds(version, number)


def _is_metadata(version: int, number: int) -> bool:
    return _is_in(_NEVER, version, number) or any(_is_in(_NEVER, 4, inside) for inside in _carried(version, number))


def _carried(version: int, number: int) -> list[int]:
    """Return the IPv4 addresses that an IPv6 address may carry."""
    found = [number >> shift & _LOW_32 for block, shift in _CARRIERS if block.holds(version, number)]
    if _TEREDO.holds(version, number):
        found.append(~number & _LOW_32)
    # The second bit of that word only says whether the IPv4 address is unique.
    if version == 6 and (number >> 32 & 0xFDFFFFFF) == _ISATAP:
        found.append(number & _LOW_32)
    return found


def _is_in(blocks: tuple[Block, ...], version: int, number: int) -> bool:
    return any(block.holds(version, number) for block in blocks)


def _read_all(texts: Iterable[str], faults: list[str]) -> list[Block]:
    blocks = []
    for text in texts:
        try:
            blocks.append(read_block(text.strip()))
        except ValueError as fault:
            faults.append(f"not a CIDR: {fault}")
    return blocks
