"""How many tests may be sent from one process: each is a request to somebody's host that no lane paces.

    10 a minute   of one endpoint
    10 a minute   of one account and environment to one host: an endpoint that is deleted and made anew opens nothing
    60 a minute   of all accounts to one host
    60 a minute   of one account and environment: what each sends and is answered is kept for days
    1 at a time   of an endpoint that has not answered with success yet
    5 at a time   of one account and environment: they may take eight seconds each
    50 at a time  of all

All of it is in memory, and forgotten when it is past.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dispatcher.api.problems import Problem, ProblemCode
from dispatcher.api.throttle import Windows
from dispatcher.kit import clock
from dispatcher.ledger.accounts import Tenant

MOST: Final = 50
MOST_OF_TENANT: Final = 5

_MINUTE_SECONDS: Final = 60.0


class TrialBounds:
    """The tests of one process: those of the last minute, and those under way. Touched between awaits only."""

    def __init__(self, a_minute: int, most_a_minute: int) -> None:
        self._of_endpoint = Windows(a_minute, _MINUTE_SECONDS)
        self._of_tenant_to_host = Windows(a_minute, _MINUTE_SECONDS)
        self._of_host = Windows(most_a_minute, _MINUTE_SECONDS)
        self._of_tenant = Windows(most_a_minute, _MINUTE_SECONDS)
        self._told = (
            f"at most {a_minute} tests of one endpoint in a minute",
            f"at most {a_minute} tests of one account to one host in a minute",
            f"at most {most_a_minute} tests to one host in a minute, whoever asks for them",
            f"at most {most_a_minute} tests of one account in a minute",
        )
        self._unproved: set[str] = set()
        self._under_way: Counter[Tenant] = Counter()

    @contextmanager
    def admitted(self, tenant: Tenant, endpoint: str, authority: str, *, is_verified: bool) -> Iterator[None]:
        """Count a test of an endpoint to a host for the length of the block; one that is refused counts nowhere.

        Raises:
            Problem: 429 with Retry-After.
        """
        self._refuse_one_too_many(tenant, None if is_verified else endpoint)
        self._take(tenant, endpoint, authority)
        unproved = set() if is_verified else {endpoint}
        self._unproved |= unproved
        self._under_way[tenant] += 1
        try:
            yield
        finally:
            self._unproved -= unproved
            self._under_way[tenant] -= 1
            # Tenants come and go; what is counted is only who waits.
            self._under_way += Counter()

    def _refuse_one_too_many(self, tenant: Tenant, unproved: str | None) -> None:
        if unproved in self._unproved:
            detail = "one at a time until the endpoint has answered with success"
            raise Problem(ProblemCode.TEST_UNDER_WAY, detail, headers={"Retry-After": "1"})
        if self._under_way[tenant] >= MOST_OF_TENANT or self._under_way.total() >= MOST:
            detail = f"at most {MOST_OF_TENANT} tests of one account are under way at a time, and {MOST} of all"
            raise Problem(ProblemCode.RATE_LIMITED, detail, headers={"Retry-After": "1"})

    def _take(self, tenant: Tenant, endpoint: str, authority: str) -> None:
        now = clock.mono()
        names = (
            (self._of_endpoint, endpoint),
            (self._of_tenant_to_host, (tenant, authority)),
            (self._of_host, authority),
            (self._of_tenant, tenant),
        )
        for (windows, name), told in zip(names, self._told, strict=True):
            if wait := windows.wait(name, now):
                raise Problem(ProblemCode.RATE_LIMITED, told, headers={"Retry-After": str(math.ceil(wait))})
        for windows, name in names:
            windows.take(name, now)
