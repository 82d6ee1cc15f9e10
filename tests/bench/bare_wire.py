"""The dispatcher's sender with nothing around it, for the ceiling of the wire itself."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

from dispatcher.model.delivery import Delivery
from dispatcher.model.endpoint import EndpointStatus, SigningKey, Target
from dispatcher.model.ids import DeliveryIds, show_event_id
from dispatcher.policy.addresses import EgressPolicy
from dispatcher.sending.attempt import Sender, SendingOptions

_NOW = dt.datetime.now(dt.UTC)


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
    return Target(
        endpoint_id=number,
        public_id=f"we_{number:016d}",
        account="acct_bench000001",
        environment="live" if scheme == "https" else "test",
        status=EndpointStatus.ENABLED,
        host_id=number,
        scheme=scheme,
        hostname="127.0.0.1",
        port=port,
        path="/hook",
        keys=(SigningKey(1, key),),
        headers=(),
        schedule=(0.0,) * 10,
        is_verified=True,
    )


def _delivery(number: int, body: bytes) -> Delivery:
    event_id = number.to_bytes(20, "big")
    return Delivery(
        delivery_id=number,
        event_id=event_id,
        public_event_id=show_event_id(event_id),
        event_day=_NOW.date(),
        account_id=1,
        environment="live",
        endpoint_id=1,
        host_id=1,
        attempts=0,
        created_at=_NOW,
        event_type="verification.completed",
        subject=None,
        client_reference=None,
        body=body,
        occurred_at=_NOW,
        accepted_mono=0.0,
    )
