"""Endpoints of one account: made, read, changed, deleted.

An endpoint with its host, its sealed secret, its line in the audit log and its idempotency key appear in one
transaction or not at all. Makers of one account are serialized by a lock on the account's row, so that neither the
limit nor an idempotency key can be passed twice at the same moment. Whoever changes one endpoint does so
under its lock, from how it stands then; who means one version of it alone names that, the moment of the last change of
its settings. Deleting keeps the row for the history's sake, and destroys what is secret in it.
"""

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import asyncpg
import orjson

from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.claims import MOVE_ROWS
from dispatcher.ledger.connections import Pool, Session
from dispatcher.ledger.deeds import Deed, KeptAnswer, begin, headless, keep, note
from dispatcher.ledger.hosts import limits_row
from dispatcher.ledger.wishes import cancel_some
from dispatcher.model.endpoint import EndpointStatus, HealthState, HostLimits
from dispatcher.model.outcome import OutcomeKind

_HEALTH: Final = (
    "endpoint_id",
    "settings_at",
    "last_attempt_at",
    "last_status",
    "last_outcome",
    "failures",
    "failing_since",
    "last_success_at",
)
"""What a digest of an endpoint leaves out."""


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """What its owner says about an endpoint. `authority` is the host of `url`.

    `sealed_headers` is the sealed JSON object of the custom headers, `header_names` their names.
    `outcomes`, `workflows`, `schedule` and `rate_limit` are None for all, all, the environment's, and the host's.
    """

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
    rate_limit: float | None
    metadata: Mapping[str, str]

    def columns(self, host_id: int) -> tuple[object, ...]:
        """Return the columns in their order in the statements, `host_id` in the place of the authority."""
        return (
            host_id,
            self.url,
            self.description,
            self.events,
            self.outcomes,
            self.workflows,
            self.api_version,
            self.payload_mode,
            self.sealed_headers,
            self.header_names,
            self.schedule,
            self.rate_limit,
            orjson.dumps(self.metadata).decode(),
        )


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """What a new endpoint is made of. `seal_key` gets the secret's number, which the seal must name."""

    public_id: str
    settings: EndpointSettings
    seal_key: Callable[[int], bytes]
    last4: str


