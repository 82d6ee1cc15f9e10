"""Every guard that a promise rests on, and what shows that the promise breaks without it.

A guard that can be taken out from outside has `remove`, and one or both of: `broken`, tests that fail without it
(`python -m tests.chaos.without GUARD TEST…`), and `in_chaos`, meaning that `python -m tests.chaos --without GUARD`
fails. `inline` are tests that take the guard out themselves and assert the harm. The program has no switch for any of
it: its SQL text or one of its functions is replaced before it begins.

The numbers I1 to I12 are the promises: nothing is lost (I1), duplicates are bounded (I2), rates hold over all replicas
(I3), nobody starves (I4), memory is bounded (I5), every event is taken in once (I6), who was taken over changes nothing
(I7), nothing is sent before its time (I8), retention spares what is open (I9), a host that recovers is not overrun
(I10), claims stay quick (I11), unknown outcomes are found out (I12).
"""

import math
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from dispatcher.ledger.statements import STATEMENTS


class Guard(NamedTuple):
    """One guard: the promises that rest on it, what it is, and its controls."""

    promises: tuple[str, ...]
    what: str
    remove: Callable[[], None] | None = None
    broken: tuple[str, ...] = ()
    in_chaos: bool = False
    inline: tuple[str, ...] = ()


def _reword(name: str, piece: str, instead: str) -> None:
    """Replace a piece of a statement; AssertionError when it holds none such any more."""
    assert piece in STATEMENTS[name], f"{name} has no {piece!r}"
    STATEMENTS[name] = STATEMENTS[name].replace(piece, instead)


def _replace(place: str, name: str, instead: Any) -> None:
    """Replace a function or an attribute of a class, wherever it was imported to."""
    module, _, owner = place.partition(":")
    __import__(module)
    holder: Any = getattr(sys.modules[module], owner) if owner else sys.modules[module]
    old = getattr(holder, name)
    setattr(holder, name, instead)
    for other in list(sys.modules.values()):
        if other.__name__.startswith("dispatcher") and getattr(other, name, None) is old:
            setattr(other, name, instead)


def _loosen_position() -> None:
    _reword("accept", "p.next_offset = s.start", "p.next_offset <= s.stop")


def _drop_fence() -> None:
    fence = "SELECT 1 FROM replica WHERE replica_id = $1 FOR KEY SHARE"
    for name in ("accept", "claim"):
        _reword(name, fence, "SELECT 1 FROM (SELECT $1::bigint) AS anybody")


def _drop_flush_number() -> None:
    _reword("settle", " AND flush_seq = $2 - 1", "")


def _claim_at_any_time() -> None:
    _reword("claim", "AND due_at <= now() AND due_at > w.since", "AND due_at > w.since")
    _reword("claim", "FROM pairs WHERE due_at <= now()", "FROM pairs")


def _drop_days_in_use() -> None:
    _reword("day_in_use", STATEMENTS["day_in_use"], "SELECT $1::date IS NULL AS is_used")


def _send_without_lease() -> None:
    _replace("dispatcher.ledger.replicas:Replica", "may_send", lambda self, now: True)


def _judge_at_once() -> None:
    _replace("dispatcher.ledger.replicas:Replica", "may_take_over", lambda self, now: True)


def _let_tokens_live() -> None:
    # Everything that takes the function by its name has to be there first.
    __import__("dispatcher.app")
    from dispatcher.policy import pacing

    granted = pacing.grants_of

    def grants_of(rate: float, burst: int) -> pacing.Grants:
        return granted(rate, burst)._replace(token_seconds=8.0, burst=burst)

    _replace("dispatcher.policy.pacing", "grants_of", grants_of)


def _lift_byte_cap() -> None:
    from dispatcher.lanes.doors import BoardLimits

    made = BoardLimits.__init__

    def without_cap(self: Any, in_flight: int, memory_bytes: int) -> None:
        made(self, in_flight, sys.maxsize)

    _replace("dispatcher.lanes.doors:BoardLimits", "__init__", without_cap)


def _never_seek_again() -> None:
    async def stay(self: Any, consumer: Any, partitions: Any) -> None:
        pass

    _replace("dispatcher.intake.placing:Places", "resume", stay)


def _never_adopt() -> None:
    async def nothing(self: Any) -> list[Any]:
        return []

    _replace("dispatcher.ledger.claims:ClaimLedger", "adopt", nothing)


def _leave_sessions() -> None:
    _reword("expired", "pg_terminate_backend(a.pid)", "a.pid")


def _forget_strays() -> None:
    _replace("dispatcher.lanes.due", "_STRAY_SECONDS", math.inf)


_CLAIMS: Final = "tests/rooms/test_ledger_claims.py::"
_INTAKE: Final = "tests/rooms/test_ledger_intake.py::"
_REPLICAS: Final = "tests/rooms/test_ledger_replicas.py::"
_SETTLEMENT: Final = "tests/rooms/test_ledger_settlement.py::"
_HOLDING: Final = "tests/rooms/test_ledger_holding.py::"
_REPLAYS: Final = "tests/rooms/test_ledger_replays.py::"
_RETENTION: Final = "tests/rooms/test_ledger_retention.py::"
_HOSTS: Final = "tests/rooms/test_ledger_hosts.py::"
_DUE: Final = "tests/unit/lanes/test_due.py::"
_LOOP: Final = "tests/unit/intake/test_loop.py::"
_BOARD: Final = "tests/unit/lanes/test_board.py::"

