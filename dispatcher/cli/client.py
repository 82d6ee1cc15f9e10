"""Where the running dispatcher is, and a small client of its API.

Commands find it in this order: options, the environment (`DISPATCHER_API_URL`, `DISPATCHER_API_KEY`), the file
`ready.json` that an embedded dispatcher keeps in its data directory.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from dispatcher.model.errors import DispatcherError

_TIMEOUT_SECONDS: Final = 15
_PAGE: Final = 100


class CallFailed(DispatcherError):
    """The API refused a call or cannot be reached; the message is for the person at the terminal."""


class Environment(StrEnum):
    """Which of the embedded dispatcher's two keys to use."""

    LIVE = "live"
    TEST = "test"


ApiUrlOption = Annotated[
    str | None, typer.Option("--api-url", envvar="DISPATCHER_API_URL", help="Where the API is.", show_default=False)
]
ApiKeyOption = Annotated[
    str | None, typer.Option("--api-key", envvar="DISPATCHER_API_KEY", help="Key to call it with.", show_default=False)
]
EnvironmentOption = Annotated[
    Environment, typer.Option("--env", help="Environment, where the key comes from the ready file.")
]


@dataclass(frozen=True, slots=True)
class Profile:
    """Which API to call, and as whom."""

    api_url: str
    api_key: str


def ready_file() -> Path:
    """Return where an embedded dispatcher says how it can be reached."""
    return Path(os.environ.get("DISPATCHER_DATA_DIR", ".dispatcher")) / "ready.json"


def read_ready_file() -> dict[str, Any] | None:
    """Return what the embedded dispatcher of this data directory says of itself; None when there is none."""
    try:
        found: dict[str, Any] = orjson.loads(ready_file().read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return found


def profile(api_url: str | None, api_key: str | None, environment: Environment) -> Profile:
    """Put together which API to call.

    Raises:
        CallFailed: no address or no key can be found.
    """
    ready = read_ready_file() or {}
    url = api_url or ready.get("api_url")
    key = api_key or ready.get("api_keys", {}).get(environment.value)
    if url is None or key is None:
        message = (
            f"no dispatcher is known: start one with `dispatcher run --embedded` (it writes {ready_file()}), "
            "or give --api-url and --api-key"
        )
        raise CallFailed(message)
    return Profile(url.rstrip("/"), key)


def call(who: Profile, method: str, path: str, body: object = None) -> Any:
    """Make one call and return the decoded answer, None when it is empty.

    Raises:
        CallFailed: refused or unreachable; the message holds the problem's title, detail and faulty fields.
    """
    return asyncio.run(_call(who, method, path, body))


def collect(who: Profile, path: str, query: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
    """Read up to `limit` items of a list call, page by page, in the API's order."""
    return asyncio.run(_collect(who, path, query, limit))


async def _collect(who: Profile, path: str, query: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    async for page in _pages(who, path, query, limit):
        items.extend(page)
        if len(items) >= limit:
            break
    return items[:limit]


async def _pages(who: Profile, path: str, query: Mapping[str, Any], limit: int) -> AsyncIterator[list[dict[str, Any]]]:
    from urllib.parse import urlencode

    asked = {name: value for name, value in query.items() if value is not None}
    asked["limit"] = min(limit, _PAGE)
    while True:
        answer = await _call(who, "GET", f"{path}?{urlencode(asked)}", None)
        yield answer["data"]
        if answer["next"] is None:
            return
        asked["after"] = answer["next"]


async def _call(who: Profile, method: str, path: str, body: object) -> Any:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
    headers = {"authorization": f"Bearer {who.api_key}"}
    data = None
    if body is not None:
        headers["content-type"] = "application/json"
        data = orjson.dumps(body)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, who.api_url + path, headers=headers, data=data) as response,
        ):
            text = await response.read()
    except (aiohttp.ClientError, TimeoutError) as fault:
        message = f"{who.api_url} does not answer ({type(fault).__name__}); is the dispatcher running?"
        raise CallFailed(message) from fault
    if response.status >= 400:
        raise CallFailed(_problem(response.status, text))
    try:
        return orjson.loads(text) if text else None
    except orjson.JSONDecodeError as fault:
        message = f"{who.api_url} answers, but not like a dispatcher; is this the address of the API?"
        raise CallFailed(message) from fault


def _problem(status: int, text: bytes) -> str:
    try:
        problem = orjson.loads(text)
        lines = [f"{problem['title']} ({status}, {problem['code']})"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"the API answered {status}"
    if problem.get("detail"):
        lines.append(f"  {problem['detail']}")
    lines.extend(f"  {fault.get('pointer', '')}: {fault.get('message', '')}" for fault in problem.get("errors", []))
    return "\n".join(lines)
