"""Base32 in small letters of whole numbers: five bits a character, the highest first.

The library works byte by byte in Python. Here the number itself is pulled apart, every half of it at once, until each
group of five bits has a byte of its own, which a table then turns into its character:

    aaaaabbbbbcccccddddd  ->  ......aaaaabbbbb......cccccddddd  ->  ...aaaaa...bbbbb...ccccc...ddddd

For 32 characters that are five steps instead of 32 look-ups, and no table that pushes other things out of the cache.
"""

import string
from typing import Final, TypeAlias

ALPHABET: Final = string.ascii_lowercase + "234567"

_LETTERS: Final = ALPHABET.encode("ascii").ljust(256, b"\0")
_GROUP_BITS: Final = 5
_BYTE_BITS: Final = 8


# The mask of the upper halves of all runs of groups, and by what multiple of themselves these move up.
_Step: TypeAlias = tuple[int, int]


class Base32:
    """Writes numbers in `n_characters`, a power of two; smaller ones get leading `a`."""

    __slots__ = ("_n_characters", "_steps")

    def __init__(self, n_characters: int) -> None:
        self._n_characters = n_characters
        self._steps = [_step(n_characters, n_groups) for n_groups in _halvings(n_characters)]

    def show(self, number: int) -> str:
        """Return the text of a number below 32 to the power of `n_characters`."""
        for upper, multiple in self._steps:
            number += (number & upper) * multiple
        return number.to_bytes(self._n_characters).translate(_LETTERS).decode("ascii")


def _halvings(n: int) -> list[int]:
    return [n >> times for times in range(n.bit_length() - 1)]


def _step(n_characters: int, n_groups: int) -> _Step:
    """Return the step that halves runs of `n_groups`, each of which begins where its lowest byte will be."""
    half_bits = n_groups // 2 * _GROUP_BITS
    half = (1 << half_bits) - 1
    starts = range(0, n_characters * _BYTE_BITS, n_groups * _BYTE_BITS)
    shift = n_groups // 2 * (_BYTE_BITS - _GROUP_BITS)
    # Added to where they are, they come out where they belong: times two to the power of the shift.
    return sum(half << half_bits << start for start in starts), (1 << shift) - 1
