"""Hosts: tokens over all replicas (S4), pauses and slow starts (S8), and the operator's own limits."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from dispatcher.ledger.connections import Link, Pool
from dispatcher.ledger.deeds import Deed, note
from dispatcher.ledger.replicas import Replica
from dispatcher.model.endpoint import HostLimits
from dispatcher.model.errors import Fenced
from dispatcher.policy.pacing import Ask, Grant, Pauses, grants_of

_MOST_COUNTED: Final = 10_000


def limits_row(limits: HostLimits) -> tuple[float, int, int, int, int]:
    """Return the columns of limits: rate, burst, in flight, and how tokens are granted: interval in us, burst."""
    grants = grants_of(limits.rate, limits.burst)
    return limits.rate, limits.burst, limits.in_flight, grants.interval_us, grants.burst


class HostLedger:
    """What lanes need of Postgres about hosts. One statement at a time; the link serves nothing else."""

    def __init__(self, link: Link, replica: Replica) -> None:
        self._link = link
        self._replica = replica

    async def lease(self, asks: Sequence[Ask]) -> list[Grant]:
        """Take tokens of hosts and return a grant for each, in no order; a host another replica is at is absent.

        Raises:
            Fenced: this replica was taken over.
            Unavailable: tokens may have been taken; they are lost, which only costs speed.
        """
        rows = await self._link.fetch(
            "lease_tokens", self._replica.replica_id, [ask.number for ask in asks], [ask.want for ask in asks]
        )
        self._check(rows)
        return [
            Grant(row["host_id"], row["n"], row["scale"], row["next_seconds"], row["paused_seconds"])
            for row in rows
            if row["host_id"] is not None
        ]

    async def lease_for_endpoints(self, asks: Sequence[Ask]) -> list[Grant]:
        """Take tokens of endpoints that have a pace of their own; as `lease`, but nobody is absent."""
        rows = await self._link.fetch(
            "lease_endpoint_tokens",
            self._replica.replica_id,
            [ask.number for ask in asks],
            [ask.want for ask in asks],
            [ask.interval_us for ask in asks],
            [ask.burst for ask in asks],
        )
        self._check(rows)
        return [
            Grant(row["endpoint_id"], row["n"], 1.0, row["next_seconds"], row["paused_seconds"])
            for row in rows
            if row["endpoint_id"] is not None
        ]

    async def pause(self, endpoint_id: int, host_id: int, seconds: float | None) -> tuple[float, float]:
        """Pause an endpoint for as long as asked, or (None) by the breaker; return its and its host's seconds, or 0.

        An endpoint that has another host by now is left alone.
        """
        rows = await self._link.fetch("pause", endpoint_id, host_id, seconds)
        return (rows[0]["endpoint_seconds"], rows[0]["host_seconds"]) if rows else (0.0, 0.0)

    async def slow_down(self, host_ids: Sequence[int]) -> None:
        """Halve the rates of hosts, once per second at most."""
        await self._link.fetch("slow_down", list(host_ids))

    async def recover(self, host_ids: Sequence[int], endpoint_ids: Sequence[int]) -> None:
        """Double the rates of slowed hosts, every two seconds at most; forget endpoints' pauses in a row."""
        if host_ids:
            await self._link.fetch("recover", list(host_ids))
        if endpoint_ids:
            await self._link.fetch("forgive", list(endpoint_ids))

    async def pauses(self) -> Pauses:
        """Return the hosts and endpoints that are paused now, or were and have not answered well since."""
        rows = await self._link.fetch("pauses")
        found = Pauses({}, {})
        for row in rows:
            (found.hosts if row["is_host"] else found.endpoints)[row["number"]] = row["seconds"]
        return found

    async def delivering(self) -> tuple[int, int]:
        """Return how many replicas deliver, at least 1, and this one's rank among them, from 0."""
        row = await self._link.fetchrow("delivering", self._replica.replica_id)
        return max(1, row["n"]), row["rank"]

    async def changed_limits(self, within_seconds: float) -> dict[int, HostLimits]:
        """Return limits that changed during the last `within_seconds`, by the database's clock."""
        rows = await self._link.fetch("changed_hosts", within_seconds)
        return {row["host_id"]: HostLimits(row["rate"], row["burst"], row["in_flight"]) for row in rows}

    def _check(self, rows: Sequence[Any]) -> None:
        if not rows[0]["live"]:
            message = f"replica {self._replica.replica_id} was taken over"
            raise Fenced(message)


