"""How each endpoint of a batch stands at its end: failures in a row, or a success."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from dispatcher.model.delivery import Settlement
from dispatcher.model.outcome import FREE_OUTCOMES, OutcomeKind

_in_time = attrgetter("decided_mono")


class Streak(NamedTuple):
    """Failures in a row, the first of them begun at `began_mono`.

    `is_new`: a success came before them, so none of earlier batches belong to it. No failures: the latest was a
    success.
    """

    failures: int
    began_mono: float
    is_new: bool


WELL: Final = Streak(0, 0.0, is_new=True)


def streaks_of(batch: Sequence[Settlement]) -> dict[tuple[int, int], Streak]:
    """Return how each endpoint, at each host that was asked for it, stands after all that counts, in no order.

    Every failure of the customer's side counts, 410 too. What is our doing does not, nor what never was sent. Of a
    success and failures in one batch the one decided later wins, however they are ordered in it.
    """
    streaks: dict[tuple[int, int], Streak] = {}
    for settlement in sorted(batch, key=_in_time):
        outcome = settlement.outcome
        if outcome is None or outcome.kind in FREE_OUTCOMES:
            continue
        place = settlement.delivery.endpoint_id, settlement.delivery.host_id
        if outcome.kind is OutcomeKind.DELIVERED:
            streaks[place] = WELL
            continue
        before = streaks.get(place)
        if before is None or before is WELL:
            streaks[place] = Streak(1, settlement.started_mono, is_new=before is WELL)
        else:
            streaks[place] = before._replace(failures=before.failures + 1)
    return streaks
