"""For operators alone: accounts, keys for them, and what operators did."""

from typing import Final

from dispatcher.api import administration
from dispatcher.api.administration_models import (
    AccountKeyBody,
    AccountList,
    AccountShown,
    DeedList,
    NewAccountBody,
    NewKeyShown,
)
from dispatcher.api.call import Route
from dispatcher.api.models import PageQuery
from dispatcher.api.problems import PAGED, ProblemCode
from dispatcher.model.access import Scope

ACCOUNT_ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/accounts",
        operation_id="createAccount",
        handler=administration.create_account,
        scope=Scope.OPERATOR,
        summary="Make an account",
        answer=AccountShown,
        status=201,
        body=NewAccountBody,
        problems=(ProblemCode.ACCOUNT_EXISTS,),
        keeps_answers=True,
        headers=("Location",),
    ),
    Route(
        method="GET",
        path="/v1/accounts",
        operation_id="listAccounts",
        handler=administration.list_accounts,
        scope=Scope.OPERATOR,
        summary="List accounts, newest first",
        answer=AccountList,
        query=PageQuery,
        problems=PAGED,
    ),
    Route(
        method="GET",
        path="/v1/accounts/{id}",
        operation_id="getAccount",
        handler=administration.read_account,
        scope=Scope.OPERATOR,
        summary="Show an account",
        answer=AccountShown,
    ),
    Route(
        method="POST",
        path="/v1/accounts/{id}/api_keys",
        operation_id="createAccountApiKey",
        handler=administration.create_key_for_account,
        scope=Scope.OPERATOR,
        summary="Make a key for an account and show it, this once",
        answer=NewKeyShown,
        status=201,
        body=AccountKeyBody,
        problems=(ProblemCode.KEY_LIMIT,),
        keeps_answers=True,
    ),
    Route(
        method="GET",
        path="/v1/operator_log",
        operation_id="listOperatorDeeds",
        handler=administration.list_deeds,
        scope=Scope.OPERATOR,
        summary="List what operators changed through the API, latest first; kept for a year",
        answer=DeedList,
        query=PageQuery,
        problems=PAGED,
    ),
)
