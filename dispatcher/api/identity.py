"""Who calls: API keys from the Authorization header, looked up and remembered for a few seconds."""

from typing import Final, NamedTuple

from dispatcher.api.problems import Problem, ProblemCode
from dispatcher.api.throttle import Buckets
from dispatcher.kit import clock
from dispatcher.ledger.keys import Bearer, KeyLedger, StoredKey, matches, parse_key
from dispatcher.model.errors import Unavailable

_MOST_REMEMBERED: Final = 10_000
_SCHEME: Final = "bearer"


class _Remembered(NamedTuple):
    """A key as Postgres had it, good until `until` (monotonic)."""

    until: float
    key: StoredKey


class KeyRing:
    """Answers who a request is from. A revoked key works for at most `keep_seconds` more.

    `strangers` bounds the failed logins of one address: keys cannot be tried out at the database's cost. Callers
    whose key is remembered never notice, even behind the same address.
    """

    def __init__(self, keys: KeyLedger, *, keep_seconds: float, strangers: Buckets) -> None:
        self._keys = keys
        self._keep_seconds = keep_seconds
        self._strangers = strangers
        # Touched by any request, never across an await.
        self._remembered: dict[str, _Remembered] = {}

    async def bearer(self, authorization: str | None, address: str) -> Bearer:
        """Return who presents this header, from which address.

        Raises:
            Problem: 401, the same for no key, a malformed one, an unknown one, one that was revoked or has expired;
                429 for an address that fails too often.
            Unavailable: the key is not remembered and Postgres is away.
        """
        scheme, _, text = (authorization or "").partition(" ")
        parts = parse_key(text.strip()) if scheme.lower() == _SCHEME else None
        if parts is None:
            raise _unauthorized()
        stored = self._recall(parts.key_id) or await self._look_up(parts.key_id, address)
        if stored is None or not matches(parts, stored):
            raise _unauthorized()
        return stored.bearer

    def _recall(self, key_id: str) -> StoredKey | None:
        remembered = self._remembered.get(key_id)
        return remembered.key if remembered is not None and clock.mono() < remembered.until else None

    async def _look_up(self, key_id: str, address: str) -> StoredKey | None:
        now = clock.mono()
        if not self._strangers.take(address, now).is_allowed:
            raise Problem(ProblemCode.RATE_LIMITED, "too many failed logins", headers={"Retry-After": "1"})
        try:
            key = await self._keys.find(key_id)
        except Unavailable:
            self._strangers.give_back(address, now)
            raise
        self._remembered.pop(key_id, None)
        if key is None:
            return None
        self._strangers.give_back(address, now)
        if not key.is_fresh:
            await self._keys.touch(key_id)
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[key_id] = _Remembered(now + self._keep_seconds, key)
        return key


def _unauthorized() -> Problem:
    return Problem(
        ProblemCode.UNAUTHORIZED,
        "send a live key as `Authorization: Bearer whd_...`",
        headers={"WWW-Authenticate": 'Bearer realm="dispatcher"'},
    )