GUARDS: Final[Mapping[str, Guard]] = MappingProxyType(
    {
        "position": Guard(
            ("I1", "I6"),
            "a position moves only from exactly where it stands",
            _loosen_position,
            broken=(
                _INTAKE + "test_a_batch_that_starts_elsewhere_is_refused_whole",
                _INTAKE + "test_two_owners_of_a_partition_lose_nothing_and_repeat_nothing",
            ),
            inline=(_INTAKE + "test_a_looser_guard_moves_positions_backwards_and_is_noticed",),
        ),
        "lease-before-send": Guard(
            ("I2",),
            "nothing is sent while the own lease is in doubt",
            _send_without_lease,
            broken=(_REPLICAS + "test_past_its_deadline_a_replica_sends_nothing_until_renewed",),
        ),
        "patience": Guard(
            ("I2", "I7"),
            "after an outage nobody judges before all had time to renew",
            _judge_at_once,
            broken=(_REPLICAS + "test_after_an_outage_nobody_is_taken_over_before_all_had_time_to_renew",),
        ),
        "token-life": Guard(
            ("I3",),
            "a token dies soon after it was asked for",
            _let_tokens_live,
            broken=("tests/unit/policy/test_pacing.py::test_what_is_granted_and_used_late_stays_within_the_promise",),
            inline=(_HOSTS + "test_tokens_that_live_too_long_would_break_the_promise",),
        ),
        "blocked-before-limit": Guard(
            ("I4",),
            "blocked hosts go before a claim's limit",
            inline=(_CLAIMS + "test_filtering_after_the_limit_would_starve_them",),
        ),
        "suspect-pool": Guard(
            ("I4",),
            "hosts that keep us waiting hold a quarter of the slots at most",
            inline=(_BOARD + "test_without_the_suspect_pool_dead_hosts_would_hold_every_slot",),
        ),
        "byte-cap": Guard(
            ("I5",),
            "intake waits while too many bytes are held",
            _lift_byte_cap,
            broken=(_BOARD + "test_intake_waits_while_bytes_are_over_the_mark",),
        ),
        "re-seek": Guard(
            ("I1", "I6"),
            "a consumer whose batch was refused goes to where its partition stands",
            _never_seek_again,
            broken=(_LOOP + "test_a_batch_that_begins_elsewhere_sends_the_consumer_to_where_its_partition_stands",),
        ),
        "fence": Guard(
            ("I7",),
            "statements of a replica without a row change nothing",
            _drop_fence,
            broken=(
                _INTAKE + "test_a_replica_that_was_taken_over_accepts_nothing",
                _CLAIMS + "test_a_replica_that_was_taken_over_takes_nothing",
            ),
            inline=(_INTAKE + "test_without_the_fence_a_dead_replica_would_still_write",),
        ),
        "due-time": Guard(
            ("I8",),
            "only what is due is claimed",
            _claim_at_any_time,
            broken=(_CLAIMS + "test_rows_not_yet_due_held_or_owned_are_left",),
        ),
        "day-in-use": Guard(
            ("I9",),
            "a day stays while a delivery needs it",
            _drop_days_in_use,
            broken=(_RETENTION + "test_a_day_is_kept_while_a_delivery_waits_or_is_held_and_goes_when_it_is_done",),
            inline=(_RETENTION + "test_without_the_guard_an_open_delivery_would_lose_its_event",),
        ),
        "slow-start": Guard(
            ("I10",),
            "a host begins again with one token at a part of its rate",
            inline=(_HOSTS + "test_without_the_delayed_arrival_a_whole_burst_would_meet_a_recovering_host",),
        ),
        "flush-number": Guard(
            ("I12",),
            "results are written once, by number",
            _drop_flush_number,
            broken=(
                _SETTLEMENT + "test_a_batch_whose_answer_was_lost_applies_once",
                _SETTLEMENT + "test_a_repeat_that_overtakes_its_own_first_try_waits_for_it_and_applies_once",
            ),
            in_chaos=True,
            inline=(_SETTLEMENT + "test_without_its_number_a_repeated_batch_would_be_written_twice",),
        ),
        "sessions": Guard(
            ("I1", "I7"),
            "the sessions of a replica whose lease is over are ended, so that none of their locks delays its takeover",
            _leave_sessions,
            broken=(_REPLICAS + "test_a_session_that_waits_for_a_frozen_client_delays_no_takeover",),
        ),
        "settling": Guard(
            ("I1",),
            "a drain knows its end only when every accept that saw its endpoint held is over",
            inline=(_HOLDING + "test_without_time_to_settle_its_event_would_be_lost",),
        ),
        "oldest-transaction": Guard(
            ("I1",),
            "a replay looks at nothing that something may still appear behind",
            inline=(_HOLDING + "test_reading_above_the_oldest_transaction_would_leave_an_event_behind",),
        ),
        "one-job-at-a-time": Guard(
            ("I2",),
            "two jobs of one endpoint never step at once",
            inline=(_REPLAYS + "test_without_the_endpoints_lock_they_would",),
        ),
        "strays": Guard(
            ("I1", "I12"),
            "rows that became ours long after a claim was given up are looked for, too",
            _forget_strays,
            broken=(_DUE + "test_rows_that_became_ours_at_any_time_are_found_within_a_minute",),
        ),
        "adoption": Guard(
            ("I1", "I12"),
            "rows that became ours without an answer are looked for",
            _never_adopt,
            broken=(_INTAKE + "test_deliveries_whose_answer_was_lost_are_adopted_once",),
            in_chaos=True,
        ),
    }
)
"""By the name that `--without` takes."""

REMOVABLE: Final = tuple(sorted(name for name, guard in GUARDS.items() if guard.remove is not None))


def remove(name: str) -> None:
    """Take a guard out of the program in this process."""
    take_out = GUARDS[name].remove
    assert take_out is not None, f"{name} is taken out by its own tests only"
    take_out()


ELSEWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "I11": "python -m tests.bench snapshot: claims with the floor and without it, in the same run",
    }
)
"""Promises whose control is a measurement."""
