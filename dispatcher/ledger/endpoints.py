"""Endpoints of one account: made, read, deleted, and the answers kept for idempotency keys.

An endpoint with its host, its sealed secret and its idempotency key appear in one transaction or not at all.
Makers of one account are serialized by a lock on the account's row, so that neither the limit nor an idempotency
key can be passed twice at the same moment. Deleting keeps the row for the history's sake, and destroys what is
secret in it.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import asyncpg
import orjson

from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool, Session
from dispatcher.ledger.hosts import limits_row
from dispatcher.ledger.wishes import cancel_some
from dispatcher.model.endpoint import EndpointStatus, HealthState, HostLimits
from dispatcher.model.outcome import OutcomeKind


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """What a new endpoint is made of. `seal_key` gets the secret's number, which the seal must name.

    `sealed_headers` is the sealed JSON object of the custom headers, `header_names` their names.
    `outcomes`, `workflows` and `schedule` are None for all, all, and the environment's.
    """

    public_id: str
    authority: str
    url: str
    description: str | None
    events: tuple[str, ...]
    outcomes: tuple[str, ...] | None
    workflows: tuple[str, ...] | None
    api_version: str
    payload_mode: str
    sealed_headers: bytes | None
    header_names: tuple[str, ...]
    schedule: tuple[int, ...] | None
    metadata: Mapping[str, str]
    seal_key: Callable[[int], bytes]
    last4: str


class StoredEndpoint(NamedTuple):
    """An endpoint as it may be shown: nothing in it is secret. `schedule` None: the environment's.

    `failures` are in a row; `failing_since` is None unless they make it failing. `last_success_at` is None when there
    was none, or none among the hundred attempts before the failures.
    """

    endpoint_id: int
    public_id: str
    environment: str
    url: str
    description: str | None
    events: tuple[str, ...]
    outcomes: tuple[str, ...] | None
    workflows: tuple[str, ...] | None
    api_version: str
    payload_mode: str
    header_names: tuple[str, ...]
    schedule: tuple[int, ...] | None
    metadata: Mapping[str, str]
    status: EndpointStatus
    disabled_reason: str | None
    verified_at: dt.datetime | None
    created_at: dt.datetime
    changed_at: dt.datetime
    secret_last4: str | None
    previous_secret_expires_at: dt.datetime | None
    last_attempt_at: dt.datetime | None
    last_status: int | None
    last_outcome: OutcomeKind | None
    failures: int
    failing_since: dt.datetime | None
    last_success_at: dt.datetime | None

    @property
    def health(self) -> HealthState:
        """Return what its attempts say about it, whether or not it is enabled."""
        if self.failing_since is not None:
            return HealthState.FAILING
        return HealthState.UNVERIFIED if self.verified_at is None else HealthState.OK


class KeptAnswer(NamedTuple):
    """An answer given before under the same idempotency key; `request_sha256` says to which request."""

    request_sha256: bytes
    status: int
    response: bytes


class Idempotency(NamedTuple):
    """Under which key an answer is kept for a day, and to which request. `show` makes the answer to keep."""

    key: str
    request_sha256: bytes
    status: int
    show: Callable[[StoredEndpoint], bytes]


class TooMany(NamedTuple):
    """The account has as many endpoints in this environment as it may have."""

    limit: int


class EndpointLedger:
    """Endpoints in Postgres. `default_limits` are given to a host seen for the first time."""

    def __init__(self, pool: Pool, *, default_limits: HostLimits) -> None:
        self._pool = pool
        self._default_limits = default_limits

    async def create(
        self, tenant: Tenant, new: NewEndpoint, *, most: int, idempotency: Idempotency | None = None
    ) -> StoredEndpoint | KeptAnswer | TooMany:
        """Make an endpoint with its first secret, unless the account has `most` already.

        Gives a KeptAnswer, and makes nothing, when another request with the same idempotency key was faster.

        Raises:
            Unavailable: it may have been made; an idempotency key makes asking again safe.
        """
        async with self._pool.transaction() as session:
            await session.fetchrow("lock_account", tenant.account_id)
            if idempotency is not None:
                kept = await session.fetchrow("find_answer", *tenant, idempotency.key)
                if kept is not None:
                    return KeptAnswer(*kept)
            count = await session.fetchrow("count_endpoints", *tenant)
            if count is not None and count["n"] >= most:
                return TooMany(most)
            made = await self._insert(session, tenant, new)
            if idempotency is not None:
                await session.execute("forget_answers", *tenant)
                await session.execute(
                    "keep_answer",
                    *tenant,
                    idempotency.key,
                    idempotency.request_sha256,
                    idempotency.status,
                    idempotency.show(made),
                )
            return made

    async def kept_answer(self, tenant: Tenant, key: str) -> KeptAnswer | None:
        """Return the answer kept under an idempotency key, None when there is none younger than a day."""
        row = await self._pool.fetchrow("find_answer", *tenant, key)
        return None if row is None else KeptAnswer(*row)

    async def find(self, tenant: Tenant, public_id: str) -> StoredEndpoint | None:
        """Return an endpoint of the tenant, None when it is not there, deleted, or somebody else's."""
        row = await self._pool.fetchrow("find_endpoint", *tenant, public_id)
        return None if row is None else _endpoint(row)

    async def page(self, tenant: Tenant, *, below: int | None = None, limit: int) -> list[StoredEndpoint]:
        """Return up to `limit` endpoints of the tenant, newest first, with numbers below `below`."""
        rows = await self._pool.fetch("list_endpoints", *tenant, below, limit)
        return [_endpoint(row) for row in rows]

    async def delete(self, tenant: Tenant, public_id: str) -> int | None:
        """Delete an endpoint and cancel what waits for it; return its number, None when it is not there.

        Its secrets, its header values and the first 5,000 waiting deliveries go in one transaction, the rest of
        a longer queue in further ones, held deliveries first. Should those be cut short, what is left is
        canceled when it falls due; what processes hold, they cancel themselves.

        Raises:
            Unavailable: it may be deleted.
        """
        async with self._pool.transaction() as session:
            row = await session.fetchrow("mark_deleted", *tenant, public_id)
            if row is None:
                return None
            number: int = row["endpoint_id"]
            await session.execute("delete_secrets", number)
            is_more = await cancel_some(session, number)
        while is_more:
            async with self._pool.transaction() as session:
                is_more = await cancel_some(session, number)
        return number

    async def _insert(self, session: Session, tenant: Tenant, new: NewEndpoint) -> StoredEndpoint:
        row = await session.fetchrow(
            "create_endpoint",
            new.public_id,
            *tenant,
            await self._host(session, new.authority),
            new.url,
            new.description,
            new.events,
            new.outcomes,
            new.workflows,
            new.api_version,
            new.payload_mode,
            new.sealed_headers,
            new.header_names,
            new.schedule,
            orjson.dumps(new.metadata).decode(),
        )
        secret = await session.fetchrow("next_secret_id")
        assert row is not None
        assert secret is not None
        number = secret["secret_id"]
        await session.execute("create_secret", number, row["endpoint_id"], new.seal_key(number), new.last4)
        made = await session.fetchrow("find_endpoint", *tenant, new.public_id)
        assert made is not None
        return _endpoint(made)

    async def _host(self, session: Session, authority: str) -> int:
        limits = self._default_limits
        row = await session.fetchrow("find_host", authority)
        if row is None:
            row = await session.fetchrow("create_host", authority, *limits_row(limits))
        if row is None:
            # Another maker committed the same host between the two statements.
            row = await session.fetchrow("find_host", authority)
        assert row is not None
        number: int = row["host_id"]
        return number


def _endpoint(row: asyncpg.Record) -> StoredEndpoint:
    return StoredEndpoint(
        endpoint_id=row["endpoint_id"],
        public_id=row["public_id"],
        environment=row["environment"],
        url=row["url"],
        description=row["description"],
        events=tuple(row["events"]),
        outcomes=_optional(row["outcomes"]),
        workflows=_optional(row["workflows"]),
        api_version=row["api_version"],
        payload_mode=row["payload_mode"],
        header_names=tuple(row["header_names"]),
        schedule=_optional(row["schedule"]),
        metadata=orjson.loads(row["metadata"]),
        status=EndpointStatus(row["status"]),
        disabled_reason=row["disabled_reason"],
        verified_at=row["verified_at"],
        created_at=row["created_at"],
        changed_at=row["changed_at"],
        secret_last4=row["last4"],
        previous_secret_expires_at=row["previous_expires_at"],
        last_attempt_at=row["last_attempt_at"],
        last_status=row["last_status"],
        last_outcome=None if row["last_outcome"] is None else OutcomeKind(row["last_outcome"]),
        failures=row["failures"],
        failing_since=row["failing_since"],
        last_success_at=row["last_success_at"],
    )


def _optional(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
