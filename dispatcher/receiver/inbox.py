"""Remember which events were received, so that a repeated delivery is recognised.

What it promises. `claim` before the work, `finish` after it, `release` when it failed:

    claim ── MINE ──► work ──► finish          the id is DONE for the time of retention
      │                 │
      │                 └─ raises ──► release  the next delivery of the id may claim it at once
      ├── DONE   it was finished before: answer 2xx and do nothing
      └── BUSY   somebody else is at it: answer 409, and it will be delivered again

A death between claim and finish leaves a claim without an end. It is void after `lease_seconds`, and the next delivery
works again; the sender tries again because it got no 2xx. So nothing is lost, and work that died half way, or that took
longer than the lease, is done twice: put the work into one transaction, or make it bear a repetition.
"""

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from os import PathLike
from typing import Final, Protocol

LEASE_SECONDS: Final = 30.0
"""Well above the five seconds that a sender waits for an answer."""

RETENTION_DAYS: Final = 30
"""As long as an event can be replayed; its own retries end after four days."""

_SWEPT_AT_ONCE: Final = 10

_SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS inbox (
        id TEXT PRIMARY KEY, token TEXT NOT NULL, claimed_at REAL NOT NULL, finished INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS inbox_by_age ON inbox (claimed_at)",
)


class Standing(StrEnum):
    """How a claim stands: do the work, or answer 2xx at once, or answer 409."""

    MINE = "mine"
    DONE = "done"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class Claim:
    """What came of a claim. `token` tells it from a later claim of the same id, after this one's lease.

    The id is the event's, behind the name of its reception and a slash where that has a name.
    """

    event_id: str
    standing: Standing
    token: str


class Inbox(Protocol):
    """Remembers ids. Any thread may call; a call may block on a disk or a database."""

    def claim(self, event_id: str) -> Claim:
        """Take the work of an id, or learn that it is done or under way. Atomic: one caller gets it."""

    def finish(self, claim: Claim) -> bool:
        """Remember that the work is done. False: its lease was over and another has claimed the id since."""

    def release(self, claim: Claim) -> None:
        """Give the work back, after it failed; the id may be claimed again at once."""


@dataclass(frozen=True, slots=True)
class _Kept:
    token: str
    claimed_at: float
    finished: bool


def _standing(kept: _Kept | None, now: float, lease_seconds: float) -> Standing:
    if kept is None:
        return Standing.MINE
    if kept.finished:
        return Standing.DONE
    # Both ways: after the clock was set back, a claim of the future must not hold for ever.
    return Standing.BUSY if abs(now - kept.claimed_at) < lease_seconds else Standing.MINE


class MemoryInbox:
    """An inbox for one process, forgotten when it ends; keeps the last `most` ids."""

    def __init__(
        self, *, most: int = 100_000, lease_seconds: float = LEASE_SECONDS, clock: Callable[[], float] = time.time
    ) -> None:
        self._most = most
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def claim(self, event_id: str) -> Claim:
        """Take the work of an id, or learn that it is done or under way."""
        with self._lock:
            now = self._clock()
            claim = Claim(event_id, _standing(self._kept.get(event_id), now, self._lease_seconds), secrets.token_hex(8))
            if claim.standing is Standing.MINE:
                self._kept.pop(event_id, None)
                self._kept[event_id] = _Kept(claim.token, now, finished=False)
                while len(self._kept) > self._most:
                    del self._kept[next(iter(self._kept))]
            return claim

    def finish(self, claim: Claim) -> bool:
        """Remember that the work is done."""
        with self._lock:
            kept = self._kept.get(claim.event_id)
            if kept is None or kept.token != claim.token:
                return False
            self._kept[claim.event_id] = _Kept(kept.token, kept.claimed_at, finished=True)
            return True

    def release(self, claim: Claim) -> None:
        """Give the work back."""
        with self._lock:
            kept = self._kept.get(claim.event_id)
            if kept is not None and kept.token == claim.token:
                del self._kept[claim.event_id]


class SqliteInbox:
    """An inbox in a local file, for all threads and processes of one machine; survives restarts.

    Each call opens the file anew, some 0.1 ms: a connection must not cross threads or a fork, and this one never does.
    A file that stays locked for five seconds raises `sqlite3.OperationalError`: answer 500, it will be delivered again.
    Old ids go a few at a time with each claim.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        retention_days: float = RETENTION_DAYS,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._retention_seconds = retention_days * 86_400
        self._lease_seconds = lease_seconds
        self._clock = clock
        with self._transaction() as database:
            for statement in _SCHEMA:
                database.execute(statement)

    def claim(self, event_id: str) -> Claim:
        """Take the work of an id, or learn that it is done or under way."""
        now = self._clock()
        with self._transaction() as database:
            self._sweep(database, now)
            row = database.execute("SELECT token, claimed_at, finished FROM inbox WHERE id = ?", (event_id,)).fetchone()
            kept = None if row is None else _Kept(row[0], row[1], bool(row[2]))
            claim = Claim(event_id, _standing(kept, now, self._lease_seconds), secrets.token_hex(8))
            if claim.standing is Standing.MINE:
                database.execute(
                    "INSERT OR REPLACE INTO inbox (id, token, claimed_at) VALUES (?, ?, ?)",
                    (event_id, claim.token, now),
                )
        return claim

    def finish(self, claim: Claim) -> bool:
        """Remember that the work is done."""
        with self._transaction() as database:
            done = database.execute(
                "UPDATE inbox SET finished = 1 WHERE id = ? AND token = ?", (claim.event_id, claim.token)
            )
            return done.rowcount == 1

    def release(self, claim: Claim) -> None:
        """Give the work back."""
        with self._transaction() as database:
            database.execute("DELETE FROM inbox WHERE id = ? AND token = ?", (claim.event_id, claim.token))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=5.0, isolation_level=None)) as database:
            # The write lock at once: a reader that turns writer meets a deadlock instead of a queue.
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")

    def _sweep(self, database: sqlite3.Connection, now: float) -> None:
        database.execute(
            "DELETE FROM inbox WHERE id IN (SELECT id FROM inbox WHERE claimed_at < ? ORDER BY claimed_at LIMIT ?)",
            (now - self._retention_seconds, _SWEPT_AT_ONCE),
        )
