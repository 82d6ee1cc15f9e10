"""Shapes of keys, accounts and the audit log."""

from typing import Annotated, Any, Literal

from pydantic import Field

from dispatcher.api.models import Incoming, Instant, Outgoing
from dispatcher.ledger.deeds import Action
from dispatcher.model.access import Scope
from dispatcher.model.event import Environment

LONGEST_NAME = 255

TenantScope = Literal[
    "endpoints:read",
    "endpoints:write",
    "deliveries:read",
    "deliveries:write",
    "events:read",
    "payloads:read",
    "keys:write",
    "listen",
]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


class KeyBody(Incoming):
    """A key to be made. What is not said is as with the key that asks: `scopes`, and the end, if that one has any.

    With `expires_in` (seconds) it ends earlier, never later. That the key that asked is revoked leaves it as it is.
    Two live keys of one name are the most, the one in use and the one that is to follow it; without a name any number.
    """

    name: Name | None = None
    scopes: Annotated[list[TenantScope], Field(min_length=1, max_length=8)] | None = None
    expires_in: Annotated[int, Field(ge=60, le=315_360_000)] | None = None


class AccountKeyBody(KeyBody):
    """A key to be made for an account. Without `scopes` it gets all of them, without `expires_in` no end."""

    environment: Literal["live", "test"]


class NewKeyShown(Outgoing):
    """A key just made. `key` is shown here and never again; null in a repeated answer."""

    id: str
    object: Literal["api_key"]
    name: str | None
    environment: Environment
    scopes: list[Scope]
    key: str | None
    created_at: Instant
    expires_at: Instant | None


class KeyShown(Outgoing):
    """A key. `last_used_at` is rounded down to the hour; `user_id`: the person whose it is, null for a program's."""

    id: str
    object: Literal["api_key"]
    name: str | None
    user_id: str | None
    environment: Environment
    scopes: list[Scope]
    created_at: Instant
    last_used_at: Instant | None
    expires_at: Instant | None
    revoked_at: Instant | None


class KeyList(Outgoing):
    """A page of keys: live ones, newest first, then those that ended within a year, the last ones first."""

    data: list[KeyShown]
    next: str | None


class NewAccountBody(Incoming):
    """An account to be made, with a random id unless one is given."""

    id: Annotated[str, Field(pattern="^acct_[A-Za-z0-9]{10,40}$")] | None = None
    name: Name | None = None


class AccountShown(Outgoing):
    """One customer of the verification product. `name` is the operator's own word for it."""

    id: str
    object: Literal["account"]
    name: str | None
    created_at: Instant


class AccountList(Outgoing):
    """A page of accounts."""

    data: list[AccountShown]
    next: str | None


class DeedShown(Outgoing):
    """One change through the API. `key_id`: with which key; the digests are of the thing as shown, before and after.

    `user_id` and `user_email`: the person whose key it is, removed ones too; null for a program's.
    """

    object: Literal["deed"]
    at: Instant
    action: Action
    thing: str
    key_id: str
    user_id: str | None
    user_email: str | None
    address: str | None
    request_id: str
    before_sha256: str | None
    after_sha256: str | None
    facts: dict[str, Any]


class DeedList(Outgoing):
    """A page of the audit log, latest first."""

    data: list[DeedShown]
    next: str | None
