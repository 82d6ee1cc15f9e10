"""Settle: attempts, verdicts, answers, health and the lease renewal of one process, in one statement (S2).

What an answer says of an endpoint counts only where the host that gave it is the endpoint's host still: an endpoint may
have been moved to another one while its answer was on the way.

A batch that gives the account something to be told of (a delivery given up, an endpoint gone) runs it in a
transaction together with the news. Every other batch, so nearly every one, is one round trip.
"""

import contextlib
from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Any, Final

import asyncpg
import orjson

from dispatcher.kit import clock
from dispatcher.ledger.connections import Link, Session
from dispatcher.ledger.news import announce, read_concerned
from dispatcher.ledger.replicas import Replica
from dispatcher.ledger.responses import dump_headers, is_kept
from dispatcher.model.delivery import Settlement
from dispatcher.model.errors import Fenced, Unavailable
from dispatcher.model.ids import DeliveryIds
from dispatcher.model.news import News
from dispatcher.model.outcome import Outcome, Phases, VerdictKind
from dispatcher.policy.news import delivery_exhausted, endpoint_disabled, is_news
from dispatcher.policy.streaks import streaks_of

_LONGEST_MS: Final = 6 * 86_400_000
"""Longest age or duration that is written: tables go back eight days, and one without a table would be refused."""

_of_delivery = attrgetter(
    "delivery_id",
    "created_at",
    "endpoint_id",
    "account_id",
    "environment",
    "event_id",
    "event_type",
    "subject",
    "client_reference",
)


class SettlementLedger:
    """What recording needs of Postgres. One caller at a time; the link it is given serves nobody else."""

    def __init__(self, link: Link, replica: Replica, ids: DeliveryIds) -> None:
        self._link = link
        self._replica = replica
        self._ids = ids
        self._flush_seq = 0

    async def settle(
        self, batch: Sequence[Settlement], *, first_successes: Collection[tuple[int, int]] = ()
    ) -> list[News]:
        """Write one batch, at most one settlement per delivery in it; empty batches only renew the lease.

        Idempotent by number: after Unavailable call again with the very same batch, which then applies once,
        whether or not the first try did. Rows that this replica no longer owns are left alone. `first_successes` are
        pairs of endpoint and host. Returns what the account was told of, in the same transaction; nothing when the
        first try had applied.

        Raises:
            Fenced: this replica was taken over; its attempts are not recorded.
            Unavailable: unknown whether it was written; call again with the same batch.
            PoisonBatch: Postgres refuses a value; nothing was written. Bisect.
        """
        number = self._flush_seq + 1
        sent = clock.mono()
        arguments = self._arguments(batch, first_successes, number, sent)
        news: list[News] = []
        async with self._replica.gate.shared():
            if any(map(is_news, batch)):
                is_live, news = await self._link.transaction(lambda c: self._settle_and_tell(c, batch, arguments))
            else:
                is_live = (await self._link.fetchrow("settle", *arguments))["live"]
            if not is_live:
                await self._find_out(number)
            self._flush_seq = number
            self._replica.release([s.delivery.delivery_id for s in batch])
        if is_live:
            self._replica.renewed(sent)
        gone = {s.delivery.endpoint_id for s in batch if s.verdict.kind in (VerdictKind.GONE, VerdictKind.HELD)}
        if gone:
            # The batch is written, and a second try would write it again; what is not held now is when it falls due.
            with contextlib.suppress(Unavailable):
                await self._link.fetch("hold_waiting", list(gone))
        return news

    def _arguments(
        self, batch: Sequence[Settlement], first_successes: Collection[tuple[int, int]], number: int, now: float
    ) -> list[Any]:
        gone = {(s.delivery.endpoint_id, s.delivery.host_id) for s in batch if s.verdict.kind is VerdictKind.GONE}
        return [
            self._replica.replica_id,
            number,
            self._replica.lease_seconds,
            *_attempts(batch, now),
            *_columns(sorted(set(first_successes) - gone), 2),
            *_columns(sorted(gone), 2),
            *_health(batch, now),
            *_columns([_response(s, s.outcome, now) for s in batch if s.outcome is not None and is_kept(s.outcome)], 6),
        ]

    async def _settle_and_tell(
        self, connection: asyncpg.Connection, batch: Sequence[Settlement], arguments: Sequence[Any]
    ) -> tuple[bool, list[News]]:
        session = Session(connection)
        row = (await session.fetch("settle", *arguments))[0]
        closed, exhausted = row["closed"] or [], set(row["exhausted"] or ())
        ended = [s for s in batch if s.delivery.delivery_id in exhausted and is_news(s)]
        if not closed and not ended:
            return bool(row["live"]), []
        concerned = await read_concerned(session, {*closed, *(s.delivery.endpoint_id for s in ended)})
        news = [endpoint_disabled(concerned[number]) for number in closed]
        for settlement in ended:
            about = concerned.get(settlement.delivery.endpoint_id)
            if about is not None:
                news.append(delivery_exhausted(about, settlement, self._ids.show(settlement.delivery.delivery_id)))
        if news:
            await announce(session, news)
        return True, news

    async def _find_out(self, number: int) -> None:
        rows = await self._link.fetch("flush_seq", self._replica.replica_id)
        if not rows:
            message = f"replica {self._replica.replica_id} was taken over"
            raise Fenced(message)
        if rows[0]["flush_seq"] != number:
            message = f"flush {number} of replica {self._replica.replica_id} was refused at {rows[0]['flush_seq']}"
            raise Fenced(message)


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def _milliseconds(seconds: float) -> int:
    milliseconds = round(seconds * 1000)
    return min(milliseconds, _LONGEST_MS) if milliseconds > 0 else 0


