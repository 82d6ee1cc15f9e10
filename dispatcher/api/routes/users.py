"""People of an account: invited, let in, removed."""

from typing import Final

from dispatcher.api import users
from dispatcher.api.call import Route
from dispatcher.api.models import PageQuery
from dispatcher.api.problems import PAGED, ProblemCode
from dispatcher.api.users_models import (
    AcceptanceBody,
    AcceptedShown,
    InviteBody,
    InvitedShown,
    RenewalBody,
    UserList,
)
from dispatcher.model.access import Scope

USER_ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/users",
        operation_id="inviteUser",
        handler=users.invite_user,
        scope=Scope.KEYS_WRITE,
        summary="Invite a person to the same account and environment, and show the token that lets them in, this once",
        answer=InvitedShown,
        status=201,
        body=InviteBody,
        problems=(ProblemCode.KEY_ENDS, ProblemCode.USER_EXISTS, ProblemCode.USER_LIMIT),
        keeps_answers=True,
    ),
    Route(
        method="GET",
        path="/v1/users",
        operation_id="listUsers",
        handler=users.list_users,
        scope=Scope.KEYS_WRITE,
        summary="List the people of the same account and environment, the last invited first",
        answer=UserList,
        query=PageQuery,
        problems=PAGED,
    ),
    Route(
        method="DELETE",
        path="/v1/users/{id}",
        operation_id="removeUser",
        handler=users.remove_user,
        scope=Scope.KEYS_WRITE,
        summary="Remove a person: their key and their invitation end; keys that they made for programs stay",
        answer=None,
        status=204,
    ),
    Route(
        method="POST",
        path="/v1/users/{id}/invite",
        operation_id="renewInvitation",
        handler=users.renew_invitation,
        scope=Scope.KEYS_WRITE,
        summary="Invite a person again: the token before is void, and the key before ends once the new one is used",
        answer=InvitedShown,
        body=RenewalBody,
        problems=(ProblemCode.KEY_ENDS,),
        keeps_answers=True,
    ),
    Route(
        method="POST",
        path="/v1/invitations/accept",
        operation_id="acceptInvitation",
        handler=users.accept_invitation,
        scope=None,
        summary="Turn an invitation into a key of one's own and show it, this once",
        answer=AcceptedShown,
        status=201,
        body=AcceptanceBody,
        problems=(ProblemCode.INVITATION_VOID,),
    ),
)
