"""API keys: made, found, revoked; only a digest of them is ever stored.

whd_<live|test|op>_<key id>_<secret><check>

key id   12 letters and digits, public: how the row is found
"""

import datetime as dt
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import asyncpg

from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool, Session
from dispatcher.ledger.deeds import Deed, KeptAnswer, begin, keep, note
from dispatcher.ledger.minting import (
    CHECK_LENGTH,
    SECRET_LENGTH,
    checked,
    digest_of,
    is_checked,
    new_id,
    new_secret,
)
from dispatcher.model.access import OPERATOR_SCOPES, TENANT_SCOPES, Scope

MOST_KEYS: Final = 50
"""Live keys of one account in one environment that the API makes for programs; a person has one beside them."""

MOST_OF_NAME: Final = 2
"""Live keys of one name: the one in use and the one that follows it."""

_FIRST_KEY: Final = (dt.datetime(9000, 1, 1, tzinfo=dt.UTC), "")
"""Before every key of a list."""
_NO_KEY: Final = (dt.datetime(1970, 1, 1, tzinfo=dt.UTC), "")
"""Behind every key."""

_PREFIX: Final = "whd"
_OPERATOR: Final = "op"
_KEY_ID_LENGTH: Final = 12


class KeyParts(NamedTuple):
    """A key's text taken apart: which row to look up, and the digest to compare."""

    key_id: str
    secret_sha256: bytes


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. `text` is shown once and never appears in a repr."""

    key_id: str
    text: str = field(repr=False)
    scopes: tuple[Scope, ...]
    name: str | None
    created_at: dt.datetime
    expires_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class KeyWish:
    """A key that somebody wants. `scopes` None gives every one of its kind.

    It ends after `expires_in_seconds`, and at `ends_by` at the latest; with neither it never does.
    """

    scopes: tuple[Scope, ...] | None = None
    name: str | None = None
    expires_in_seconds: float | None = None
    ends_by: dt.datetime | None = None


class TooManyKeys(NamedTuple):
    """There are as many live keys as there may be, of one name or at all."""

    limit: int
    is_of_name: bool


class Bearer(NamedTuple):
    """Who calls. `tenant` and `account` are None for an operator's key, `expires_at` for one that never ends."""

    key_id: str
    tenant: Tenant | None
    account: str | None
    scopes: frozenset[str]
    expires_at: dt.datetime | None


class StoredKey(NamedTuple):
    """A key as the ledger knows it: ask `matches` before trusting `bearer`. `is_fresh`: used this hour."""

    secret_sha256: bytes
    bearer: Bearer
    is_fresh: bool


class KeyFacts(NamedTuple):
    """What may be told about a key. `last_used_at` is rounded down to the hour; `user_id`: the person whose it is."""

    key_id: str
    user_id: str | None
    environment: str | None
    scopes: tuple[str, ...]
    name: str | None
    created_at: dt.datetime
    last_used_at: dt.datetime | None
    revoked_at: dt.datetime | None
    expires_at: dt.datetime | None


class KeyPlace(NamedTuple):
    """Where a key stands in its account's list: by its creation, and behind the live ones by its end."""

    is_ended: bool
    at: dt.datetime
    key_id: str


class KeyPage(NamedTuple):
    """Keys, live ones first. `next` is where to go on, None at the end."""

    keys: list[KeyFacts]
    next: KeyPlace | None


def parse_key(text: str) -> KeyParts | None:
    """Return the parts of a key's text, None when it cannot be one of ours (its check is wrong, too)."""
    prefix, _, rest = text.partition("_")
    kind, _, rest = rest.partition("_")
    key_id, _, tail = rest.partition("_")
    shaped = prefix == _PREFIX and kind in {"live", "test", _OPERATOR} and len(key_id) == _KEY_ID_LENGTH
    if not shaped or len(tail) != SECRET_LENGTH + CHECK_LENGTH or not text.isascii():
        return None
    if not (key_id.isalnum() and is_checked(text)):
        return None
    return KeyParts(key_id, digest_of(tail[:SECRET_LENGTH]))


def matches(parts: KeyParts, stored: StoredKey) -> bool:
    """Tell whether a presented key is the stored one; takes as long whether it is or not."""
    return hmac.compare_digest(parts.secret_sha256, stored.secret_sha256)


