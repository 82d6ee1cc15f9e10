"""What the tests of the sending room share: a sender for loopback, and what one attempt met."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dispatcher.model.delivery import Delivery
from dispatcher.model.endpoint import Target
from dispatcher.model.ids import DeliveryIds
from dispatcher.policy.addresses import EgressPolicy
from dispatcher.sending.attempt import Sender, SendingOptions
from dispatcher.sending.wire import Budgets
from tests.support.builders import a_delivery, a_target

LOOPBACK = EgressPolicy.parse(["127.0.0.0/8", "::1"], [])
QUICK = Budgets(connect=0.5, head=0.15, body=0.15, idle=15.0)


@asynccontextmanager
async def a_sender(**changes: Any) -> AsyncIterator[Sender]:
    """Give a sender that may go to loopback and has short budgets; change what matters."""
    getaddrinfo = {"getaddrinfo": changes.pop("getaddrinfo")} if "getaddrinfo" in changes else {}
    plain: dict[str, Any] = {
        "user_agent": "Test-Webhooks/1 (+https://docs.test)",
        "egress": LOOPBACK,
        "allow_http": True,
        "allow_localhost": True,
        "budgets": QUICK,
    }
    sender = Sender(SendingOptions(**{**plain, **changes}), DeliveryIds(b"i" * 32), **getaddrinfo)
    try:
        yield sender
    finally:
        await sender.aclose()


def plain_target(port: int, **changes: Any) -> Target:
    """Return a test endpoint on http://127.0.0.1."""
    usual = {"scheme": "http", "hostname": "127.0.0.1", "port": port, "environment": "test"}
    return a_target(**{**usual, **changes})


def tls_target(port: int, **changes: Any) -> Target:
    """Return a live endpoint on https://localhost."""
    return a_target(**{"hostname": "localhost", "port": port, **changes})


def a_body(size: int = 1024, **changes: Any) -> Delivery:
    """Return a delivery with a body of this size."""
    return a_delivery(body=b'{"a":"' + b"x" * (size - 8) + b'"}', **changes)


def open_sockets() -> int:
    """Count the sockets that this process holds."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            count += str(descriptor.readlink()).startswith("socket:")
        except OSError:
            continue
    return count
