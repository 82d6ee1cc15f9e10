"""The demo: a local receiver that fails now and then, two endpoints, and a trickle of sample events.

Uses the product as its customers do: endpoints are registered through the API, events are published to Kafka. Where
one of them is away for a while, as after a laptop's sleep, the demo says so and goes on.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import aiohttp

from dispatcher.embedded.trial_receiver import Behaviour, TrialReceiver
from dispatcher.model.errors import Unavailable

Publish = Callable[[str], Awaitable[None]]
"""Publishes one sample event of a type, in the test environment."""

_DESCRIPTION: Final = "Demo: "
_PERIOD_SECONDS: Final = 2.0
_FAIL_RATE: Final = 0.25

_ENDPOINTS: Final[Sequence[tuple[str, list[str], float]]] = (
    ("steady", ["*"], 0.0),
    ("shaky", ["verification.completed", "verification.decision_changed"], _FAIL_RATE),
)
_TYPES: Final = (
    "verification.created",
    "verification.started",
    "verification.submitted",
    "verification.completed",
    "verification.completed",
    "verification.in_review",
    "verification.requires_input",
    "verification.decision_changed",
)


async def run_demo(api_url: str, api_key: str, publish: Publish, tell: Callable[[str], None]) -> None:
    """Play until canceled. Endpoints of an earlier demo are removed first; nothing else is touched.

    An event that `publish` raises Unavailable for is left out, and `tell` is told why in a sentence.

    Raises:
        Unavailable: the API does not answer; play again.
    """
    async with (
        aiohttp.ClientSession(api_url, headers={"authorization": f"Bearer {api_key}"}) as api,
        TrialReceiver(Behaviour()) as steady,
        TrialReceiver(Behaviour(fail_rate=_FAIL_RATE)) as shaky,
    ):
        await _remove_old(api)
        for receiver, (name, events, fail_rate) in zip((steady, shaky), _ENDPOINTS, strict=True):
            body = {
                "url": f"{receiver.url}/{name}",
                "events": events,
                "description": f"{_DESCRIPTION}{name}",
                "schedule": [0, 2, 4, 8, 16],
            }
            secret = (await _call(api, "POST", "/v1/webhook_endpoints", body))["secret"]
            receiver.behave(Behaviour(fail_rate=fail_rate, secrets=(secret,)))
        while True:
            try:
                await publish(random.choice(_TYPES))  # noqa: S311 - a demo, not a lottery
            except Unavailable as fault:
                tell(f"no event of the demo this time: {fault}")
            await asyncio.sleep(_PERIOD_SECONDS)


async def _remove_old(api: aiohttp.ClientSession) -> None:
    page = await _call(api, "GET", "/v1/webhook_endpoints?limit=100")
    for endpoint in page["data"]:
        if (endpoint["description"] or "").startswith(_DESCRIPTION):
            await _call(api, "DELETE", f"/v1/webhook_endpoints/{endpoint['id']}")


async def _call(api: aiohttp.ClientSession, method: str, path: str, body: object = None) -> Any:
    try:
        async with api.request(method, path, json=body) as answer:
            answer.raise_for_status()
            return await answer.json() if answer.status != 204 else None
    except (aiohttp.ClientError, TimeoutError) as fault:
        message = f"{method} {path}: {str(fault) or type(fault).__name__}"
        raise Unavailable(message) from fault
