"""Opaque places in lists: sealed, so that they tell no counts and fit one list of one tenant only."""

import base64
import binascii
import datetime as dt
from collections.abc import Sequence
from typing import Any, Final, Protocol

import orjson

from dispatcher.api.problems import Fault, Problem, ProblemCode
from dispatcher.ledger.accounts import Tenant
from dispatcher.model.errors import SealBroken

LONGEST_CURSOR: Final = 512

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)


class Seals(Protocol):
    """What the API needs of whatever seals."""

    def seal(self, plain: bytes, place: str) -> bytes:
        """Return `plain` encrypted; it opens at the same place only."""
        ...

    def open(self, sealed: bytes, place: str) -> bytes:
        """Return the plain bytes or raise SealBroken."""
        ...


class Cursors:
    """Cursors of one list of one tenant. `name` says which list, with the id it belongs to."""

    def __init__(self, seals: Seals, tenant: Tenant, name: str) -> None:
        self._seals = seals
        self._place = f"cursor:{name}:{tenant.account_id}:{tenant.environment}"

    def show(self, place: Sequence[int | str]) -> str:
        """Return the text of a place, URL-safe, about 90 characters."""
        sealed = self._seals.seal(orjson.dumps(list(place)), self._place)
        return base64.urlsafe_b64encode(sealed).decode("ascii").rstrip("=")

    def read(self, text: str, length: int) -> list[Any]:
        """Return the `length` numbers and texts of a place, as they were shown.

        Raises:
            Problem: 400; the cursor is another list's, another tenant's, or nobody's.
        """
        try:
            sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            place: list[Any] = orjson.loads(self._seals.open(sealed, self._place))
        except (binascii.Error, ValueError, SealBroken) as fault:
            raise _unreadable() from fault
        if len(place) != length:
            raise _unreadable()
        return place


def to_micros(instant: dt.datetime) -> int:
    """Return an instant as microseconds since 1970, exactly as Postgres keeps it."""
    return (instant - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> dt.datetime:
    """Return the instant of `to_micros`, aware UTC."""
    return _EPOCH + micros * _MICROSECOND


def _unreadable() -> Problem:
    words = "begin again without `after`, or use `next` as it was given"
    return Problem(ProblemCode.INVALID_CURSOR, words, faults=[Fault("after", ProblemCode.INVALID_CURSOR, words)])
