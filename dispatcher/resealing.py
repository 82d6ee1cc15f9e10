"""The key ring of a process that goes on: its file is read again when it changes, and old seals are renewed.

Rotating the key that seals secrets at rest takes three changes of the file on every machine: add the new key; make it
the primary; take the old one away, once `dispatcher_seals_under_old_keys` is 0 everywhere. New values are sealed with
the primary from the second step on, old ones are renewed in small batches by one replica at a time. Whatever dies in
between leaves every value sealed with one key of the ring.

Dead events are not renewed, they are gone after fourteen days, but counted: a stretch of them at each look, so that
millions hold nothing up. The oldest come first, which a former key sealed.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import structlog

from dispatcher.ledger.seals import KINDS, SealKind, SealLedger
from dispatcher.model.errors import ConfigurationError, SealBroken, Unavailable
from dispatcher.telemetry.metrics import Metrics

_LOOK_SECONDS: Final = 2.0
_COUNT_LOOKS: Final = 30
"""Seals are counted every so many looks, a minute, and whenever the ring has changed."""

_PAGES: Final = 5
"""Pages of dead events counted per look: 0.1 s of the database's time every two seconds."""

_PAUSE_SECONDS: Final = 0.05

_log = structlog.get_logger("resealing")


class Ring(Protocol):
    """What renewing needs of the vault."""

    @property
    def primary(self) -> str:
        """Return the id of the key that seals."""
        ...

    @property
    def key_ids(self) -> Sequence[str]:
        """Return the ids of all keys that open."""
        ...

    def refresh(self) -> bool:
        """Read the file again when it changed and tell so; ConfigurationError leaves the ring in use."""
        ...

    def seal(self, plain: bytes, place: str) -> bytes:
        """Return `plain` sealed with the primary key."""
        ...

    def open(self, sealed: bytes, place: str) -> bytes:
        """Return the plain bytes or raise SealBroken."""
        ...


class _DeadCount:
    """Dead events by the key that sealed them, counted a stretch at a time; one task uses it."""

    def __init__(self, ledger: SealLedger) -> None:
        self._ledger = ledger
        self._whole: Mapping[str, int] = {}
        self._so_far: Counter[str] = Counter()
        self._place: tuple[Any, ...] | None = None

    @property
    def is_amid(self) -> bool:
        """Tell whether a count is under way."""
        return self._place is not None

    async def go_on(self) -> bool:
        """Count the next stretch, or the first one; tell whether that was the last. Raises Unavailable."""
        for _ in range(_PAGES):
            page = await self._ledger.dead_by_key(self._place)
            self._so_far.update(page.by_key)
            self._place = page.last
            if page.last is None:
                self._whole, self._so_far = self._so_far, Counter()
                return True
        return False

    def by_key(self) -> Mapping[str, int]:
        """Return the latest whole count, or what is found so far where that is more."""
        return Counter(self._whole) | self._so_far


class Resealer:
    """Keeps the ring fresh and the seals under its primary key. One per process."""

    def __init__(self, ledger: SealLedger, ring: Ring, metrics: Metrics) -> None:
        self._ledger = ledger
        self._ring = ring
        self._counts = metrics.counts
        self._dead = _DeadCount(ledger)
        self._complaint = ""
        self._lacking: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Look at the file every two seconds and at the seals every minute, until canceled."""
        looks = 0
        while True:
            is_due = self._look() or looks % _COUNT_LOOKS == 0
            try:
                if is_due or self._dead.is_amid:
                    await self.count_dead()
                if is_due:
                    await self.renew()
            except Unavailable as fault:
                _log.warning("seals_not_renewed", reason=str(fault))
            looks += 1
            await asyncio.sleep(_LOOK_SECONDS)

    async def count_dead(self) -> None:
        """Count a stretch of the dead events, and tell which keys the ring lacks for them. Raises Unavailable."""
        if not await self._dead.go_on():
            return
        lacking = frozenset(key_id for key_id in self._dead.by_key() if key_id and key_id not in self._ring.key_ids)
        if lacking - self._lacking:
            _log.error("dead_events_locked", key_ids=sorted(lacking))
        self._lacking = lacking

    async def renew(self) -> None:
        """Renew what other keys of the ring sealed, and say how much of it is left. Raises Unavailable."""
        others = [key_id for key_id in self._ring.key_ids if key_id != self._ring.primary]
        n_old = await self._count()
        if not n_old or not others:
            return
        for kind in KINDS:
            await self._renew_all(kind, others)
        await self._count()

    async def _count(self) -> int:
        n_old = self._n_old(await self._ledger.by_key())
        self._counts("seals_under_old_keys").put(n_old + self._n_old(self._dead.by_key()))
        return n_old

    def _n_old(self, by_key: Mapping[str, int]) -> int:
        return sum(n for key_id, n in by_key.items() if key_id != self._ring.primary)

    async def _renew_all(self, kind: SealKind, others: Sequence[str]) -> None:
        last: int | None = 0
        while last is not None:
            step = await self._ledger.renew(kind, others, last, self._seal_again)
            if step is None:
                return
            if step.n_broken:
                _log.error("seals_broken", n_values=step.n_broken)
            self._counts("seals_renewed").add(by=step.n_renewed)
            last = step.last
            await asyncio.sleep(_PAUSE_SECONDS)

    def _seal_again(self, sealed: bytes, place: str) -> bytes | None:
        try:
            return self._ring.seal(self._ring.open(sealed, place), place)
        except SealBroken:
            return None

    def _look(self) -> bool:
        try:
            is_new = self._ring.refresh()
        except ConfigurationError as fault:
            # Once, not every two seconds until somebody mends the file.
            if (complaint := "; ".join(fault.faults)) != self._complaint:
                _log.error("key_ring_unusable", reason=complaint)
                self._complaint = complaint
            return False
        self._complaint = ""
        if is_new:
            _log.info("key_ring_read_again", primary=self._ring.primary, n_keys=len(self._ring.key_ids))
        return is_new


async def check_ring(ledger: SealLedger, ring: Ring) -> None:
    """See that every secret and every header of endpoints can be opened with the ring.

    Not so with dead events, of which there may be millions: the resealer tells what of them is locked.

    Raises:
        ConfigurationError: a key is missing; it names it.
        Unavailable: Postgres is away.
    """
    missing = {key_id: n for key_id, n in (await ledger.by_key()).items() if key_id and key_id not in ring.key_ids}
    if missing:
        raise ConfigurationError(
            [
                f"the key ring lacks the key {key_id}, which sealed {n} stored values: put it back"
                for key_id, n in sorted(missing.items())
            ]
        )
