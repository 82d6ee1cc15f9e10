"""What everybody may read, without a key."""

from typing import Final

from dispatcher.api import logs
from dispatcher.api.call import Route
from dispatcher.api.models import FreeObject, SourceIpsShown

OPENAPI_ROUTE: Final = Route(
    method="GET",
    path="/v1/openapi.json",
    operation_id="getOpenApi",
    handler=logs.read_openapi,
    scope=None,
    summary="Show this document",
    answer=FreeObject,
)

SOURCE_IPS_ROUTE: Final = Route(
    method="GET",
    path="/v1/webhook_source_ips",
    operation_id="getSourceIps",
    handler=logs.read_source_ips,
    scope=None,
    summary="Show the addresses that requests come from, for firewalls; empty when the operator does not tell",
    answer=SourceIpsShown,
)
