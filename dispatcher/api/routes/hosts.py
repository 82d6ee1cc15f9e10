"""For operators alone: how fast the hosts of endpoints are sent to."""

from typing import Final

from dispatcher.api import hosts
from dispatcher.api.call import Route
from dispatcher.api.models import PageQuery
from dispatcher.api.problems import PAGED
from dispatcher.model.access import Scope

HOST_ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/hosts",
        operation_id="listHosts",
        handler=hosts.list_hosts,
        scope=Scope.OPERATOR,
        summary="List the hosts of endpoints by name, with their limits and who is paused or slowed",
        answer=hosts.HostList,
        query=PageQuery,
        problems=PAGED,
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