def _attempts(batch: Sequence[Settlement], now: float) -> list[list[Any]]:
    """Return the columns of a batch, each made in one go: row by row they take half as long again."""
    outcomes = [s.outcome for s in batch]
    verdicts = [s.verdict for s in batch]
    return [
        *_columns([_of_delivery(s.delivery) for s in batch], 9),
        [s.attempt_no for s in batch],
        [verdict.attempts for verdict in verdicts],
        [_milliseconds(now - s.started_mono) for s in batch],
        [0 if outcome is None else _milliseconds(outcome.duration_seconds) for outcome in outcomes],
        [None if outcome is None else outcome.status for outcome in outcomes],
        [None if outcome is None else outcome.kind for outcome in outcomes],
        [verdict.kind for verdict in verdicts],
        [_next_in_ms(s, now) for s in batch],
        [None if outcome is None else _detail(outcome, s) for outcome, s in zip(outcomes, batch, strict=True)],
    ]


def _next_in_ms(settlement: Settlement, now: float) -> int | None:
    retry_in = settlement.verdict.retry_in_seconds
    return None if retry_in is None else max(0, round((retry_in - (now - settlement.decided_mono)) * 1000))


def _health(batch: Sequence[Settlement], now: float) -> list[list[Any]]:
    streaks = streaks_of(batch)
    return [
        *_columns(list(streaks), 2),
        [streak.failures for streak in streaks.values()],
        [_milliseconds(now - streak.began_mono) if streak.failures else None for streak in streaks.values()],
        [endpoint_id for (endpoint_id, _), streak in streaks.items() if streak.failures and streak.is_new],
    ]


def _response(settlement: Settlement, outcome: Outcome, now: float) -> tuple[Any, ...]:
    return (
        _milliseconds(now - settlement.started_mono),
        settlement.delivery.delivery_id,
        settlement.attempt_no,
        dump_headers(outcome.headers),
        outcome.body,
        outcome.body_cut,
    )


def _phases(phases: Phases) -> dict[str, Any]:
    """Return the milliseconds of those that were; one by one, since a loop over names takes thrice as long."""
    dns, connect, tls, wait = phases
    facts: dict[str, Any] = {}
    if dns is not None:
        facts["dns_ms"] = _tenths_of_ms(dns)
    if connect is not None:
        facts["connect_ms"] = _tenths_of_ms(connect)
    if tls is not None:
        facts["tls_ms"] = _tenths_of_ms(tls)
    if wait is not None:
        facts["wait_ms"] = _tenths_of_ms(wait)
    return facts


def _tenths_of_ms(seconds: float) -> float:
    return round(seconds * 10_000) / 10


def _detail(outcome: Outcome, settlement: Settlement) -> bytes:
    facts = _phases(outcome.phases)
    facts["keys"] = settlement.key_ids
    # What the request said of itself beyond its event, so that it can be shown as it was.
    if outcome.signed_at is not None:
        facts["at"] = outcome.signed_at
    if settlement.last_attempt:
        facts["of"] = settlement.last_attempt
    if settlement.delivery.attempts_before:
        facts["before"] = settlement.delivery.attempts_before
    if outcome.reused:
        facts["reused"] = True
    if outcome.peer is not None:
        facts["peer"] = outcome.peer
    if outcome.reason:
        facts["reason"] = outcome.reason
    return orjson.dumps(facts)
