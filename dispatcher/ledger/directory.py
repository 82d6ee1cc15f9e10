"""Delivery settings of endpoints, as they lie in Postgres: secrets and headers sealed."""

from collections.abc import Collection
from functools import partial
from typing import Final

from dispatcher.ledger.connections import Link, patiently
from dispatcher.ledger.hosts import limits_row
from dispatcher.model.endpoint import EndpointStatus, HostLimits, SealedKey, SealedTarget

HOSTS_AT_ONCE: Final = 5_000
"""Hosts given other limits per statement: 0.2 s."""


class DirectoryLedger:
    """What the directory needs of Postgres. Reads only, but for the default limits."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def targets(self, endpoint_ids: Collection[int]) -> list[SealedTarget]:
        """Return the given endpoints that exist (deleted ones too), in no order."""
        rows = await self._link.fetch("targets", list(endpoint_ids))
        return [
            SealedTarget(
                endpoint_id=row["endpoint_id"],
                public_id=row["public_id"],
                account=row["account"],
                environment=row["environment"],
                status=EndpointStatus(row["status"]),
                host_id=row["host_id"],
                url=row["url"],
                sealed_headers=row["sealed_headers"],
                sealed_keys=tuple(
                    SealedKey(*key)
                    for key in zip(
                        row["secret_ids"] or (), row["sealed_keys"] or (), row["key_ends"] or (), strict=True
                    )
                ),
                read_at=row["read_at"],
                schedule=None if row["schedule"] is None else tuple(float(s) for s in row["schedule"]),
                is_verified=row["is_verified"],
                limits=HostLimits(row["rate"], row["burst"], row["in_flight"]),
                rate_limit=row["rate_limit"],
            )
            for row in rows
        ]

    async def changed(self, within_seconds: float) -> list[int]:
        """Return the endpoints changed during the last `within_seconds`, by the database's clock."""
        rows = await self._link.fetch("changed_endpoints", within_seconds)
        return [row["endpoint_id"] for row in rows]

    async def set_default_limits(self, limits: HostLimits) -> None:
        """Give hosts without limits of their own the configured ones, some at a time.

        Each statement is tried again for as long as a start is patient. Raises Unavailable.
        """
        last: int | None = 0
        while last is not None:
            columns = (*limits_row(limits), last, HOSTS_AT_ONCE)
            row = await patiently(partial(self._link.fetchrow, "set_default_limits", *columns))
            last = row["last"]

    async def id_key(self) -> bytes:
        """Return the installation's key for public delivery ids and clients' places in lists (32 bytes)."""
        row = await self._link.fetchrow("installation")
        key: bytes = row["id_key"]
        return key
