"""Who calls: API keys from the Authorization header, looked up and remembered for a few seconds."""

from typing import Final, NamedTuple

from dispatcher.api.problems import Problem, ProblemCode
from dispatcher.api.throttle import Buckets
from dispatcher.kit import clock
from dispatcher.ledger.keys import Bearer, KeyLedger, KeyParts, StoredKey, matches, parse_key
from dispatcher.model.errors import Unavailable

_MOST_PROVEN: Final = 10_000
_KNOWN_SECONDS: Final = 600.0
_SCHEME: Final = "bearer"


class _Proven(NamedTuple):
    """A key whose secret was shown, as Postgres had it: good until `until`, known until `known_until` (monotonic)."""

    until: float
    known_until: float
    key: StoredKey


class KeyRing:
    """Answers who a request is from. A revoked key works for at most `keep_seconds` more.

    `strangers` bounds the failed logins of one address: keys cannot be tried out at the database's cost. Callers
    who proved their key of late are known and never notice, even behind the same address; that it still is a key is
    looked up all the same.
    """

    def __init__(self, keys: KeyLedger, *, keep_seconds: float, strangers: Buckets) -> None:
        self._keys = keys
        self._keep_seconds = keep_seconds
        self._strangers = strangers
        # The oldest proof first. Touched by any request, never across an await.
        self._proven: dict[str, _Proven] = {}

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
        now = clock.mono()
        proven = self._proven.get(parts.key_id)
        if proven is None or now >= proven.known_until or not matches(parts, proven.key):
            return (await self._meet(parts, address, now)).bearer
        if now >= proven.until:
            return (await self._prove(parts, now)).bearer
        return proven.key.bearer

    async def _meet(self, parts: KeyParts, address: str, now: float) -> StoredKey:
        """Return the key of somebody who is not known, at the cost of a failed login unless it is one."""
        if not self._strangers.take(address, now).is_allowed:
            raise Problem(ProblemCode.RATE_LIMITED, "too many failed logins", headers={"Retry-After": "1"})
        try:
            key = await self._prove(parts, now)
        except Unavailable:
            self._strangers.give_back(address, now)
            raise
        self._strangers.give_back(address, now)
        return key

    async def _prove(self, parts: KeyParts, now: float) -> StoredKey:
        """Look the key up, compare, and remember; only then is it used."""
        key = await self._keys.find(parts.key_id)
        if key is None:
            self._proven.pop(parts.key_id, None)
            raise _unauthorized()
        if not matches(parts, key):
            raise _unauthorized()
        if not key.is_fresh:
            await self._keys.touch(parts.key_id)
        self._proven.pop(parts.key_id, None)
        self._proven[parts.key_id] = _Proven(now + self._keep_seconds, now + _KNOWN_SECONDS, key)
        if len(self._proven) > _MOST_PROVEN:
            del self._proven[next(iter(self._proven))]
        return key


def _unauthorized() -> Problem:
    return Problem(
        ProblemCode.UNAUTHORIZED,
        "send a live key as `Authorization: Bearer whd_...`",
        headers={"WWW-Authenticate": 'Bearer realm="dispatcher"'},
    )
