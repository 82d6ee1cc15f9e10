"""The listening end of `GET /v1/listen`: connects, comes back after every cut, and loses nothing on the way."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from dispatcher.cli.client import Profile
from dispatcher.cli.forwarding import Flood, Relay
from dispatcher.cli.refusals import CallFailed, told
from dispatcher.cli.table import plain

PROTOCOL: Final = "dispatcher.listen.v1"
_HEARTBEAT_SECONDS: Final = 15.0
_CONNECT_SECONDS: Final = 10.0
_FIRST_SECONDS, _MOST_SECONDS = 0.25, 30.0
_MOST_WAITING: Final = 2_048
_KEY_REVOKED: Final = 4401
_chance = random.Random()  # noqa: S311 - spreads load, keeps no secret

_CODES: Final[Mapping[int, str]] = {
    401: "unauthorized",
    403: "missing_scope",
    404: "not_found",
    429: "too_many_requests",
}
_TITLES: Final[Mapping[int, str]] = {
    401: "A valid API key is needed",
    403: "The API key may not listen: it lacks the scope listen, or it is an operator's",
    404: "This API has no listeners; its dispatcher may be older than this program",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What to listen to."""

    events: Sequence[str]
    replay_last: int
    window: int
    since: str | None = None


class Listener:
    """Listens until it is canceled. `say` is told in words when it connects and when it is cut."""

    def __init__(
        self, session: aiohttp.ClientSession, who: Profile, wish: Wish, relay: Relay, *, say: Callable[[str], None]
    ) -> None:
        self.n_sessions = 0
        self._session = session
        self._who = who
        self._wish = wish
        self._relay = relay
        self._say = say
        self._failures = 0

    async def run(self) -> None:
        """Listen, and connect again after every cut.

        Raises:
            CallFailed: the API refuses us, and would refuse us again.
        """
        while True:
            try:
                await self._session_once()
                why = "closed"
            except (aiohttp.ClientError, OSError, Flood, LookupError, ValueError, TypeError) as fault:
                if isinstance(fault, aiohttp.WSServerHandshakeError) and fault.status in _CODES:
                    raise _refusal(fault.status, self._who.source) from fault
                why = str(fault) or type(fault).__name__
            wait = self._wait()
            self._say(f"the connection was cut ({plain(why)}); again in {wait:.1f} s")
            await asyncio.sleep(wait)

    def _wait(self) -> float:
        """Return how long to wait: up to 0.25 s after the first failure in a row, doubling up to 30 s."""
        most = min(_MOST_SECONDS, _FIRST_SECONDS * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        return _chance.uniform(0, most)

    async def _session_once(self) -> None:
        headers = {"authorization": f"Bearer {self._who.api_key}"}
        url = f"{self._who.api_url}/v1/listen"
        async with asyncio.timeout(_CONNECT_SECONDS):
            socket = await self._session.ws_connect(
                url, headers=headers, protocols=(PROTOCOL,), heartbeat=_HEARTBEAT_SECONDS, max_msg_size=0
            )
        outgoing: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(_MOST_WAITING)
        try:
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(_write(socket, outgoing), name="listen-write")
                outgoing.put_nowait(self._hello())
                self._relay.join(outgoing.put_nowait)
                await self._read(socket)
                writing.cancel()
        except BaseExceptionGroup as faults:
            raise _first(faults) from faults
        finally:
            self._relay.cut()
            with suppress(aiohttp.ClientError, OSError):
                await socket.close()

    def _hello(self) -> dict[str, Any]:
        hello: dict[str, Any] = {"type": "hello", "events": list(self._wish.events), "window": self._wish.window}
        resume = self._relay.progress.resume
        if resume is not None:
            return {**hello, "after": resume}
        if self._wish.since is not None:
            return {**hello, "since": self._wish.since}
        return {**hello, "replay_last": self._wish.replay_last}

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                self._take(orjson.loads(message.data))
        if socket.close_code == _KEY_REVOKED:
            raise _refusal(401, self._who.source)

    def _take(self, frame: Mapping[str, Any]) -> None:
        match frame.get("type"):
            case "event":
                self._relay.take(frame)
            case "at":
                self._relay.progress.move(frame["resume"])
            case "ready":
                self.n_sessions += 1
                self._failures = 0
                self._relay.environment = frame["environment"]
                self._relay.progress.move(frame["resume"])
                self._say("listening" if self.n_sessions == 1 else "listening again, nothing was lost")
            case "refused":
                problem = frame["problem"]
                raise told(problem["status"], {}, orjson.dumps(problem), self._who.source)
            case _:
                # A newer server may say more than we know.
                return


async def _write(socket: aiohttp.ClientWebSocketResponse, outgoing: asyncio.Queue[Mapping[str, Any]]) -> None:
    while True:
        await socket.send_str(orjson.dumps(await outgoing.get()).decode())


def _refusal(status: int, source: str) -> CallFailed:
    problem = {"title": _TITLES.get(status, "The API refuses"), "code": _CODES.get(status, "refused")}
    return told(status, {}, orjson.dumps(problem), source)


def _first(fault: BaseException) -> BaseException:
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault
