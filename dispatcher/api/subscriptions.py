"""Lists of event types as they come in, in bodies and queries: what is wrong with which of their names."""

from collections.abc import Callable, Sequence

from dispatcher.api.problems import Fault
from dispatcher.policy.catalogue import Catalogue, FaultKind, SubscriptionFault


def type_faults(names: Sequence[str], catalogue: Catalogue, where: Callable[[int], str]) -> list[Fault]:
    """Return every fault of a list of types and groups; `where` says where the name of that index stands."""
    return [_fault(found, where(found.index)) for found in catalogue.check_subscription(names)]


def _fault(found: SubscriptionFault, where: str) -> Fault:
    match found.kind:
        case FaultKind.EMPTY:
            return Fault(where, "no_events", "choose at least one event type")
        case FaultKind.REPEATED:
            return Fault(where, "repeated", "this event type is given twice")
        case FaultKind.UNKNOWN:
            message = "this event type does not exist"
            if found.nearest:
                message += f"; nearest: {', '.join(found.nearest)}"
            return Fault(where, "unknown_event_type", message, found.nearest)
