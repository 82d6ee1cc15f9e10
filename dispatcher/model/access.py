"""What keys may do, and what people are."""

from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """What a key may do. Closed. OPERATOR is for keys without an account, and only for them."""

    ENDPOINTS_READ = "endpoints:read"
    ENDPOINTS_WRITE = "endpoints:write"
    DELIVERIES_READ = "deliveries:read"
    DELIVERIES_WRITE = "deliveries:write"
    EVENTS_READ = "events:read"
    PAYLOADS_READ = "payloads:read"
    KEYS_WRITE = "keys:write"
    LISTEN = "listen"
    OPERATOR = "operator"


TENANT_SCOPES: Final = frozenset(Scope) - {Scope.OPERATOR}
"""What a key of an account may hold; all of them unless said otherwise."""

OPERATOR_SCOPES: Final = frozenset({Scope.OPERATOR})


class Role(StrEnum):
    """What a person is in one account and environment. Closed."""

    OWNER = "owner"
    DEVELOPER = "developer"
    VIEWER = "viewer"
