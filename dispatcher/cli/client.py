"""Which API to call and as whom, and a small client of it that fails in words.

Address and key are looked for, in this order: options, the profile that `--profile` names, the environment
(`DISPATCHER_API_URL`, `DISPATCHER_API_KEY`, `DISPATCHER_PROFILE`), the file `ready.json` that an embedded dispatcher
keeps in its data directory, the profile in use. A key is never sent to an address that it was not kept with: one that
was typed or stands in the environment needs its address from there, too. Else a folder that somebody else made would
name the address that a production key goes to.
"""

import http.client
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, NamedTuple, Self
from urllib.parse import quote, urlencode, urlsplit

import orjson
import typer

from dispatcher.cli import profile_file
from dispatcher.cli.own_files import read_own
from dispatcher.cli.refusals import CallFailed, told

_TIMEOUT_SECONDS: Final = 15
_PAGE: Final = 100
_READY: Final = {
    **dict.fromkeys(("api_url", "kafka_bootstrap", "account_id", "database_url"), str | None),
    "api_keys": dict | None,
    "topics": list | None,
}
"""Members of `ready.json` that commands rely on; somebody may have edited it, or another program written it."""

_PATIENCE: Final = 3
_LONGEST_WAIT_SECONDS: Final = 10
"""How often, and for how long at a time, a patient call waits where the API counts calls."""


class Environment(StrEnum):
    """The two environments; every key belongs to one."""

    LIVE = "live"
    TEST = "test"


def _unless_profile(ctx: typer.Context, option: typer.CallbackParam, value: str | None) -> str | None:
    """Return an address or key; None for one of the environment beside a profile that was typed."""
    named, found = ctx.get_parameter_source("profile_name"), ctx.get_parameter_source(option.name or "")
    is_beaten = named is not None and named.name == "COMMANDLINE" and found is not None and found.name == "ENVIRONMENT"
    return None if is_beaten else value


ApiUrlOption = Annotated[
    str | None,
    typer.Option(
        "--api-url",
        envvar="DISPATCHER_API_URL",
        help="Where the API is.",
        show_default=False,
        callback=_unless_profile,
    ),
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="DISPATCHER_API_KEY",
        help="Key to call it with; goes with --api-url.",
        show_default=False,
        callback=_unless_profile,
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        envvar="DISPATCHER_PROFILE",
        help="Kept address and key to use.",
        show_default=False,
        # Before address and key, which it beats.
        is_eager=True,
    ),
]
EnvironmentOption = Annotated[
    Environment | None,
    typer.Option("--env", help="Which of an embedded dispatcher's two keys; test by itself.", show_default=False),
]


@dataclass(frozen=True, slots=True)
class Profile:
    """Which API to call, and as whom: nobody with an empty key. `source` says in words where the key was found."""

    api_url: str
    api_key: str = field(repr=False)
    source: str = "--api-key"

    @property
    def environment(self) -> Environment | None:
        """Return the environment that the key's text names; None for an operator's key."""
        kind = self.api_key.split("_")[1:2]
        return next((one for one in Environment if [one.value] == kind), None)

    @property
    def is_operators(self) -> bool:
        """Tell whether the key's text says that it is an operator's."""
        return self.api_key.startswith("whd_op_")


def ready_file() -> Path:
    """Return where an embedded dispatcher says how it can be reached."""
    return Path(os.environ.get("DISPATCHER_DATA_DIR", ".dispatcher")) / "ready.json"


def read_ready_file() -> dict[str, Any] | None:
    """Return what the embedded dispatcher of this data directory says of itself; None when there is nothing usable.

    Raises:
        StrangersFile: somebody else can have written it.
    """
    try:
        found = orjson.loads(read_own(ready_file()))
    except (OSError, orjson.JSONDecodeError):
        return None
    is_sound = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in _READY.items())
    return found if is_sound else None


def profile(
    api_url: str | None, api_key: str | None, name: str | None = None, environment: Environment | None = None
) -> Profile:
    """Put together which API to call.

    Raises:
        DispatcherError: no address or no key can be found, or the key is another environment's.
    """
    given = api_url and api_url.rstrip("/")
    found = Profile(given, api_key) if given and api_key else _fitting(_kept(name, environment), given, api_key)
    if environment is not None and found.environment not in (None, environment):
        message = f"--env {environment} is asked for, but the key from {found.source} is for {found.environment}"
        raise CallFailed(message)
    return found


def _fitting(kept: Profile | None, api_url: str | None, api_key: str | None) -> Profile:
    """Return what was kept, when it is what is given: an address or a key, or neither."""
    if kept is not None and api_url in (None, kept.api_url) and api_key in (None, kept.api_key):
        return kept
    if api_key is not None:
        where = "" if kept is None else f" It was not kept with {kept.api_url}, which {kept.source} names."
        message = (
            f"the key from --api-key or DISPATCHER_API_KEY goes to no address but its own.{where} "
            "Say which API it is for: --api-url or DISPATCHER_API_URL"
        )
    elif api_url is not None:
        message = (
            f"no key is known for {api_url}: give --api-key, or keep one with `dispatcher login --api-url {api_url}`"
        )
    else:
        message = (
            f"no dispatcher is known: start one with `dispatcher run --embedded` (it writes {ready_file()}), "
            "keep one with `dispatcher login --api-url URL`, or give --api-url and --api-key"
        )
    raise CallFailed(message)


