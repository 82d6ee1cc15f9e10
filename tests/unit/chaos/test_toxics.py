"""Toxics do to a link's two directions what their name says, and healing undoes all of it."""

from random import Random

import pytest

from tests.chaos.toxics import SECONDS, Harm, Link, Toxic, spoil, toxics_of
from tests.support.faults import Direction


def is_well(way: Direction) -> bool:
    """Tell whether a direction lets everything pass at once."""
    delays = (way.latency_seconds, way.jitter_seconds, way.slow_close_seconds, way.bytes_per_second or 0.0)
    return not any(delays) and way._flowing.is_set() and not way._is_dropping and way._left is None


SET_ON_A_LINK = [(link, toxic) for link in Link for toxic in toxics_of(link) if toxic is not Toxic.DOWN]


@pytest.mark.parametrize(("link", "toxic"), SET_ON_A_LINK)
def test_a_toxic_changes_a_link_and_healing_undoes_it(link: Link, toxic: Toxic) -> None:
    ways = (Direction(), Direction())

    spoil(link, ways, toxic, Random(1))
    was_well = all(is_well(way) for way in ways)
    for way in ways:
        way.heal()

    assert not was_well
    assert all(is_well(way) for way in ways)


@pytest.mark.parametrize("toxic", [Toxic.LATENCY, Toxic.JITTER, Toxic.NARROW, Toxic.STALL, Toxic.SLOW_CLOSE])
def test_requests_to_endpoints_are_never_delayed(toxic: Toxic) -> None:
    upstream, downstream = Direction(), Direction()

    spoil(Link.SINK, (upstream, downstream), toxic, Random(1))

    assert is_well(upstream)
    assert not is_well(downstream)


def test_every_toxic_lasts_less_than_a_lease_and_the_endpoints_are_never_down() -> None:
    assert set(SECONDS) == set(Toxic)
    assert max(most for _, most in SECONDS.values()) < 6
    assert Toxic.DOWN not in toxics_of(Link.SINK)


def test_only_what_loses_an_endpoints_answer_deafens() -> None:
    deafening = {(link, toxic) for link in Link for toxic in Toxic if Harm("p0", link, toxic, 0, 1).is_deafening}

    assert deafening == {(Link.SINK, toxic) for toxic in (Toxic.STALL, Toxic.CUT, Toxic.RESET, Toxic.DROP)}
