"""The operations that are for operators alone: accounts, hosts, and what operators did."""

from typing import Final

from dispatcher.api import administration, hosts
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
from dispatcher.api.problems import ProblemCode
from dispatcher.ledger.keys import Scope

_PAGED: Final = (ProblemCode.INVALID_CURSOR,)

OPERATOR_ROUTES: Final = (
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
        problems=_PAGED,
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
        problems=_PAGED,
    ),
    Route(
        method="GET",
        path="/v1/hosts",
        operation_id="listHosts",
        handler=hosts.list_hosts,
        scope=Scope.OPERATOR,
        summary="List the hosts of endpoints by name, with their limits and who is paused or slowed",
        answer=hosts.HostList,
        query=PageQuery,
        problems=_PAGED,
    ),
    Route(
        method="GET",
        path="/v1/hosts/{host}",
        operation_id="getHost",
        handler=hosts.read_host,
        scope=Scope.OPERATOR,
        summary="Show a host; its name, `scheme://name:port`, is percent-encoded in the path",
        answer=hosts.HostDetailShown,
    ),
    Route(
        method="PATCH",
        path="/v1/hosts/{host}",
        operation_id="changeHost",
        handler=hosts.change_host,
        scope=Scope.OPERATOR,
        summary="Give a host limits of its own, or end its pause; every replica follows within five seconds",
        answer=hosts.HostDetailShown,
        body=hosts.HostChangeBody,
    ),
)
