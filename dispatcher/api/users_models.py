"""Shapes of people and their invitations."""

from typing import Annotated, Literal

from pydantic import Field

from dispatcher.api.administration_models import NewKeyShown
from dispatcher.api.models import Incoming, Instant, Outgoing
from dispatcher.ledger.users import UserState
from dispatcher.model.access import Role
from dispatcher.model.event import Environment
from dispatcher.policy.emails import LONGEST_EMAIL

LONGEST_TOKEN = 128
DEFAULT_LIFE_SECONDS = 604_800
LONGEST_LIFE_SECONDS = 2_592_000

Life = Annotated[int, Field(ge=60, le=LONGEST_LIFE_SECONDS, description="seconds until the invitation is void")]


class InviteBody(Incoming):
    """A person to be invited to the account and environment of the key that asks. No mail is sent.

    `email`: of ASCII; a domain in another script is written `xn--…`. It is kept in lower case. `role`: an owner's key
    may do everything, a developer's all but make keys and invite, a viewer's look.
    """

    email: Annotated[str, Field(min_length=1, max_length=LONGEST_EMAIL, examples=["ada@example.com"])]
    role: Literal["owner", "developer", "viewer"]
    expires_in: Life = DEFAULT_LIFE_SECONDS


class RenewalBody(Incoming):
    """A new invitation for somebody; the one before it is void."""

    expires_in: Life = DEFAULT_LIFE_SECONDS


class AcceptanceBody(Incoming):
    """An invitation's token, `whi_…`."""

    token: Annotated[str, Field(min_length=1, max_length=LONGEST_TOKEN)]


class UserShown(Outgoing):
    """A person. `invited_by`: with which key; `expires_at`: when the open invitation is void, null without one."""

    id: str
    object: Literal["user"]
    email: str
    role: Role
    environment: Environment
    state: UserState
    invited_at: Instant
    invited_by: str
    accepted_at: Instant | None
    expires_at: Instant | None


class InvitedShown(UserShown):
    """A person just invited. `token` is shown here and never again; null in a repeated answer."""

    token: str | None


class UserList(Outgoing):
    """A page of people."""

    data: list[UserShown]
    next: str | None


class AcceptedShown(Outgoing):
    """Who accepted, and the key that the invitation became. It is the person's only one, and shown this once."""

    object: Literal["acceptance"]
    user: UserShown
    api_key: NewKeyShown
