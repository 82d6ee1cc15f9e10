"""What every change through the API has in common: answered once per idempotency key, written down who did it.

    async with pool.transaction() as session:
        if (kept := await begin(session, deed)) is not None:
            return kept
        ...                                         the change itself
        await note(session, deed, thing, before=..., after=...)
        await keep(session, deed, status, response, headers)

The change, its line in the audit log and the answer kept for its idempotency key commit together or not at all.
"""

import datetime as dt
import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

import asyncpg
import orjson

from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool, Session

OPERATORS: Final = Tenant(0, "operator")
"""Whose the deeds and the idempotency keys of operators are; no account has this number."""

_NO_FACTS: Final[Mapping[str, object]] = {}
_NO_HEADERS: Final[Mapping[str, str]] = {}


class Action(StrEnum):
    """What is done. Closed; part of the API."""

    ENDPOINT_CREATED = "endpoint.created"
    ENDPOINT_CHANGED = "endpoint.changed"
    STATUS_CHANGED = "endpoint.status_changed"
    ENDPOINT_DELETED = "endpoint.deleted"
    ENDPOINT_TESTED = "endpoint.tested"
    SECRET_ROTATED = "endpoint.secret_rotated"  # noqa: S105 - what was done, no secret
    KEY_CREATED = "api_key.created"
    KEY_REVOKED = "api_key.revoked"
    USER_INVITED = "user.invited"
    USER_ACCEPTED = "user.accepted"
    USER_REMOVED = "user.removed"
    ACCOUNT_CREATED = "account.created"
    HOST_CHANGED = "host.changed"
    REPLAY_CREATED = "replay.created"
    REPLAY_CANCELED = "replay.canceled"
    DELIVERY_RESENT = "delivery.resent"
    DELIVERY_CANCELED = "delivery.canceled"
    DELIVERY_RETRIED = "delivery.retried"
    DEAD_EVENT_OPENED = "dead_event.opened"
    DEAD_EVENT_REDRIVEN = "dead_event.redriven"
    """It began; `redriven_at` of the dead event tells whether Kafka took the record."""
    DEAD_EVENT_PUT_BACK = "dead_event.put_back"
    """Kafka did not take it: the redrive before this line did not happen."""
    DEAD_EVENT_DISCARDED = "dead_event.discarded"


class Ask(NamedTuple):
    """An idempotency key and the digest of the request that it was given with."""

    key: str
    request_sha256: bytes


class Deed(NamedTuple):
    """One change that somebody asks for: on whose behalf, with which key, from where, under which request."""

    owner: Tenant
    actor: str
    address: str | None
    request_id: str
    action: Action
    ask: Ask | None = None


class KeptAnswer(NamedTuple):
    """An answer given before under the same idempotency key; `request_sha256` says to which request.

    `headers` are those of its own.
    """

    request_sha256: bytes
    status: int
    response: bytes
    headers: Mapping[str, str] = _NO_HEADERS


class Line(NamedTuple):
    """One line of the audit log. The digests are of what is shown of the thing, before and after.

    `user_id` and `email` are of the person whose key the actor is, None when it is a program's.
    """

    audit_id: int
    at: dt.datetime
    actor: str
    user_id: str | None
    email: str | None
    address: str | None
    request_id: str
    action: str
    thing: str
    before_sha256: bytes | None
    after_sha256: bytes | None
    facts: Mapping[str, object]


async def begin(session: Session, deed: Deed) -> KeptAnswer | None:
    """Serialize the deeds of one account, and return the answer given before under the same idempotency key.

    Locks the account's row until the transaction ends, for operators their common lock.
    """
    if deed.owner == OPERATORS:
        await session.execute("lock_operators")
    else:
        await session.fetchrow("lock_account", deed.owner.account_id)
    if deed.ask is None:
        return None
    row = await session.fetchrow("find_answer", *deed.owner, deed.ask.key)
    return None if row is None else _kept(row)


async def note(
    session: Session,
    deed: Deed,
    thing: str,
    *,
    before: object = None,
    after: object = None,
    facts: Mapping[str, object] = _NO_FACTS,
) -> None:
    """Write the deed into the audit log. `before` and `after` are JSON documents without anything secret in them."""
    tenant = (None, None) if deed.owner == OPERATORS else deed.owner
    await session.execute(
        "note_deed",
        *tenant,
        deed.actor,
        deed.address,
        deed.request_id,
        deed.action,
        thing,
        _digest(before),
        _digest(after),
        orjson.dumps(facts),
    )


def headless(_: object) -> Mapping[str, str]:
    """Return no headers: most answers have none of their own."""
    return _NO_HEADERS


async def keep(
    session: Session, deed: Deed, status: int, response: bytes, headers: Mapping[str, str] = _NO_HEADERS
) -> None:
    """Keep the answer for a day when the request came with an idempotency key. `response` holds no secret."""
    if deed.ask is None:
        return
    await session.execute("forget_answers", *deed.owner)
    await session.execute("keep_answer", *deed.owner, *deed.ask, status, response, orjson.dumps(dict(headers)).decode())


class DeedLedger:
    """Reads what was done. Every call raises Unavailable when Postgres is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, owner: Tenant, *, below: int | None = None, limit: int) -> list[Line]:
        """Return up to `limit` lines of an owner's audit log, latest first, with numbers below `below`."""
        tenant = (None, None) if owner == OPERATORS else owner
        rows = await self._pool.fetch("list_deeds", *tenant, below, limit)
        return [Line(**{**row, "facts": orjson.loads(row["facts"])}) for row in rows]

    async def kept_answer(self, owner: Tenant, key: str) -> KeptAnswer | None:
        """Return the answer kept under an idempotency key, None when there is none younger than a day."""
        row = await self._pool.fetchrow("find_answer", *owner, key)
        return None if row is None else _kept(row)


def _kept(row: asyncpg.Record) -> KeptAnswer:
    return KeptAnswer(row["request_sha256"], row["status"], row["response"], orjson.loads(row["headers"]))


def _digest(document: object) -> bytes | None:
    if document is None:
        return None
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).digest()
