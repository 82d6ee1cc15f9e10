"""Delivery settings of endpoints in memory: URL, secrets, headers, schedule, limits.

Loaded on first need, one query for all endpoints of a batch, and refreshed when Postgres says that they changed:
polling is the truth, `forget` a hint that spares a second of waiting. An endpoint whose secret cannot be opened is
quarantined: its own deliveries wait, nobody else's do.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final, Protocol
from urllib.parse import urlsplit

import orjson
import structlog

from dispatcher.kit import clock
from dispatcher.model.endpoint import EndpointStatus, HostLimits, SealedKey, SealedTarget, SigningKey, Target
from dispatcher.model.errors import SealBroken, Unavailable
from dispatcher.policy.pacing import UNVERIFIED

_REFRESH_SECONDS: Final = 1.0
_LOOK_BACK_SECONDS: Final = 15.0
"""Changes are looked for this far back each time, so that one that committed late is seen."""

_EXPIRY_SECONDS: Final = 60.0
"""Everything is read again after this long: a key ring that was mended leaves no trace in `changed_at`."""

_MOST_HELD: Final = 100_000
_PORTS: Final = {"https": 443, "http": 80}

_log = structlog.get_logger("directory")


class Book(Protocol):
    """What the directory needs of the ledger."""

    async def targets(self, endpoint_ids: Collection[int]) -> list[SealedTarget]:
        """Return the given endpoints that exist."""
        ...

    async def changed(self, within_seconds: float) -> list[int]:
        """Return endpoints changed lately."""
        ...


class Seals(Protocol):
    """What the directory needs of the vault."""

    def open(self, sealed: bytes, place: str) -> bytes:
        """Return the plain bytes or raise SealBroken."""
        ...


class Directory:
    """Answers where and how to send. `schedules` holds the default schedule of each environment.

    `on_limits` is told a host's limits when they are other than before. One loop only.
    """

    def __init__(
        self,
        book: Book,
        seals: Seals,
        *,
        schedules: Mapping[str, tuple[float, ...]],
        default_limits: HostLimits,
        on_limits: Callable[[int, HostLimits], None],
    ) -> None:
        self._book = book
        self._seals = seals
        self._schedules = schedules
        self._default_limits = default_limits
        self._on_limits = on_limits
        # Written by load and run, between awaits only.
        self._targets: dict[int, Target | SealBroken] = {}
        self._limits: dict[int, HostLimits] = {}
        self._rows: dict[int, SealedTarget] = {}
        self._loading = asyncio.Lock()

    def limits_of(self, host_id: int) -> HostLimits:
        """Return a host's limits, the defaults when none of its endpoints was read yet."""
        return self._limits.get(host_id, self._default_limits)

    def adopt_limits(self, host_id: int, limits: HostLimits) -> None:
        """Take a host's limits, whoever read them: a lane that is opened later has them, too."""
        if self._limits.get(host_id) != limits:
            self._limits[host_id] = limits
            self._on_limits(host_id, limits)

    async def target(self, endpoint_id: int) -> Target | None:
        """Return where to send; awaits Postgres only for an endpoint not in memory. None: it does not exist.

        A secret whose overlap is over is not in it from that moment on, whether Postgres can be asked or not.

        Raises:
            SealBroken: a secret or header of it cannot be opened; try again later.
            Unavailable: not in memory and Postgres is away.
        """
        found = self._targets.get(endpoint_id)
        if found is None:
            await self.load([endpoint_id])
            found = self._targets.get(endpoint_id)
        if isinstance(found, SealBroken):
            raise found
        if found is not None and clock.mono() >= found.end_mono:
            return self._without_ended(found)
        return found

    def peek(self, endpoint_id: int) -> Target | None:
        """Return what is in memory about an endpoint, without asking anybody."""
        found = self._targets.get(endpoint_id)
        return found if isinstance(found, Target) else None

    def pace_of(self, endpoint_id: int) -> HostLimits | None:
        """Return an endpoint's limits of its own, below its host's; None when it has none, or is not in memory."""
        target = self.peek(endpoint_id)
        if target is None:
            return None
        if not target.is_verified:
            return UNVERIFIED
        rate = target.rate_limit
        return None if rate is None else HostLimits(rate, max(1, math.ceil(rate)), max(1, math.ceil(rate)))

    def prove(self, endpoint_id: int, host_id: int) -> bool:
        """Note a success at a host before Postgres tells of it; tell whether it is the endpoint's first there."""
        target = self._targets.get(endpoint_id)
        if not isinstance(target, Target) or target.is_verified or target.host_id != host_id:
            return False
        self._targets[endpoint_id] = replace(target, is_verified=True)
        return True

    async def load(self, endpoint_ids: Collection[int]) -> None:
        """Read those of the endpoints that are not in memory, in one query. Raises Unavailable."""
        if all(number in self._targets for number in endpoint_ids):
            return
        async with self._loading:
            # Only now: whoever held the lock may have read them.
            missing = [number for number in set(endpoint_ids) if number not in self._targets]
            if not missing:
                return
            if len(self._targets) + len(missing) > _MOST_HELD:
                self._targets.clear()
                self._rows.clear()
                self._limits.clear()
            await self._read(missing)

    def forget(self, endpoint_id: int) -> None:
        """Drop one endpoint: the next look reads it again."""
        self._targets.pop(endpoint_id, None)
        self._rows.pop(endpoint_id, None)

    def close(self, endpoint_id: int, host_id: int) -> None:
        """Hold an endpoint at once in this process: its host said that it is gone.

        Postgres learns it by the settlement. A host that the endpoint has left has no say in it.
        """
        target = self.peek(endpoint_id)
        if target is not None and target.host_id == host_id:
            self._targets[endpoint_id] = replace(target, status=EndpointStatus.DISABLED)
            self._rows.pop(endpoint_id, None)

    async def run(self) -> None:
        """Keep what is in memory fresh until canceled; a stale answer lives at most about a second."""
        looks = 0
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            looks += 1
            try:
                if looks * _REFRESH_SECONDS % _EXPIRY_SECONDS == 0:
                    stale = list(self._targets)
                else:
                    stale = [n for n in await self._book.changed(_LOOK_BACK_SECONDS) if n in self._targets]
                if stale:
                    await self._read(stale)
            except Unavailable as fault:
                _log.warning("directory_stale", reason=str(fault))

    async def _read(self, endpoint_ids: list[int]) -> None:
        # Taken before, so that a slow answer makes no secret live longer.
        asked_mono = clock.mono()
        rows = await self._book.targets(endpoint_ids)
        for number in set(endpoint_ids) - {row.endpoint_id for row in rows}:
            self.forget(number)
        for row in rows:
            self.adopt_limits(row.host_id, row.limits)
            # An unchanged row keeps its Target: templates made from it are kept by identity. What did not open is
            # tried again: the key ring may have been mended since.
            if self._rows.get(row.endpoint_id) != row or isinstance(self._targets.get(row.endpoint_id), SealBroken):
                self._rows[row.endpoint_id] = row
                self._targets[row.endpoint_id] = self._open(row, asked_mono)

    def _without_ended(self, target: Target) -> Target:
        """Return a target without the secrets that ended, and keep that one from now on."""
        now = clock.mono()
        keys = tuple(key for key in target.keys if now < key.end_mono)
        target = self._targets[target.endpoint_id] = replace(target, keys=keys)
        return target

    def _open(self, row: SealedTarget, read_mono: float) -> Target | SealBroken:
        try:
            keys = tuple(
                SigningKey(
                    stored.key_id,
                    self._seals.open(stored.sealed, f"endpoint_secret:{row.public_id}:{stored.key_id}"),
                    _end_mono(stored, row, read_mono),
                )
                for stored in row.sealed_keys
            )
            headers: dict[str, str] = {}
            if row.sealed_headers is not None:
                headers = orjson.loads(self._seals.open(row.sealed_headers, f"endpoint_headers:{row.public_id}"))
        except SealBroken as fault:
            _log.error("endpoint_quarantined", endpoint_id=row.public_id, reason=str(fault))
            return fault
        url = urlsplit(row.url)
        return Target(
            endpoint_id=row.endpoint_id,
            public_id=row.public_id,
            account=row.account,
            environment=row.environment,
            status=row.status,
            host_id=row.host_id,
            scheme=url.scheme,
            hostname=url.hostname or "",
            port=url.port or _PORTS[url.scheme],
            path=(url.path or "/") + (f"?{url.query}" if url.query else ""),
            keys=keys,
            headers=tuple(headers.items()),
            schedule=row.schedule or self._schedules[row.environment],
            is_verified=row.is_verified,
            rate_limit=row.rate_limit,
        )


def _end_mono(key: SealedKey, row: SealedTarget, read_mono: float) -> float:
    return math.inf if key.expires_at is None else read_mono + (key.expires_at - row.read_at).total_seconds()
