"""Signing secrets of endpoints: rotated with an overlap, in which the old and the new one sign."""

import datetime as dt
from collections.abc import Callable
from typing import Final, NamedTuple

from dispatcher.ledger.connections import Pool, Session
from dispatcher.ledger.deeds import Deed, KeptAnswer, begin, keep, note

_OK: Final = 200


class Rotated(NamedTuple):
    """A new secret is in force. `previous_expires_at` None: the old one was destroyed at once."""

    endpoint_id: int
    public_id: str
    last4: str
    previous_last4: str | None
    previous_expires_at: dt.datetime | None


class Overlapping(NamedTuple):
    """Two secrets sign already, the older until `expires_at`: a third would end one that receivers may rely on."""

    expires_at: dt.datetime


class Rotation(NamedTuple):
    """What to do. `seal_key` gets the number of the new secret, which the seal must name."""

    expires_in_seconds: int
    is_forced: bool
    seal_key: Callable[[int], bytes]
    last4: str


class SecretLedger:
    """Secrets in Postgres, sealed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def rotate(
        self, deed: Deed, public_id: str, rotation: Rotation, *, show: Callable[[Rotated], bytes]
    ) -> Rotated | Overlapping | KeptAnswer | None:
        """Give an endpoint a new secret; None when the account has no such endpoint.

        The current one signs on for the seconds given. While two sign already nothing is done, unless it is forced:
        then the oldest is destroyed. So never more than two sign.

        Raises:
            Unavailable: it may have been rotated; an idempotency key makes asking again safe, but nobody has seen the
                new secret then, and only another, forced rotation shows one.
        """
        async with self._pool.transaction() as session:
            kept = await begin(session, deed)
            if kept is not None:
                return kept
            row = await session.fetchrow("lock_endpoint", *deed.owner, public_id)
            if row is None:
                return None
            number: int = row["endpoint_id"]
            live = await session.fetch("live_secrets", number)
            ending = [one["expires_at"] for one in live if one["expires_at"] is not None]
            if ending and not rotation.is_forced:
                return Overlapping(max(ending))
            previous = next((one["last4"] for one in live if one["expires_at"] is None), None)
            expires_at = await self._replace(session, number, rotation)
            done = Rotated(number, public_id, rotation.last4, previous, expires_at)
            await note(session, deed, public_id, facts=_facts(done))
            await keep(session, deed, _OK, show(done))
            return done

    async def _replace(self, session: Session, endpoint_id: int, rotation: Rotation) -> dt.datetime | None:
        await session.execute("drop_retired", endpoint_id)
        retired = await session.fetchrow("retire_secret", endpoint_id, float(rotation.expires_in_seconds))
        if rotation.expires_in_seconds == 0:
            await session.execute("drop_retired", endpoint_id)
            retired = None
        row = await session.fetchrow("next_secret_id")
        assert row is not None
        number = row["secret_id"]
        await session.execute("create_secret", number, endpoint_id, rotation.seal_key(number), rotation.last4)
        await session.execute("touch_endpoint", endpoint_id)
        return None if retired is None else retired["expires_at"]


def _facts(done: Rotated) -> dict[str, object]:
    return {
        "secret_last4": done.last4,
        "previous_secret_last4": done.previous_last4,
        "previous_secret_expires_at": done.previous_expires_at,
    }
