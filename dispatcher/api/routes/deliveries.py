"""Deliveries of all endpoints, their attempts, and what a person does about single ones."""

from typing import Final

from dispatcher.api import actions, attempt_detail, logs
from dispatcher.api.attempt_models import WholeAttemptShown
from dispatcher.api.call import NoBody, Route
from dispatcher.api.models import AttemptList, DeliveriesQuery, DeliveryList, DeliveryShown, PageQuery
from dispatcher.api.problems import PAGED, ProblemCode
from dispatcher.model.access import Scope

DELIVERY_ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/deliveries",
        operation_id="listDeliveries",
        handler=logs.list_all_deliveries,
        scope=Scope.DELIVERIES_READ,
        summary="List the deliveries of all endpoints, newest first",
        answer=DeliveryList,
        query=DeliveriesQuery,
        problems=PAGED,
    ),
    Route(
        method="GET",
        path="/v1/deliveries/{id}",
        operation_id="getDelivery",
        handler=logs.read_delivery,
        scope=Scope.DELIVERIES_READ,
        summary="Show a delivery",
        answer=DeliveryShown,
    ),
    Route(
        method="GET",
        path="/v1/deliveries/{id}/attempts",
        operation_id="listDeliveryAttempts",
        handler=logs.list_delivery_attempts,
        scope=Scope.DELIVERIES_READ,
        summary="List the requests of a delivery, newest first",
        answer=AttemptList,
        query=PageQuery,
        problems=PAGED,
    ),
    Route(
        method="GET",
        path="/v1/deliveries/{id}/attempts/{n}",
        operation_id="getAttempt",
        handler=attempt_detail.read_attempt,
        scope=Scope.DELIVERIES_READ,
        summary="Show a request as it was sent and what was answered; bodies only to a key with `payloads:read`",
        answer=WholeAttemptShown,
    ),
    Route(
        method="POST",
        path="/v1/deliveries/{id}/resend",
        operation_id="resendDelivery",
        handler=actions.resend_delivery,
        scope=Scope.DELIVERIES_WRITE,
        summary="Send a finished delivery again: at once, then by its schedule from the second entry on",
        answer=DeliveryShown,
        status=202,
        body=NoBody,
        problems=(
            ProblemCode.DELIVERY_PENDING,
            ProblemCode.ENDPOINT_NOT_ENABLED,
            ProblemCode.EVENT_GONE,
            ProblemCode.TEST_NOT_KEPT,
            ProblemCode.ATTEMPTS_USED_UP,
        ),
        keeps_answers=True,
    ),
    Route(
        method="POST",
        path="/v1/deliveries/{id}/cancel",
        operation_id="cancelDelivery",
        handler=actions.cancel_delivery,
        scope=Scope.DELIVERIES_WRITE,
        summary="Cancel an open delivery; one that is being sent right now, as soon as that has failed",
        answer=DeliveryShown,
        status=202,
        body=NoBody,
        problems=(ProblemCode.DELIVERY_ENDED,),
        keeps_answers=True,
    ),
    Route(
        method="POST",
        path="/v1/deliveries/{id}/retry",
        operation_id="retryDelivery",
        handler=actions.retry_delivery,
        scope=Scope.DELIVERIES_WRITE,
        summary="Try a waiting delivery now instead of when it is due",
        answer=DeliveryShown,
        status=202,
        body=NoBody,
        problems=(ProblemCode.DELIVERY_ENDED, ProblemCode.DELIVERY_HELD),
        keeps_answers=True,
    ),
)
