"""An account's own keys, and what was changed with them."""

from typing import Final

from dispatcher.api import administration
from dispatcher.api.administration_models import DeedList, KeyBody, KeyList, NewKeyShown
from dispatcher.api.call import Route
from dispatcher.api.models import PageQuery
from dispatcher.api.problems import PAGED, ProblemCode
from dispatcher.model.access import Scope

KEY_ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/api_keys",
        operation_id="createApiKey",
        handler=administration.create_key,
        scope=Scope.KEYS_WRITE,
        summary="Make a key for the same account and environment and show it, this once",
        answer=NewKeyShown,
        status=201,
        body=KeyBody,
        problems=(ProblemCode.KEY_LIMIT,),
        keeps_answers=True,
    ),
    Route(
        method="GET",
        path="/v1/api_keys",
        operation_id="listApiKeys",
        handler=administration.list_keys,
        scope=Scope.KEYS_WRITE,
        summary="List the keys of the same account and environment, live ones first; ended ones are kept for a year",
        answer=KeyList,
        query=PageQuery,
        problems=PAGED,
    ),
    Route(
        method="DELETE",
        path="/v1/api_keys/{id}",
        operation_id="revokeApiKey",
        handler=administration.revoke_key,
        scope=Scope.KEYS_WRITE,
        summary="End a key for good",
        answer=None,
        status=204,
    ),
    Route(
        method="GET",
        path="/v1/audit_log",
        operation_id="listDeeds",
        handler=administration.list_deeds,
        scope=Scope.KEYS_WRITE,
        summary="List who changed what through the API, latest first; kept for a year",
        answer=DeedList,
        query=PageQuery,
        problems=PAGED,
    ),
)
