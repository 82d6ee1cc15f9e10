"""The dispatcher's sender with nothing around it, for the ceiling of the wire itself."""

from collections.abc import Callable
from pathlib import Path

from dispatcher.model.delivery import Delivery
from dispatcher.model.endpoint import SigningKey, Target
from dispatcher.model.ids import DeliveryIds, show_event_id
from dispatcher.policy.addresses import EgressPolicy
from dispatcher.sending.attempt import Sender, SendingOptions
from tests.support.builders import a_delivery, a_target

_PLAIN = a_delivery()
"""Made once: what each delivery is made of would count as the wire's."""


def make_sender(
    ports: list[int], ca_file: str | None, key: bytes
) -> tuple[Sender, list[Target], Callable[[int, bytes], Delivery]]:
    """Return a sender, one target per port, and what makes a delivery of a number and a body."""
    options = SendingOptions(
        user_agent="Bench-Webhooks/1",
        egress=EgressPolicy.parse(["127.0.0.0/8"], []),
        allow_http=True,
        ca_file=Path(ca_file) if ca_file else None,
    )
    targets = [_target(number, port, "https" if ca_file else "http", key) for number, port in enumerate(ports)]
    return Sender(options, DeliveryIds(b"k" * 32)), targets, _delivery


def _target(number: int, port: int, scheme: str, key: bytes) -> Target:
    return a_target(
        endpoint_id=number,
        environment="live" if scheme == "https" else "test",
        host_id=number,
        scheme=scheme,
        hostname="127.0.0.1",
        port=port,
        path="/hook",
        keys=(SigningKey(1, key),),
    )


def _delivery(number: int, body: bytes) -> Delivery:
    event_id = number.to_bytes(20, "big")
    return _PLAIN._replace(delivery_id=number, event_id=event_id, public_event_id=show_event_id(event_id), body=body)
