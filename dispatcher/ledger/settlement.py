"""Settle: attempts, verdicts and the lease renewal of one process, written in one statement (S2)."""

import contextlib
import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any, Final

import orjson

from dispatcher.kit import clock
from dispatcher.ledger.connections import Link
from dispatcher.ledger.replicas import Replica
from dispatcher.model.delivery import Settlement
from dispatcher.model.errors import Fenced, Unavailable
from dispatcher.model.outcome import Outcome, VerdictKind

_LONGEST_MS: Final = 6 * 86_400_000
"""Longest age or duration that is written: tables go back eight days, and one without a table would be refused."""


class SettlementLedger:
    """What recording needs of Postgres. One caller at a time; the link it is given serves nobody else."""

    def __init__(self, link: Link, replica: Replica) -> None:
        self._link = link
        self._replica = replica
        self._flush_seq = 0

    async def settle(self, batch: Sequence[Settlement], *, first_successes: Collection[int] = ()) -> None:
        """Write one batch, at most one settlement per delivery in it; empty batches only renew the lease.

        Idempotent by number: after Unavailable call again with the very same batch, which then applies once,
        whether or not the first try did. Rows that this replica no longer owns are left alone.

        Raises:
            Fenced: this replica was taken over; its attempts are not recorded.
            Unavailable: unknown whether it was written; call again with the same batch.
            PoisonBatch: Postgres refuses a value; nothing was written. Bisect.
        """
        number = self._flush_seq + 1
        sent = clock.mono()
        columns = [list(column) for column in zip(*(_row(s, sent) for s in batch), strict=True)] or [
            [] for _ in range(17)
        ]
        async with self._replica.gate.shared():
            row = await self._link.fetchrow(
                "settle",
                self._replica.replica_id,
                number,
                self._replica.lease_seconds,
                *columns,
                list(first_successes),
            )
            if not row["live"]:
                await self._find_out(number)
            self._flush_seq = number
            self._replica.held.difference_update([s.delivery.delivery_id for s in batch])
        if row["live"]:
            self._replica.renewed(sent)
        gone = {s.delivery.endpoint_id for s in batch if s.verdict.kind in (VerdictKind.GONE, VerdictKind.HELD)}
        if gone:
            # The batch is written, and a second try would write it again; what is not held now is when it falls due.
            with contextlib.suppress(Unavailable):
                await self._link.fetch("hold_waiting", list(gone))

    async def _find_out(self, number: int) -> None:
        rows = await self._link.fetch("flush_seq", self._replica.replica_id)
        if not rows:
            message = f"replica {self._replica.replica_id} was taken over"
            raise Fenced(message)
        if rows[0]["flush_seq"] != number:
            message = f"flush {number} of replica {self._replica.replica_id} was refused at {rows[0]['flush_seq']}"
            raise Fenced(message)


def _milliseconds(seconds: float) -> int:
    return min(max(0, round(seconds * 1000)), _LONGEST_MS)


def _row(settlement: Settlement, now: float) -> tuple[Any, ...]:
    delivery, outcome, verdict = settlement.delivery, settlement.outcome, settlement.verdict
    created_at: dt.datetime = delivery.created_at
    if verdict.retry_in_seconds is None:
        next_in_ms = None
    else:
        next_in_ms = max(0, round((verdict.retry_in_seconds - (now - settlement.decided_mono)) * 1000))
    return (
        delivery.delivery_id,
        created_at,
        delivery.endpoint_id,
        delivery.account_id,
        delivery.environment,
        delivery.event_id,
        delivery.event_type,
        delivery.subject,
        settlement.attempt_no,
        verdict.attempts,
        _milliseconds(now - settlement.started_mono),
        0 if outcome is None else _milliseconds(outcome.duration_seconds),
        None if outcome is None else outcome.status,
        None if outcome is None else outcome.kind,
        verdict.kind,
        next_in_ms,
        None if outcome is None else _detail(outcome, settlement.key_ids),
    )


def _detail(outcome: Outcome, key_ids: tuple[int, ...]) -> bytes:
    phases = outcome.phases
    facts: dict[str, Any] = {
        name: round(seconds * 1000, 1)
        for name, seconds in zip(("dns_ms", "connect_ms", "tls_ms", "wait_ms"), phases, strict=True)
        if seconds is not None
    }
    facts["keys"] = key_ids
    if outcome.reused:
        facts["reused"] = True
    if outcome.peer is not None:
        facts["peer"] = outcome.peer
    if outcome.reason:
        facts["reason"] = outcome.reason
    return orjson.dumps(facts)
