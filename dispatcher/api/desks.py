"""What each account is served with: the services of all, on a part of the connections to Postgres of its own."""

from dataclasses import replace
from typing import Final, NamedTuple, Self

from dispatcher.api.call import ApiServices
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.deeds import DeedLedger
from dispatcher.ledger.endpoints import EndpointLedger
from dispatcher.ledger.logs import LogLedger

STATEMENTS_AT_ONCE: Final = 3
"""Of an account, with both its environments and all its keys, of the five that the process has connections for."""

_MOST: Final = 1_000
"""Beyond it the one that was used longest ago is given up. Whoever is still served there has its part twice."""


class Desk(NamedTuple):
    """The services with one account's part of the pool, and what works with it."""

    services: ApiServices
    endpoints: EndpointLedger
    logs: LogLedger
    deeds: DeedLedger

    @classmethod
    def of(cls, services: ApiServices) -> Self:
        """Return the desk of an account that was not served lately."""
        pool = services.pool.portion(STATEMENTS_AT_ONCE)
        endpoints = EndpointLedger(pool, default_limits=services.host_defaults)
        return cls(replace(services, pool=pool), endpoints, LogLedger(pool), DeedLedger(pool))


class Desks:
    """The desks of one process, by account. Touched between awaits only."""

    def __init__(self, services: ApiServices) -> None:
        self._services = services
        # The longest unused first.
        self._desks: dict[int, Desk] = {}

    def of(self, tenant: Tenant) -> Desk:
        """Return where the tenant's account is served."""
        number = tenant.account_id
        desk = self._desks.pop(number, None) or Desk.of(self._services)
        self._desks[number] = desk
        if len(self._desks) > _MOST:
            del self._desks[next(iter(self._desks))]
        return desk
