"""From the query of a list to what is wanted of it: comma lists, groups of types, classes of outcomes, instants."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dispatcher.api.models import LogQuery
from dispatcher.api.problems import Fault, Problem, ProblemCode
from dispatcher.api.subscriptions import type_faults
from dispatcher.ledger.lists import LogFilter
from dispatcher.model.delivery import DeliveryState
from dispatcher.model.ids import parse_event_id, parse_test_event_id
from dispatcher.model.outcome import OutcomeKind
from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.instants import INSTANT_WORDS, read_instant

_BY_STATUS: Final[Mapping[str, tuple[OutcomeKind, ...]]] = {
    "2xx": (OutcomeKind.DELIVERED,),
    "3xx": (OutcomeKind.HTTP_3XX,),
    "4xx": (OutcomeKind.HTTP_4XX, OutcomeKind.HTTP_410, OutcomeKind.HTTP_429),
    "5xx": (OutcomeKind.HTTP_5XX,),
}
_ANSWERED: Final = frozenset(kind for kinds in _BY_STATUS.values() for kind in kinds)
OUTCOMES: Final[Mapping[str, tuple[OutcomeKind, ...]]] = {
    **{kind.value: (kind,) for kind in OutcomeKind},
    **_BY_STATUS,
    "no_answer": tuple(kind for kind in OutcomeKind if kind not in _ANSWERED),
}
"""Names by which outcomes are asked for, and what each means."""


def read_filter(query: LogQuery, catalogue: Catalogue, *, status: str | None = None) -> LogFilter:
    """Return what is wanted.

    Raises:
        Problem: 400 with everything in the query that is not understood.
    """
    faults: list[Fault] = []
    wanted = LogFilter(
        states=_states(status, faults),
        types=_types(query.type, catalogue, faults),
        outcomes=_outcomes(query.outcome, faults),
        since=_instant("since", query.since, faults),
        until=_instant("until", query.until, faults),
        event_id=_event(query.event_id, faults),
        subject=query.subject,
        client_reference=query.client_reference,
        is_test=query.test,
    )
    _refuse(faults)
    return wanted


def read_types(text: str | None, catalogue: Catalogue) -> Sequence[str] | None:
    """Return the types that a comma list of types and groups names, None for no list: all of them.

    Raises:
        Problem: 400 with every name that does not exist.
    """
    faults: list[Fault] = []
    types = _types(text, catalogue, faults)
    _refuse(faults)
    return types


def _refuse(faults: Sequence[Fault]) -> None:
    if faults:
        told = "; ".join(f"{one.where}: {one.message}" for one in faults[:3])
        raise Problem(ProblemCode.INVALID_QUERY, told, faults=faults)


def _states(text: str | None, faults: list[Fault]) -> tuple[DeliveryState, ...]:
    if text is None:
        return tuple(DeliveryState)
    names = text.split(",")
    faults += _strangers("status", names, [state.value for state in DeliveryState])
    return tuple(state for state in DeliveryState if state in names)


def _outcomes(text: str | None, faults: list[Fault]) -> tuple[OutcomeKind, ...] | None:
    if text is None:
        return None
    names = text.split(",")
    faults += _strangers("outcome", names, OUTCOMES)
    return tuple({kind: None for name in names for kind in OUTCOMES.get(name, ())})


def _types(text: str | None, catalogue: Catalogue, faults: list[Fault]) -> Sequence[str] | None:
    if text is None:
        return None
    names = text.split(",")
    faults += type_faults(names, catalogue, lambda _: "type")
    return catalogue.expand(names)


def _instant(name: str, text: str | None, faults: list[Fault]) -> dt.datetime | None:
    if text is None:
        return None
    instant = read_instant(text)
    if instant is None:
        faults.append(Fault(name, "invalid_instant", INSTANT_WORDS))
    return instant


def _event(text: str | None, faults: list[Fault]) -> bytes | None:
    if text is None:
        return None
    event_id = parse_event_id(text) or parse_test_event_id(text)
    if event_id is None:
        faults.append(Fault("event_id", "invalid", "an event's id, evt_ and 32 characters, or evt_test_ and 26"))
    return event_id


def _strangers(where: str, names: Sequence[str], known: Iterable[Any]) -> list[Fault]:
    message = f"a comma list of {', '.join(known)}"
    return [Fault(where, "not_allowed", message) for _ in {name for name in names if name not in set(known)}]
