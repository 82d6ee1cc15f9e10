"""Failures in a row: what counts, and that the later attempt decides."""

import itertools

import pytest

from dispatcher.model.delivery import Settlement
from dispatcher.model.outcome import FREE_OUTCOMES, OutcomeKind
from dispatcher.policy.streaks import WELL, Streak, streaks_of
from tests.support.builders import a_delivery, a_settlement, an_outcome


def settled(kind: OutcomeKind, at: float, endpoint: int = 1, host: int = 1) -> Settlement:
    """Return a settlement decided at `at`, begun a tenth before."""
    return a_settlement(
        a_delivery(endpoint_id=endpoint, host_id=host),
        outcome=an_outcome(kind),
        started_mono=at - 0.1,
        decided_mono=at,
    )


@pytest.mark.parametrize("kind", sorted(set(OutcomeKind) - FREE_OUTCOMES - {OutcomeKind.DELIVERED}))
def test_every_failure_of_the_customers_side_counts(kind: OutcomeKind) -> None:
    assert streaks_of([settled(kind, 7.0), settled(kind, 8.0)]) == {(1, 1): Streak(2, 6.9, is_new=False)}


@pytest.mark.parametrize("kind", sorted(FREE_OUTCOMES))
def test_our_own_doing_says_nothing(kind: OutcomeKind) -> None:
    assert streaks_of([settled(kind, 7.0)]) == {}
    assert streaks_of([settled(OutcomeKind.DELIVERED, 6.0), settled(kind, 7.0)]) == {(1, 1): WELL}


def test_what_was_never_sent_says_nothing() -> None:
    assert streaks_of([settled(OutcomeKind.DELIVERED, 1.0)._replace(outcome=None)]) == {}


def test_a_later_success_ends_failures_and_later_failures_begin_anew_however_the_batch_is_ordered() -> None:
    ended = [
        settled(OutcomeKind.HTTP_5XX, 1.0),
        settled(OutcomeKind.HTTP_5XX, 2.0),
        settled(OutcomeKind.DELIVERED, 3.0),
    ]
    begun = [
        settled(OutcomeKind.HTTP_5XX, 1.0),
        settled(OutcomeKind.DELIVERED, 2.0),
        settled(OutcomeKind.HTTP_5XX, 3.0),
    ]

    assert all(streaks_of(order) == {(1, 1): WELL} for order in itertools.permutations(ended))
    assert all(streaks_of(order) == {(1, 1): Streak(1, 2.9, is_new=True)} for order in itertools.permutations(begun))


def test_endpoints_are_judged_apart() -> None:
    batch = [settled(OutcomeKind.HTTP_4XX, 1.0, endpoint=2), settled(OutcomeKind.DELIVERED, 2.0, endpoint=1)]

    assert streaks_of(batch) == {(2, 1): Streak(1, 0.9, is_new=False), (1, 1): WELL}


def test_what_an_endpoint_did_at_one_host_says_nothing_of_another() -> None:
    batch = [settled(OutcomeKind.HTTP_5XX, 1.0, host=1), settled(OutcomeKind.DELIVERED, 2.0, host=2)]

    assert streaks_of(batch) == {(1, 1): Streak(1, 0.9, is_new=False), (1, 2): WELL}
