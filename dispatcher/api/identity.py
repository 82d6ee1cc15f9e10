"""Who calls: API keys from the Authorization header, looked up and remembered for a few seconds."""

from typing import Final, NamedTuple

from dispatcher.api.problems import Problem, ProblemCode
from dispatcher.kit import clock
from dispatcher.ledger.keys import Bearer, KeyLedger, StoredKey, matches, parse_key

_MOST_REMEMBERED: Final = 10_000
_SCHEME: Final = "bearer"


class _Remembered(NamedTuple):
    """A key as Postgres had it, good until `until` (monotonic)."""

    until: float
    key: StoredKey


class KeyRing:
    """Answers who a request is from. A revoked key works for at most `keep_seconds` more."""

    def __init__(self, keys: KeyLedger, *, keep_seconds: float) -> None:
        self._keys = keys
        self._keep_seconds = keep_seconds
        # Touched by any request, never across an await.
        self._remembered: dict[str, _Remembered] = {}

    async def bearer(self, authorization: str | None) -> Bearer:
        """Return who presents this header.

        Raises:
            Problem: 401, the same for no key, a malformed one, an unknown one and a revoked one.
            Unavailable: the key is not remembered and Postgres is away.
        """
        scheme, _, text = (authorization or "").partition(" ")
        parts = parse_key(text.strip()) if scheme.lower() == _SCHEME else None
        if parts is None:
            raise _unauthorized()
        stored = await self._stored(parts.key_id)
        if stored is None or not matches(parts, stored):
            raise _unauthorized()
        return stored.bearer

    async def _stored(self, key_id: str) -> StoredKey | None:
        now = clock.mono()
        remembered = self._remembered.get(key_id)
        if remembered is not None and now < remembered.until:
            return remembered.key
        key = await self._keys.find(key_id)
        self._remembered.pop(key_id, None)
        if key is None:
            return None
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
