"""What can be done to a link, and for how long; the vocabulary is Toxiproxy's."""

from collections.abc import Mapping
from enum import StrEnum
from random import Random
from types import MappingProxyType
from typing import Final, NamedTuple

from tests.support.faults import Direction, Ways


class Link(StrEnum):
    """Where a link of a process leads to."""

    POSTGRES = "Postgres"
    KAFKA = "Kafka"
    SINK = "endpoints"


class Toxic(StrEnum):
    """What can be done to it."""

    LATENCY = "latency"
    JITTER = "jitter"
    NARROW = "narrow"
    STALL = "stall"
    CUT = "cut"
    RESET = "reset"
    DROP = "answer dropped"
    SLOW_CLOSE = "slow close"
    DOWN = "down"


SECONDS: Final[Mapping[Toxic, tuple[float, float]]] = MappingProxyType(
    {
        Toxic.LATENCY: (1.0, 4.0),
        Toxic.JITTER: (1.0, 4.0),
        Toxic.NARROW: (1.0, 3.0),
        Toxic.STALL: (0.5, 3.0),
        Toxic.CUT: (0.5, 1.5),
        Toxic.RESET: (0.5, 1.5),
        Toxic.DROP: (0.2, 1.0),
        Toxic.SLOW_CLOSE: (1.0, 3.0),
        Toxic.DOWN: (0.3, 2.0),
    }
)
"""How long each lasts. Shorter than a lease: being cut off for longer is a fault of its own."""

_DEAFENING: Final = frozenset({Toxic.STALL, Toxic.CUT, Toxic.RESET, Toxic.DROP})
_CUT_WITHIN_BYTES: Final = 3_000
_NARROW_BYTES_PER_SECOND: Final = 30_000.0
_MOST_LATENCY_SECONDS: Final = 0.3


class Harm(NamedTuple):
    """A link that was spoilt, from when to when, in Unix seconds."""

    name: str
    link: Link
    toxic: Toxic
    began: float
    ended: float

    @property
    def is_deafening(self) -> bool:
        """Tell whether an endpoint's answer may have been lost for good."""
        return self.link is Link.SINK and self.toxic in _DEAFENING


def toxics_of(link: Link) -> list[Toxic]:
    """Return what makes sense on a link: the endpoints of one process are not down while others reach them."""
    return [toxic for toxic in Toxic if link is not Link.SINK or toxic is not Toxic.DOWN]


def spoil(link: Link, ways: Ways, toxic: Toxic, chance: Random) -> None:
    """Set a toxic, other than `down`, on a link's two directions, until they are healed.

    To endpoints only answers are delayed: limits are a promise about when requests leave, and an endpoint sees when
    they arrive. A request that is cut there is cut before its first byte, so that the endpoint never sees half of one.
    """
    upstream, downstream = ways
    both = [downstream] if link is Link.SINK else [upstream, downstream]
    for way in both:
        _delay(way, toxic, chance)
    if toxic is Toxic.DROP:
        downstream.drop()
    elif toxic in (Toxic.CUT, Toxic.RESET):
        _end(link, toxic, ways, chance)


def _delay(way: Direction, toxic: Toxic, chance: Random) -> None:
    if toxic is Toxic.LATENCY:
        way.latency_seconds = chance.uniform(0.05, _MOST_LATENCY_SECONDS)
    elif toxic is Toxic.JITTER:
        way.jitter_seconds = _MOST_LATENCY_SECONDS
    elif toxic is Toxic.NARROW:
        way.bytes_per_second = _NARROW_BYTES_PER_SECOND
    elif toxic is Toxic.STALL:
        way.stall()
    elif toxic is Toxic.SLOW_CLOSE:
        way.slow_close_seconds = 1.0


def _end(link: Link, toxic: Toxic, ways: Ways, chance: Random) -> None:
    way = chance.choice(ways)
    n_bytes = 0 if link is Link.SINK else chance.randrange(_CUT_WITHIN_BYTES)
    if toxic is Toxic.CUT:
        way.cut_after(n_bytes)
    else:
        way.reset_after(n_bytes)
