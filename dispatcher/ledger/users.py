"""People of an account and environment: invited by a token that works once and becomes a key of their own.

    whi_<secret><check>      an invitation; only the secret's digest is stored, and of the text before it nothing

    invite ──► pending ──(time)──► expired
                  │                   │ renew: a new token, the old one is void
                  ▼ accept            ▼
              accepted ◄── accept ─ pending
                  │
                  ▼ remove: the invitation is void, and every key of the person ends, in one transaction

Who accepts again, with a new token, gets a new key and loses the one before it: so is a lost key replaced.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

import asyncpg

from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Pool, Session
from dispatcher.ledger.deeds import Action, Deed, KeptAnswer, begin, keep, note
from dispatcher.ledger.keys import KeyWish, NewKey, insert_key
from dispatcher.ledger.minting import CHECK_LENGTH, SECRET_LENGTH, checked, digest_of, is_checked, new_secret
from dispatcher.model.access import Role
from dispatcher.model.ids import new_user_id
from dispatcher.policy.roles import SCOPES_OF

MOST_USERS: Final = 100
"""People of one account in one environment."""

_PREFIX: Final = "whi_"


class UserState(StrEnum):
    """How far a person is. Closed; part of the API."""

    PENDING = "pending"
    EXPIRED = "expired"
    ACCEPTED = "accepted"


class User(NamedTuple):
    """A person. `invited_by` is the id of a key; `expires_at` is the open invitation's, None when there is none."""

    user_id: int
    public_id: str
    environment: str
    email: str
    role: Role
    state: UserState
    invited_at: dt.datetime
    invited_by: str
    accepted_at: dt.datetime | None
    expires_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Invited:
    """A person and the token that lets them in. `token` is shown once and never appears in a repr."""

    user: User
    token: str = field(repr=False)


class Accepted(NamedTuple):
    """A person and the key that was made of the invitation."""

    user: User
    key: NewKey


class Taken(NamedTuple):
    """Somebody of that address is there."""


class TooManyUsers(NamedTuple):
    """There are as many people as there may be."""


class UserLedger:
    """People in Postgres. Every call raises Unavailable when it is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def invite(
        self, deed: Deed, email: str, role: Role, *, expires_in_seconds: float, show: Callable[[User], bytes]
    ) -> Invited | KeptAnswer | Taken | TooManyUsers:
        """Invite a person to the deed's owner; `email` in its one spelling. `show` gives the answer to keep.

        Raises:
            Unavailable: the person may be invited; nobody knows the token.
        """
        token = _new_token()
        async with self._pool.transaction() as session:
            kept = await begin(session, deed)
            if kept is not None:
                return kept
            count = await session.fetchrow("count_users", *deed.owner)
            assert count is not None
            if count["n"] >= MOST_USERS:
                return TooManyUsers()
            who = (new_user_id(), *deed.owner, email, role, deed.actor)
            row = await session.fetchrow("add_user", *who, _digest(token), expires_in_seconds)
            if row is None:
                return Taken()
            return await _told(session, deed, Invited(_user(row), token), status=201, show=show)

    async def renew(
        self, deed: Deed, public_id: str, *, expires_in_seconds: float, show: Callable[[User], bytes]
    ) -> Invited | KeptAnswer | None:
        """Give a person of the deed's owner a new token; the one before it is void. None: there is no such person.

        Raises:
            Unavailable: the old token may be void; nobody knows the new one.
        """
        token = _new_token()
        async with self._pool.transaction() as session:
            kept = await begin(session, deed)
            if kept is not None:
                return kept
            row = await session.fetchrow("renew_invitation", *deed.owner, public_id, _digest(token), expires_in_seconds)
            if row is None:
                return None
            return await _told(session, deed, Invited(_user(row), token), status=200, show=show)

    async def accept(self, token: str, *, address: str | None, request_id: str) -> Accepted | None:
        """Turn an invitation into its person's only key, once; None when it is not good, whatever the reason.

        Raises:
            Unavailable: it may be used up; nobody knows the key. `renew` helps.
        """
        if not _is_token(token):
            return None
        async with self._pool.transaction() as session:
            row = await session.fetchrow("burn_invitation", _digest(token))
            if row is None:
                return None
            tenant, user = Tenant(row["account_id"], row["environment"]), _user(row)
            await session.fetch("end_personal_keys", user.user_id)
            wish = KeyWish(tuple(SCOPES_OF[user.role]))
            key = await insert_key(session, tenant, wish, user_id=user.user_id)
            deed = Deed(tenant, key.key_id, address, request_id, Action.USER_ACCEPTED)
            facts = {"role": user.role, "key_id": key.key_id}
            await note(session, deed, user.public_id, after=facts, facts=facts)
            return Accepted(user, key)

    async def remove(self, deed: Deed, public_id: str) -> bool:
        """Remove a person of the deed's owner and end their keys; tell whether the person was there."""
        async with self._pool.transaction() as session:
            await begin(session, deed)
            row = await session.fetchrow("remove_user", *deed.owner, public_id)
            if row is None:
                return False
            ended = await session.fetch("end_personal_keys", row["user_id"])
            facts = {"role": row["role"], "key_ids": [one["key_id"] for one in ended]}
            await note(session, deed, public_id, before=facts, facts=facts)
            return True

    async def find(self, tenant: Tenant, public_id: str) -> User | None:
        """Return a person who is not removed, None when there is none."""
        row = await self._pool.fetchrow("find_user", *tenant, public_id)
        return None if row is None else _user(row)

    async def page(self, tenant: Tenant, *, below: int | None = None, limit: int) -> list[User]:
        """Return up to `limit` people, the last invited first, with numbers below `below`."""
        return [_user(row) for row in await self._pool.fetch("users_of_tenant", *tenant, below, limit)]


async def _told(
    session: Session, deed: Deed, invited: Invited, *, status: int, show: Callable[[User], bytes]
) -> Invited:
    """Write an invitation down, keep its answer, and return it."""
    facts = {"role": invited.user.role, "expires_at": invited.user.expires_at}
    await note(session, deed, invited.user.public_id, after=facts, facts=facts)
    await keep(session, deed, status, show(invited.user))
    return invited


def _user(row: asyncpg.Record) -> User:
    found = User(*(row[name] for name in User._fields))
    return found._replace(role=Role(found.role), state=UserState(found.state))


def _new_token() -> str:
    return checked(_PREFIX + new_secret())


def _is_token(text: str) -> bool:
    is_shaped = text.startswith(_PREFIX) and len(text) == len(_PREFIX) + SECRET_LENGTH + CHECK_LENGTH
    return is_shaped and text.isascii() and is_checked(text)


def _digest(token: str) -> bytes:
    return digest_of(token[len(_PREFIX) : -CHECK_LENGTH])
