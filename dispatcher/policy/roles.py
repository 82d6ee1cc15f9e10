"""What each role may do: the one place where roles become scopes.

| role | its key may |
| --- | --- |
| owner | everything, invite and make keys too |
| developer | everything but that |
| viewer | look: at endpoints, deliveries and events, not at the requests and answers as they were sent |
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from dispatcher.model.access import TENANT_SCOPES, Role, Scope

SCOPES_OF: Final[Mapping[Role, frozenset[Scope]]] = {
    Role.OWNER: TENANT_SCOPES,
    Role.DEVELOPER: TENANT_SCOPES - {Scope.KEYS_WRITE},
    Role.VIEWER: frozenset({Scope.ENDPOINTS_READ, Scope.DELIVERIES_READ, Scope.EVENTS_READ}),
}


def lacking(held: AbstractSet[str], role: Role) -> list[Scope]:
    """Return the scopes of a role that somebody does not hold, sorted: who lacks one may not give the role."""
    return sorted(SCOPES_OF[role] - held)
