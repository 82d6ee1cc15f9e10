"""Tests of endpoints: an attempt each, of a delivery that was never in the queue and an event that is in no feed."""

import datetime as dt
from typing import Final

import orjson

from dispatcher.ledger.connections import Pool, Session
from dispatcher.ledger.deeds import Deed, KeptAnswer, begin, keep, note
from dispatcher.ledger.responses import dump_headers, is_kept
from dispatcher.model.delivery import Delivery
from dispatcher.model.outcome import Outcome, OutcomeKind

_MOST_MS: Final = 1_000
_OK: Final = 200


class TrialLedger:
    """Tests in Postgres. Every call raises Unavailable when Postgres is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def new_number(self) -> int:
        """Return the number of a new delivery."""
        row = await self._pool.fetchrow("next_delivery_id")
        assert row is not None
        number: int = row["delivery_id"]
        return number

    async def record(
        self,
        deed: Deed,
        public_id: str,
        delivery: Delivery,
        outcome: Outcome,
        key_ids: tuple[int, ...],
        *,
        answer: bytes,
    ) -> KeptAnswer | None:
        """Write a test's attempt, its event, its answer and its line in the audit log.

        A first success verifies the endpoint at its host. A request that was made is written down whatever else
        happened: should another with the same idempotency key have been faster, its answer is returned, and `answer` is
        not kept.
        """
        async with self._pool.transaction() as session:
            kept = await begin(session, deed)
            await _record(session, deed, delivery, outcome, key_ids)
            if outcome.kind is OutcomeKind.DELIVERED:
                await session.execute("verify_endpoint", delivery.endpoint_id, delivery.host_id)
            await note(session, deed, public_id, facts={"event_type": delivery.event_type, "outcome": outcome.kind})
            if kept is None:
                await keep(session, deed, _OK, answer)
            return kept


async def _record(session: Session, deed: Deed, delivery: Delivery, outcome: Outcome, key_ids: tuple[int, ...]) -> None:
    named = (delivery.subject, delivery.client_reference)
    started_at: dt.datetime = delivery.created_at
    await session.execute(
        "record_trial",
        started_at,
        delivery.delivery_id,
        delivery.endpoint_id,
        *deed.owner,
        delivery.event_id,
        delivery.event_type,
        *named,
        round(outcome.duration_seconds * _MOST_MS),
        outcome.status,
        outcome.kind,
        "delivered" if outcome.kind is OutcomeKind.DELIVERED else "exhausted",
        orjson.dumps(_detail(outcome, key_ids)),
    )
    await session.execute("record_trial_event", delivery.event_id, *deed.owner, *named, delivery.body)
    if is_kept(outcome):
        answer = (dump_headers(outcome.headers), outcome.body, outcome.body_cut)
        await session.execute("record_trial_answer", started_at, delivery.delivery_id, *answer)


def _detail(outcome: Outcome, key_ids: tuple[int, ...]) -> dict[str, object]:
    phases = {
        f"{name}_ms": round(seconds * 1_000, 1)
        for name, seconds in outcome.phases._asdict().items()
        if seconds is not None
    }
    sent = {"at": outcome.signed_at, "of": 1}
    rest = {"reason": outcome.reason or None, "peer": outcome.peer, "reused": outcome.reused, "keys": key_ids}
    return {**phases, **sent, **{name: value for name, value in rest.items() if value}}
