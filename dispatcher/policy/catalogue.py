"""The event types that exist, the names producers use for them, and what may be subscribed."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

from dispatcher.model.errors import ConfigurationError
from dispatcher.policy.schema_files import JsonObject

EVERYTHING: Final = "*"
"""The subscription to every type, future ones too, except operational ones."""

_LONGEST_NAME: Final = 128
# Below this likeness a suggestion confuses more than it helps (difflib's own default is 0.6).
_LIKENESS: Final = 0.4


class Origin(StrEnum):
    """Who makes events of a type."""

    PRODUCER = "producer"
    DISPATCHER = "dispatcher"


class FaultKind(StrEnum):
    """What is wrong with a subscription."""

    EMPTY = "empty"
    UNKNOWN = "unknown"
    REPEATED = "repeated"


@dataclass(frozen=True, slots=True)
class EventType:
    """One type. `status` and `final` are those of its verification, None where they vary.

    `default` preselects it in pickers. Operational types tell about the account's other endpoints.
    """

    name: str
    group: str
    description: str
    fires: str
    default: bool
    origin: Origin
    operational: bool
    status: str | None
    final: bool | None


@dataclass(frozen=True, slots=True)
class SubscriptionFault:
    """One fault of a subscription: the name of that index, and the known names nearest to it, best first.

    Of an empty subscription the name is empty, too.
    """

    index: int
    name: str
    kind: FaultKind
    nearest: tuple[str, ...] = ()


class Catalogue:
    """The known event types, in published order, and the producers' names for them.

    `aliases` maps a producer's own name to one of ours, `com.example.session.decided.v2` to
    `verification.completed`. Raises ConfigurationError listing every alias that leads nowhere.
    """

    def __init__(self, types: Iterable[EventType], aliases: Mapping[str, str] | None = None) -> None:
        self.types: Final = tuple(types)
        self._by_name = {event_type.name: event_type for event_type in self.types}
        self._groups = {f"{event_type.group}.*" for event_type in self.types}
        self._from_producers = {
            event_type.name: event_type.name for event_type in self.types if event_type.origin is Origin.PRODUCER
        }
        faults = [
            f"event type {theirs!r} is mapped to {ours!r}, which no producer may send; "
            f"nearest: {', '.join(self.nearest(ours)) or 'none'}"
            for theirs, ours in (aliases or {}).items()
            if ours not in self._from_producers
        ]
        if faults:
            raise ConfigurationError(faults)
        self._from_producers.update(aliases or {})

    @classmethod
    def from_document(cls, document: JsonObject, aliases: Mapping[str, str] | None = None) -> "Catalogue":
        """Build from the published catalogue."""
        entries = cast("list[JsonObject]", document["types"])
        return cls((_event_type(entry) for entry in entries), aliases)

    def find(self, name: str) -> EventType | None:
        """Return the type of that name, or None."""
        return self._by_name.get(name)

    def is_known(self, name: str) -> bool:
        """Tell whether `name` is a type of the catalogue (groups and `*` are not)."""
        return name in self._by_name

    def from_producer(self, name: str) -> str | None:
        """Return our name for a producer's type, or None when it is neither ours nor mapped."""
        return self._from_producers.get(name)

    def nearest(self, name: str, n: int = 3) -> tuple[str, ...]:
        """Return up to `n` known types and groups like `name`, best first; may be empty."""
        candidates = [*self._by_name, *sorted(self._groups)]
        # The comparison is quadratic, and a stranger chooses the name: compare its beginning only.
        beginning = name[:_LONGEST_NAME].lower()
        return tuple(difflib.get_close_matches(beginning, candidates, n, _LIKENESS))

    def check_subscription(self, names: Sequence[str]) -> list[SubscriptionFault]:
        """Return every fault of a subscription, in its order; empty when it may be stored.

        Allowed are types, groups such as `verification.*`, and `*`; at least one, none twice.
        """
        if not names:
            return [SubscriptionFault(0, "", FaultKind.EMPTY)]
        faults = []
        seen: set[str] = set()
        for index, name in enumerate(names):
            if name in seen:
                faults.append(SubscriptionFault(index, name, FaultKind.REPEATED))
            elif not self._may_be_subscribed(name):
                faults.append(SubscriptionFault(index, name, FaultKind.UNKNOWN, self.nearest(name)))
            seen.add(name)
        return faults

    def expand(self, subscription: Iterable[str]) -> tuple[str, ...]:
        """Return the known types that a subscription selects, in published order.

        Operational types come only by their own name or group, never by `*`.
        """
        chosen = frozenset(subscription)
        return tuple(kind.name for kind in self.types if self._selects(chosen, kind))

    def _may_be_subscribed(self, name: str) -> bool:
        return name == EVERYTHING or name in self._by_name or name in self._groups

    @staticmethod
    def _selects(chosen: frozenset[str], kind: EventType) -> bool:
        if kind.name in chosen or f"{kind.group}.*" in chosen:
            return True
        return EVERYTHING in chosen and not kind.operational


def _event_type(entry: JsonObject) -> EventType:
    return EventType(
        name=cast("str", entry["name"]),
        group=cast("str", entry["group"]),
        description=cast("str", entry["description"]),
        fires=cast("str", entry["fires"]),
        default=cast("bool", entry["default"]),
        origin=Origin(cast("str", entry["origin"])),
        operational=cast("bool", entry["operational"]),
        status=cast("str | None", entry["status"]),
        final=cast("bool | None", entry["final"]),
    )