def _kept(name: str | None, environment: Environment | None) -> Profile | None:
    """Return the nearest address and key that were kept somewhere."""
    ready = read_ready_file() or {}
    key = (ready.get("api_keys") or {}).get((environment or Environment.TEST).value)
    if name is None and key is not None and ready.get("api_url"):
        return Profile(ready["api_url"].rstrip("/"), key, str(ready_file()))
    profiles = profile_file.read()
    name = name or profiles.current
    if name is None:
        return None
    one = profiles.find(name)
    return Profile(one.api_url.rstrip("/"), one.api_key, f"the profile {name}")


def path_to(*segments: object) -> str:
    """Return the path of a thing below `/v1`: what a person typed is one segment of it, whatever it holds.

    A usage error for what no path can hold as a segment: servers take dots away, encoded ones too.
    """
    for one in segments:
        if one in {"", ".", ".."}:
            message = f"{str(one)!r} is no id"
            raise typer.BadParameter(message)
    return "/".join(["/v1", *(quote(str(one), safe="", errors="surrogateescape") for one in segments)])


class Page(NamedTuple):
    """A page of a list. `is_last`: nothing more is read; `searched_to`: how far back it looked, None if not told."""

    rows: list[dict[str, Any]]
    is_last: bool
    searched_to: str | None


class Api:
    """The API as one caller sees it, over one connection that is kept open. Enter it; blocks; one thread."""

    def __init__(self, who: Profile) -> None:
        self.who: Final = who
        self._connection: http.client.HTTPConnection | None = None
        self._prefix = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def get(self, path: str, **query: Any) -> Any:
        """Read something, patiently. Query parameters that are None are left out. Errors as `call`."""
        given = {name: value for name, value in query.items() if value is not None}
        asked = urlencode(given, doseq=True, errors="surrogateescape")
        return self.patiently("GET", f"{path}?{asked}" if asked else path)

    def patiently(self, method: str, path: str, body: object = None) -> Any:
        """Make one call; an API that says "slow down" has done nothing yet, and is obeyed for some seconds.

        Errors as `call`.
        """
        for _ in range(_PATIENCE):
            try:
                return self.call(method, path, body)
            except CallFailed as fault:
                if fault.retry_after is None or fault.retry_after > _LONGEST_WAIT_SECONDS:
                    raise
                time.sleep(fault.retry_after)
        return self.call(method, path, body)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Make one call and return the decoded answer, None when it is empty.

        Raises:
            CallFailed: refused or unreachable; the message says what was wrong and what to do. An unreachable API
                may have heard the call all the same.
        """
        status, headers, text = self.exchange(method, path, body)
        if status >= 400:
            raise told(status, headers, text, self.who.source)
        try:
            answer = orjson.loads(text) if text else None
        except orjson.JSONDecodeError as fault:
            raise self._stranger() from fault
        if not isinstance(answer, dict | None):
            raise self._stranger()
        return answer

    def exchange(self, method: str, path: str, body: object = None) -> tuple[int, Mapping[str, str], bytes]:
        """Make one call and return status, headers by lower-case name, and body, whatever they are.

        Raises:
            CallFailed: unreachable.
        """
        headers = {"authorization": f"Bearer {self.who.api_key}"} if self.who.api_key else {}
        data = None
        if body is not None:
            headers["content-type"] = "application/json"
            data = _written(body)
        was_open = self._connection is not None
        try:
            return self._once(method, path, data, headers)
        except (OSError, http.client.HTTPException, ValueError) as fault:
            self._close()
            if was_open and method == "GET" and isinstance(fault, OSError | http.client.HTTPException):
                # A kept connection that the other side closed meanwhile says nothing about the API.
                return self.exchange(method, path, body)
            raise self._unreachable(fault) from fault

    def pages(self, path: str, limit: int | None, **query: Any) -> Iterator[Page]:
        """Give the pages of a list in the API's order, `limit` items in all; None gives everything."""
        after, left = None, limit
        while True:
            answer = self.get(path, **query, limit=_PAGE if left is None else min(left, _PAGE), after=after)
            page = (answer or {}).get("data")
            if not isinstance(page, list) or not all(isinstance(row, dict) for row in page):
                raise self._stranger()
            after = answer.get("next")
            left = None if left is None else left - len(page)
            is_last = after is None or (left is not None and left <= 0)
            yield Page(page, is_last, answer.get("searched_to"))
            if is_last:
                return

    def rows(self, path: str, limit: int | None, **query: Any) -> Iterator[dict[str, Any]]:
        """Give the items of a list one by one, read page by page as they are wanted; see `pages`."""
        for page in self.pages(path, limit, **query):
            yield from page.rows

    def _once(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection = self._connect()
        connection.request(method, self._prefix + path, body=data, headers=headers)
        response = connection.getresponse()
        text = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        return response.status, found, text

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            parts = urlsplit(self.who.api_url)
            kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
            kind = kinds.get(parts.scheme)
            if kind is None or not parts.hostname:
                message = "an address begins with http:// or https:// and a host"
                raise ValueError(message)
            self._prefix = parts.path
            self._connection = kind(parts.hostname, parts.port, timeout=_TIMEOUT_SECONDS)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _stranger(self) -> CallFailed:
        return CallFailed(f"{self.who.api_url} answers, but not like a dispatcher; is this the address of the API?")

    def _unreachable(self, fault: BaseException) -> CallFailed:
        url = self.who.api_url
        if isinstance(fault, ValueError):
            return CallFailed(f"{url} is no address of an API: {fault}")
        reason = getattr(fault, "strerror", None) or str(fault) or type(fault).__name__
        return CallFailed(
            f"{url} does not answer ({reason}); is the dispatcher running?\n"
            "  Start one here with `dispatcher run --embedded`, or say where it is with --api-url; "
            "`dispatcher doctor` looks closer."
        )


def _written(body: object) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as fault:
        message = f"what was typed cannot be written as JSON: {fault}"
        raise CallFailed(message) from fault
