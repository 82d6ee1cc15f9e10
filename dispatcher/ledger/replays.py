"""Replays as an account asks for them: made, read, canceled. The steps of a job are `replay_steps`."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import asyncpg

from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.deeds import OPERATORS, Deed, KeptAnswer, begin, headless, keep, note
from dispatcher.ledger.holding import MOST_COUNTED
from dispatcher.ledger.instants import aware
from dispatcher.ledger.wishes import cancel_some, count_of
from dispatcher.model.endpoint import EndpointStatus
from dispatcher.model.ids import new_replay_id
from dispatcher.model.replay import Replay, ReplayKind, ReplayState, Selection, Tally, Wanted

_ACCEPTED: Final = 202


class Running(NamedTuple):
    """The replay that an endpoint has already; there is one at a time."""

    public_id: str


class NotEnabled(NamedTuple):
    """The endpoint is paused or disabled: enabling it sends what it misses."""

    status: EndpointStatus


class ReplayLedger:
    """Jobs in Postgres. Every call raises Unavailable when Postgres is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def count(self, endpoint_id: int, selection: Selection) -> Tally:
        """Count the deliveries that a replay would make, looking at the first 10,000 events of its range."""
        row = await self._pool.fetchrow("count_wanted", endpoint_id, *_columns(selection), MOST_COUNTED)
        assert row is not None
        return Tally(row["n"], row["is_minimum"])

    async def create(
        self,
        deed: Deed,
        endpoint: str,
        selection: Selection,
        *,
        rate: float | None,
        expected: Tally,
        show: Callable[[Replay], bytes],
        headers: Callable[[Replay], Mapping[str, str]] = headless,
    ) -> Replay | Running | NotEnabled | KeptAnswer | None:
        """Make a job for an endpoint; None when the account has no such endpoint.

        `rate` None is half of what the endpoint takes; more than the whole is the whole. `show` and `headers`
        give the answer to keep.
        """
        public_id = new_replay_id()
        async with self._pool.transaction() as session:
            kept = await begin(session, deed)
            if kept is not None:
                return kept
            row = await session.fetchrow("lock_endpoint", *deed.owner, endpoint)
            if row is None:
                return None
            if row["status"] != EndpointStatus.ENABLED:
                return NotEnabled(EndpointStatus(row["status"]))
            number = row["endpoint_id"]
            wanted, types, since, until = _columns(selection)
            made = await session.fetchrow(
                "create_replay", number, public_id, wanted, since, until, types, rate, *expected
            )
            if made is None:
                running = await session.fetchrow("running_replay", number)
                assert running is not None
                return Running(running["public_id"])
            found = await session.fetchrow("find_replay", *deed.owner, public_id)
            assert found is not None
            replay = _replay(found)
            await note(session, deed, public_id, after=_facts(replay), facts=_facts(replay))
            await keep(session, deed, _ACCEPTED, show(replay), headers(replay))
            return replay

    async def find(self, tenant: Tenant, public_id: str) -> Replay | None:
        """Return a job of the tenant, of anybody for OPERATORS; None when there is none."""
        row = await self._pool.fetchrow("find_replay", *tenant, public_id)
        return None if row is None else _replay(row)

    async def page(
        self, tenant: Tenant, *, endpoint: str | None = None, below: int | None = None, limit: int
    ) -> list[Replay]:
        """Return up to `limit` jobs of the tenant, newest first, with numbers below `below`; of one endpoint or all.

        OPERATORS get those of every account.
        """
        if tenant == OPERATORS:
            rows = await self._pool.fetch("list_all_replays", endpoint, below, limit)
        else:
            rows = await self._pool.fetch("list_replays", *tenant, endpoint, below, limit)
        return [_replay(row) for row in rows]

    async def cancel(self, deed: Deed, public_id: str) -> Replay | None:
        """End a job and return it as it stands then; one that ended before stays as it ended.

        Deliveries that it made go their way. With a drain the deliveries that are still held are canceled, those first,
        so that a fault in between leaves the drain to go on.
        """
        while not await self._cancel(deed, public_id):
            pass
        return await self.find(deed.owner, public_id)

    async def _cancel(self, deed: Deed, public_id: str) -> bool:
        async with self._pool.transaction() as session:
            row = await session.fetchrow("find_replay", *deed.owner, public_id)
            if row is None or row["state"] != ReplayState.RUNNING:
                return True
            number = row["endpoint_id"]
            # The endpoint first, as everybody does. An end of it that came in between is found by the last statement.
            endpoint = await session.fetchrow("lock_endpoint_number", number)
            is_paying = endpoint is not None and endpoint["status"] == EndpointStatus.ENABLED
            if row["kind"] == ReplayKind.DRAIN and is_paying and await cancel_some(session, number, only_held=True):
                return False
            if count_of(await session.execute("end_replay", row["replay_id"])):
                facts = {"endpoint_id": row["endpoint"], "kind": row["kind"]}
                states = {"status": ReplayState.RUNNING}, {"status": ReplayState.CANCELED}
                await note(session, deed, public_id, before=states[0], after=states[1], facts=facts)
            return True


def _columns(selection: Selection) -> tuple[object, ...]:
    types = None if selection.types is None else list(selection.types)
    return selection.wanted, types, selection.since, selection.until


def _facts(replay: Replay) -> dict[str, object]:
    selection = replay.selection
    return {
        "endpoint_id": replay.endpoint,
        "what": selection.wanted,
        "since": selection.since,
        "until": selection.until,
        "types": selection.types,
        "rate": replay.rate,
        "expected": replay.expected.n,
    }


def _replay(row: asyncpg.Record) -> Replay:
    types = None if row["types"] is None else tuple(row["types"])
    since, until = (None if at is None else aware(at) for at in (row["since"], row["until"]))
    return Replay(
        replay_id=row["replay_id"],
        public_id=row["public_id"],
        account=row["account"],
        endpoint=row["endpoint"],
        environment=row["environment"],
        kind=ReplayKind(row["kind"]),
        selection=Selection(Wanted(row["what"]), since, until, types),
        rate=row["rate"],
        state=ReplayState(row["state"]),
        expected=Tally(row["n_expected"], row["is_minimum"]),
        n_scanned=row["n_scanned"],
        n_made=row["n_made"],
        n_skipped=row["n_skipped"],
        created_at=row["created_at"],
        ended_at=row["ended_at"],
    )