class KeyLedger:
    """Keys in Postgres. Through the API two live keys of one name are the most, so that they can be rotated."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self,
        tenant: Tenant | None,
        *,
        scopes: Iterable[Scope] | None = None,
        name: str | None = None,
        expires_in_seconds: float | None = None,
    ) -> NewKey:
        """Make a key for one account and environment, or an operator's when `tenant` is None.

        `scopes` None gives every one of its kind; without seconds it never expires.

        Raises:
            ValueError: a scope is not for this kind of key, or there is none.
            asyncpg.ForeignKeyViolationError: the account does not exist.
            Unavailable: it may have been made; nobody knows its secret.
        """
        wish = KeyWish(None if scopes is None else tuple(scopes), name, expires_in_seconds)
        async with self._pool.transaction() as session:
            return await insert_key(session, tenant, wish)

    async def issue(
        self, deed: Deed, tenant: Tenant, wish: KeyWish, *, show: Callable[[NewKey], bytes]
    ) -> NewKey | KeptAnswer | TooManyKeys:
        """Make a key for an account because somebody asks for it; `show` gives the answer to keep, without the key.

        Raises:
            ValueError: as `create`.
            Unavailable: it may have been made; nobody knows its secret.
        """
        async with self._pool.transaction() as session:
            kept = await begin(session, deed)
            if kept is not None:
                return kept
            row = await session.fetchrow("count_live_keys", *tenant, wish.name)
            assert row is not None
            if row["n"] >= MOST_KEYS:
                return TooManyKeys(MOST_KEYS, is_of_name=False)
            if wish.name is not None and row["n_named"] >= MOST_OF_NAME:
                return TooManyKeys(MOST_OF_NAME, is_of_name=True)
            made = await insert_key(session, tenant, wish)
            facts = {"name": made.name, "scopes": made.scopes, "expires_at": made.expires_at}
            await note(session, deed, made.key_id, after=facts, facts=facts)
            await keep(session, deed, 201, show(made))
            return made

    async def of_tenant(self, tenant: Tenant, *, after: KeyPlace | None = None, limit: int) -> KeyPage:
        """Return up to `limit` keys of an account and environment behind a place. Raises Unavailable.

        Live ones come first, the newest before the others; then those that ended, the last ones before the others. Who
        ends while somebody turns the pages may be on two of them, and is on one at least.
        """
        live, ended = _FIRST_KEY, _FIRST_KEY
        if after is not None:
            live, ended = (_NO_KEY, after[1:]) if after.is_ended else (after[1:], _FIRST_KEY)
        rows = await self._pool.fetch("keys_of_tenant", *tenant, *live, *ended, limit + 1)
        page = rows[:limit]
        following = None
        if len(rows) > limit:
            following = KeyPlace(page[-1]["is_ended"], page[-1]["at"], page[-1]["key_id"])
        return KeyPage([_facts(row) for row in page], following)

    async def withdraw(self, deed: Deed, key_id: str) -> bool:
        """End a key of the deed's owner; tell whether it was there and live. Raises Unavailable."""
        async with self._pool.transaction() as session:
            row = await session.fetchrow("withdraw_key", *deed.owner, key_id)
            if row is None:
                return False
            facts = {"name": row["name"], "scopes": row["scopes"]}
            await note(session, deed, key_id, before=facts, facts=facts)
            return True

    async def find(self, key_id: str) -> StoredKey | None:
        """Return a key that is not revoked, None when there is none. Raises Unavailable."""
        row = await self._pool.fetchrow("find_key", key_id)
        if row is None:
            return None
        account_id = row["account_id"]
        tenant = None if account_id is None else Tenant(account_id, row["environment"])
        bearer = Bearer(key_id, tenant, row["account"], frozenset(row["scopes"]), row["expires_at"])
        return StoredKey(row["secret_sha256"], bearer, row["is_fresh"])

    async def touch(self, key_id: str) -> None:
        """Note that a key is used in this hour; writes at most once per hour. Raises Unavailable."""
        await self._pool.execute("touch_key", key_id)

    async def page(self, account_id: int | None) -> list[KeyFacts]:
        """Return all keys of an account, or the operators' for None, newest first. Raises Unavailable."""
        return [_facts(row) for row in await self._pool.fetch("list_keys", account_id)]

    async def revoke(self, key_id: str) -> bool:
        """End a key; tell whether it was live. Processes notice within their cache's few seconds."""
        return await self._pool.fetchrow("revoke_key", key_id) is not None


async def insert_key(session: Session, tenant: Tenant | None, wish: KeyWish, *, user_id: int | None = None) -> NewKey:
    """Make a key within a transaction, a person's when `user_id` says whose.

    Raises:
        ValueError: a scope is not for this kind of key, or there is none.
    """
    allowed = OPERATOR_SCOPES if tenant is None else TENANT_SCOPES
    chosen = tuple(sorted(allowed if wish.scopes is None else set(wish.scopes)))
    if not chosen or not allowed.issuperset(chosen):
        message = f"scopes of this kind of key are some of: {', '.join(sorted(allowed))}"
        raise ValueError(message)
    key_id, secret = new_id(_KEY_ID_LENGTH), new_secret()
    kind = _OPERATOR if tenant is None else tenant.environment
    owner = tenant or (None, None)
    ends = wish.expires_in_seconds, user_id, wish.ends_by
    row = await session.fetchrow("create_key", key_id, digest_of(secret), *owner, list(chosen), wish.name, *ends)
    assert row is not None
    text = checked(f"{_PREFIX}_{kind}_{key_id}_{secret}")
    return NewKey(key_id, text, chosen, wish.name, row["created_at"], row["expires_at"])


def _facts(row: asyncpg.Record) -> KeyFacts:
    return KeyFacts(
        row["key_id"],
        row["user_id"],
        row["environment"],
        tuple(row["scopes"]),
        row["name"],
        row["created_at"],
        row["last_used_at"],
        row["revoked_at"],
        row["expires_at"],
    )
