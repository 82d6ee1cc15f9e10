"""Every list call with every filter over HTTP, on a month of logs."""

import hashlib
import time
from collections.abc import Mapping
from itertools import cycle
from typing import Final, NamedTuple

import aiohttp

from dispatcher.model.ids import show_event_id
from tests.bench.archive import Archive, open_archive
from tests.bench.lab import Lab
from tests.support.daemon import Daemon, running

TARGET_MS: Final = 50.0
_ENDPOINT: Final = "/v1/webhook_endpoints/we_0000000000000007"
_WARM: Final = 6
"""Requests that are not counted: a connection plans a statement anew five times before it keeps the plan."""


class Listing(NamedTuple):
    """What one call took, milliseconds ascending, and how many rows its last answer held."""

    milliseconds: list[float]
    n_rows: int


def calls(event: int, days_ago: Mapping[int, str]) -> dict[str, str]:
    """Return the paths to measure by what they are; `days_ago` are instants."""
    event_id = show_event_id(_event_id(event))
    filters = {
        "": "",
        "100 rows": "limit=100",
        "from half way on": f"until={days_ago[15]}",
        "a day": f"since={days_ago[9]}&until={days_ago[8]}",
        "type": "type=verification.completed",
        "a type that is not there": "type=endpoint.*",
        "outcome": "outcome=5xx",
        "a rare outcome": "outcome=tls_error",
        "a rare outcome, half way": f"outcome=tls_error&until={days_ago[15]}",
        "test": "test=true",
        "event": f"event_id={event_id}",
        "subject": f"subject=ver_{event // 4}",
        "client reference": f"client_reference=user-{event // 8}",
        "everything": f"type=verification.*&outcome=5xx&since={days_ago[20]}&until={days_ago[10]}&test=false",
    }
    states = {
        f"status {one}": f"status={one}" for one in ("pending,retrying,held", "delivered", "exhausted", "canceled")
    }
    lists = {"deliveries": "/v1/deliveries", "endpoint's deliveries": f"{_ENDPOINT}/deliveries"}
    found = {
        f"{name}, {kind}".rstrip(", "): f"{path}?{query}"
        for name, path in lists.items()
        for kind, query in (filters | states).items()
    }
    found |= {
        f"endpoint's attempts, {kind}".rstrip(", "): f"{_ENDPOINT}/attempts?{query}" for kind, query in filters.items()
    }
    return found | {
        "events": "/v1/events?",
        "events, type": "/v1/events?type=verification.completed",
        "events, feed": "/v1/events?order=asc",
        "endpoints": "/v1/webhook_endpoints?",
        "endpoint's statistics": f"{_ENDPOINT}/stats?",
        "replays": "/v1/replays?",
        "API keys": "/v1/api_keys?",
        "audit log": "/v1/audit_log?",
    }


async def lists(lab: Lab, *, n_deliveries: int, n_attempts: int, n_requests: int) -> tuple[Archive, dict[str, Listing]]:
    """Fill an archive, serve it with a process of its own, and measure each call one request at a time."""
    async with open_archive(lab, n_deliveries=n_deliveries, n_attempts=n_attempts) as archive:
        settings = lab.settings("none", DATABASE__URL=archive.url)
        daemon = Daemon(lab.folder, settings, ("--roles", "api"), name="lists")
        async with running(daemon), aiohttp.ClientSession(daemon.ready["api_url"]) as client:
            found = await _measure(client, archive, calls(archive.event, _days_ago()), n_requests)
            await archive.fill_last_minute()
            found |= await _measure(client, archive, {"attempts, live": "/v1/attempts?"}, n_requests)
            await daemon.stop()
        return archive, found


def _days_ago() -> dict[int, str]:
    now = time.time()
    return {n: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - n * 86_400)) for n in range(31)}


async def _measure(
    client: aiohttp.ClientSession, archive: Archive, paths: Mapping[str, str], n_requests: int
) -> dict[str, Listing]:
    keys = cycle(archive.keys)
    found = {}
    for name, path in paths.items():
        took, n_rows = [], 0
        for _ in range(_WARM + n_requests):
            began = time.monotonic()
            async with client.get(path, headers={"Authorization": f"Bearer {next(keys)}"}) as answer:
                shown = await answer.json()
            took.append((time.monotonic() - began) * 1_000)
            assert answer.status == 200, shown
            n_rows = len(shown.get("data", ()))
        found[name] = Listing(sorted(took[_WARM:]), n_rows)
    return found


def _event_id(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()[:20]