class HostState(NamedTuple):
    """One host as an operator sees it. `scale` is the share of its rate that it gets now (1 when all is well)."""

    authority: str
    limits: HostLimits
    has_own_limits: bool
    scale: float
    paused_seconds: float
    n_endpoints: int

    @property
    def limits_row(self) -> tuple[float, int, int]:
        """Return rate, burst and requests in flight."""
        return self.limits.rate, self.limits.burst, self.limits.in_flight


class HostBook:
    """Hosts for operators, over the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, *, after: str = "", limit: int = 100) -> list[HostState]:
        """Return up to `limit` hosts by authority, those after a given one."""
        return [_state(row) for row in await self._pool.fetch("list_hosts", after, limit)]

    async def find(self, authority: str) -> HostState | None:
        """Return one host, None when no endpoint has it, or had it until a day ago."""
        row = await self._pool.fetchrow("show_host", authority)
        return None if row is None else _state(row)

    async def set_limits(self, authority: str, limits: HostLimits, *, are_own: bool = True) -> bool:
        """Give a host limits, its own or (`are_own` False) the defaults again; False when there is no such host."""
        rate, burst, in_flight, interval_us, grant_burst = limits_row(limits)
        row = await self._pool.fetchrow(
            "set_host", authority, rate, burst, in_flight, interval_us, grant_burst, are_own
        )
        return row is not None

    async def change(
        self, deed: Deed, authority: str, limits: HostLimits | None, *, are_own: bool = True, resumes: bool = False
    ) -> bool:
        """Give a host limits, end its pause, or both, and write it down; False when there is no such host.

        `limits` None leaves them; `are_own` False: they are the defaults again.
        """
        async with self._pool.transaction() as session:
            row = await session.fetchrow("show_host", authority)
            if row is None:
                return False
            before = _state(row)
            if limits is not None:
                rate, burst, in_flight, interval_us, grant_burst = limits_row(limits)
                await session.execute("set_host", authority, rate, burst, in_flight, interval_us, grant_burst, are_own)
            if resumes:
                await session.execute("resume_host", authority)
            row = await session.fetchrow("show_host", authority)
            assert row is not None
            after = _state(row)
            facts = {"rate": after.limits.rate, "burst": after.limits.burst, "in_flight": after.limits.in_flight}
            await note(
                session,
                deed,
                authority,
                before=_document(before),
                after=_document(after),
                facts={**facts, "are_own": after.has_own_limits, "resumed": resumes},
            )
            return True

    async def n_waiting(self, authority: str) -> int:
        """Count the deliveries that wait for a host and are not held, 10,000 at most."""
        row = await self._pool.fetchrow("host_backlog", authority, _MOST_COUNTED)
        return 0 if row is None else int(row["n"])

    async def resume(self, authority: str) -> bool:
        """End a host's pause and slow start; False when there is no such host."""
        return await self._pool.fetchrow("resume_host", authority) is not None


def _document(state: HostState) -> dict[str, object]:
    return {"limits": list(state.limits_row), "are_own": state.has_own_limits, "is_paused": state.paused_seconds > 0}


def _state(row: Any) -> HostState:
    return HostState(
        row["authority"],
        HostLimits(row["rate"], row["burst"], row["in_flight"]),
        row["has_own_limits"],
        row["scale"],
        row["paused_seconds"],
        row["n_endpoints"],
    )