class StoredEndpoint(NamedTuple):
    """An endpoint as it may be shown: nothing in it is secret. `schedule` None: the environment's.

    `settings_at` is the version of its settings: it grows with every change that its owner makes, and with no other.
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
    rate_limit: float | None
    metadata: Mapping[str, str]
    status: EndpointStatus
    disabled_reason: str | None
    verified_at: dt.datetime | None
    created_at: dt.datetime
    settings_at: dt.datetime
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


class TooMany(NamedTuple):
    """The account has as many endpoints in this environment as it may have."""

    limit: int


class Changed(NamedTuple):
    """The endpoint is not, or no longer, the version that the writer meant."""


class EndpointLedger:
    """Endpoints in Postgres. `default_limits` are given to a host seen for the first time."""

    def __init__(self, pool: Pool, *, default_limits: HostLimits) -> None:
        self._pool = pool
        self._default_limits = default_limits

    async def create(
        self,
        deed: Deed,
        new: NewEndpoint,
        *,
        most: int,
        show: Callable[[StoredEndpoint], bytes],
        headers: Callable[[StoredEndpoint], Mapping[str, str]] = headless,
    ) -> StoredEndpoint | KeptAnswer | TooMany:
        """Make an endpoint with its first secret, unless the account has `most` already.

        `show` and `headers` give the answer to keep under the idempotency key. Gives a KeptAnswer, and makes nothing,
        when another request with the same key was faster.

        Raises:
            Unavailable: it may have been made; an idempotency key makes asking again safe.
        """
        async with self._pool.transaction() as session:
            kept = await begin(session, deed)
            if kept is not None:
                return kept
            count = await session.fetchrow("count_endpoints", *deed.owner)
            if count is not None and count["n"] >= most:
                return TooMany(most)
            made = await self._insert(session, deed.owner, new)
            await note(session, deed, made.public_id, after=_document(made))
            await keep(session, deed, 201, show(made), headers(made))
            return made

    async def find(self, tenant: Tenant, public_id: str) -> StoredEndpoint | None:
        """Return an endpoint of the tenant, None when it is not there, deleted, or somebody else's."""
        row = await self._pool.fetchrow("find_endpoint", *tenant, public_id)
        return None if row is None else _endpoint(row)

    async def sealed_headers(self, tenant: Tenant, public_id: str) -> bytes | None:
        """Return the sealed custom headers of an endpoint, None when it has none or is not there."""
        row = await self._pool.fetchrow("find_headers", *tenant, public_id)
        return None if row is None else row["sealed_headers"]

    async def page(self, tenant: Tenant, *, below: int | None = None, limit: int) -> list[StoredEndpoint]:
        """Return up to `limit` endpoints of the tenant, newest first, with numbers below `below`."""
        rows = await self._pool.fetch("list_endpoints", *tenant, below, limit)
        return [_endpoint(row) for row in rows]

    async def change(
        self,
        deed: Deed,
        public_id: str,
        merge: Callable[[StoredEndpoint, bytes | None], EndpointSettings],
        *,
        members: Sequence[str],
        versions: Collection[dt.datetime] | None = None,
    ) -> StoredEndpoint | Changed | None:
        """Give an endpoint the settings that `merge` makes of it; None when the account has no such endpoint.

        `merge` gets the endpoint and its sealed headers as they are under its lock, so that no change is lost and
        none has to be tried again; whatever it raises leaves everything as it was. Does nothing when `versions` are
        given and it is none of them.

        `members` names what is new, for the audit log. At another host the endpoint has to prove itself again and
        its pauses and failures are forgotten; what waits for it moves along, what processes hold follows later.

        Raises:
            Unavailable: it may have been changed.
        """
        async with self._pool.transaction() as session:
            row = await session.fetchrow("lock_endpoint", *deed.owner, public_id)
            if row is None:
                return None
            if versions is not None and row["settings_at"] not in versions:
                return Changed()
            before = await _read(session, deed.owner, public_id)
            sealed = await session.fetchrow("find_headers", *deed.owner, public_id)
            assert sealed is not None
            settings = merge(before, sealed["sealed_headers"])
            await self._write_settings(session, before.endpoint_id, row["host_id"], settings)
            after = await _read(session, deed.owner, public_id)
            facts = {"members": list(members)}
            await note(session, deed, public_id, before=_document(before), after=_document(after), facts=facts)
            return after

    async def delete(
        self, deed: Deed, public_id: str, *, versions: Collection[dt.datetime] | None = None
    ) -> int | Changed | None:
        """Delete an endpoint and cancel what waits for it; return its number, None when it is not there.

        Does nothing when `versions` are given and it is none of them. Its secrets, its header values and the first
        5,000 waiting deliveries go in one transaction, the rest of a longer queue in further ones, held deliveries
        first. Should those be cut short, what is left is canceled when it falls due; what processes hold, they cancel
        themselves.

        Raises:
            Unavailable: it may be deleted.
        """
        async with self._pool.transaction() as session:
            row = await session.fetchrow("lock_endpoint", *deed.owner, public_id)
            if row is None:
                return None
            if versions is not None and row["settings_at"] not in versions:
                return Changed()
            number: int = row["endpoint_id"]
            before = await _read(session, deed.owner, public_id)
            await session.execute("mark_deleted", number)
            await session.execute("delete_secrets", number)
            is_more = await cancel_some(session, number)
            await note(session, deed, public_id, before=_document(before))
        while is_more:
            async with self._pool.transaction() as session:
                is_more = await cancel_some(session, number)
        return number

    async def _insert(self, session: Session, tenant: Tenant, new: NewEndpoint) -> StoredEndpoint:
        settings = new.settings
        host_id = await self._host(session, settings.authority)
        row = await session.fetchrow("create_endpoint", new.public_id, *tenant, *settings.columns(host_id))
        secret = await session.fetchrow("next_secret_id")
        assert row is not None
        assert secret is not None
        number = secret["secret_id"]
        await session.execute("create_secret", number, row["endpoint_id"], new.seal_key(number), new.last4)
        return await _read(session, tenant, new.public_id)

    async def _write_settings(self, session: Session, number: int, host_id: int, settings: EndpointSettings) -> None:
        """Write new settings of a locked endpoint, and let it leave its host when they name another."""
        found = await session.fetchrow("find_host", settings.authority)
        is_there = found is not None and found["host_id"] == host_id
        new_host = host_id if is_there else await self._host(session, settings.authority)
        await session.execute("change_endpoint", number, *settings.columns(new_host))
        if not is_there:
            await session.execute("leave_host", host_id)
            await session.execute("forget_pauses", number)
            await session.execute("forget_failures", number)
            await session.execute("move_waiting", MOVE_ROWS)

    async def _host(self, session: Session, authority: str) -> int:
        limits = self._default_limits
        row = await session.fetchrow("hold_host", authority)
        if row is None:
            row = await session.fetchrow("create_host", authority, *limits_row(limits))
        if row is None:
            # Another maker committed the same host between the two statements.
            row = await session.fetchrow("hold_host", authority)
        assert row is not None
        number: int = row["host_id"]
        return number


async def _read(session: Session, tenant: Tenant, public_id: str) -> StoredEndpoint:
    """Return an endpoint that this transaction has locked or made."""
    row = await session.fetchrow("find_endpoint", *tenant, public_id)
    assert row is not None
    return _endpoint(row)


def _document(endpoint: StoredEndpoint) -> Mapping[str, object]:
    """Return what is digested of an endpoint for the audit log: all that its owner sees of it but its health."""
    document = endpoint._asdict()
    for name in _HEALTH:
        del document[name]
    return document


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
        rate_limit=row["rate_limit"],
        metadata=orjson.loads(row["metadata"]),
        status=EndpointStatus(row["status"]),
        disabled_reason=row["disabled_reason"],
        verified_at=row["verified_at"],
        created_at=row["created_at"],
        settings_at=row["settings_at"],
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
