"""`GET /v1/listen`: an account's events over a WebSocket, for a program that forwards them to its own machine.

    client                                   server
    hello {after, since, replay_last, events} -->
                                       <--   ready {resume}
                                       <--   event {seq, resume, id, event_type, body}      at most `window` open ones
    result {seq, status, duration_ms}  -->
                                       <--   at {resume}                  nothing for you, but the feed has moved on

The feed's place is the resume token: the client keeps the `resume` behind which it has results for everything, and
comes back with it as `after`; the server goes on from there and keeps nothing. So a cut loses no event, and the server
may be another process the next time. Nothing is signed here: the client owns the secret, which never travels.

Close codes: 1012 come again (this process ends), 1013 come again later, 4400 not our language, 4401 the key was
revoked, 4429 too slow.
"""

import asyncio
import base64
import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
import structlog
from aiohttp import WSCloseCode, WSMsgType, web
from pydantic import AfterValidator, AwareDatetime, Field, ValidationError

from dispatcher.api.call import Call, Takeover
from dispatcher.api.cursors import LONGEST_CURSOR
from dispatcher.api.models import Incoming
from dispatcher.api.problems import Fault, Problem, ProblemCode, refused
from dispatcher.ledger.feeds import FeedLedger
from dispatcher.ledger.keys import KeyLedger
from dispatcher.ledger.logs import EventPlace
from dispatcher.model.errors import Unavailable
from dispatcher.model.ids import show_event_id

_log = structlog.get_logger("api")

PROTOCOL: Final = "dispatcher.listen.v1"
HEARTBEAT_SECONDS: Final = 15.0
BAD_FRAME: Final = 4400
KEY_REVOKED: Final = 4401
REFUSED: Final = 4422
TOO_SLOW: Final = 4429

_HELLO_SECONDS: Final = 10.0
_SEND_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 2.0
"""How long a client may take to agree to an end: a process that ends waits for all of them."""
_POLL_SECONDS: Final = 0.25
_KEY_SECONDS: Final = 15.0
_STRETCH: Final = 100
_LONGEST_FRAME: Final = 65_536


Frame = TypeVar("Frame", bound=Incoming)


def _in_utc(moment: dt.datetime) -> dt.datetime:
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError as fault:
        message = "no calendar has this moment"
        raise ValueError(message) from fault


class Hello(Incoming):
    """The first frame. `after` is an earlier `resume`.

    Else the feed begins with what came in `since`, or `replay_last` events before its end.
    """

    type: Literal["hello"]
    after: Annotated[str, Field(min_length=1, max_length=LONGEST_CURSOR)] | None = None
    since: Annotated[AwareDatetime, AfterValidator(_in_utc)] | None = None
    replay_last: Annotated[int, Field(ge=0, le=100)] = 0
    events: Annotated[list[str], Field(min_length=1, max_length=40)]
    window: Annotated[int, Field(ge=1, le=256)] = 32


class Result(Incoming):
    """What became of one event at the client: the status it was answered with, or the reason why it was not."""

    type: Literal["result"]
    seq: int
    status: Annotated[int, Field(ge=100, le=999)] | None = None
    reason: Annotated[str, Field(max_length=100)] | None = None
    duration_ms: Annotated[int, Field(ge=0, le=3_600_000)]


class _Ended(Exception):
    """The session is over; the close frame says why."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


async def listen(call: Call) -> Takeover:
    """Let the caller listen."""
    if not call.services.listeners.has_room(call.tenant):
        raise Problem(ProblemCode.UNAVAILABLE, "too many listen already; end one first")
    return Takeover(lambda request: _take(call, request))


async def _take(call: Call, request: web.BaseRequest) -> web.StreamResponse:
    socket = web.WebSocketResponse(
        protocols=(PROTOCOL,),
        heartbeat=HEARTBEAT_SECONDS,
        max_msg_size=_LONGEST_FRAME,
        compress=False,
        timeout=_CLOSE_SECONDS,
    )
    if not socket.can_prepare(request):
        raise Problem(ProblemCode.MALFORMED_REQUEST, f"this is a WebSocket of the protocol {PROTOCOL}")
    await socket.prepare(request)
    session = Session(call, socket)

    async def leave() -> None:
        await socket.close(code=WSCloseCode.SERVICE_RESTART, message=b"this process ends; come again")

    with call.services.listeners.joined(call.tenant, leave):
        await session.run()
    return socket


class Session:
    """One client, from its hello to its end."""

    def __init__(self, call: Call, socket: web.WebSocketResponse) -> None:
        self._call = call
        self._socket = socket
        self._feed = FeedLedger(call.services.pool)
        self._keys = KeyLedger(call.services.pool)
        self._cursors = call.cursors("listen")
        # The reader takes results away, the writer adds what it sends; never across an await.
        self._open: dict[int, bytes] = {}
        self._moved = asyncio.Event()
        self._sent = self._failed = 0

    async def run(self) -> None:
        """Speak until one side ends it; never raises but for cancel."""
        code, why = int(WSCloseCode.OK), ""
        try:
            await self._speak()
        except* _Ended as group:
            ended = _first(group)
            assert isinstance(ended, _Ended)
            code, why = ended.code, str(ended)
        except* Unavailable:
            code, why = int(WSCloseCode.TRY_AGAIN_LATER), "come again shortly"
        except* (ConnectionError, TimeoutError):
            code, why = TOO_SLOW, "frames are not taken"
        except* Exception as group:  # noqa: BLE001 - the boundary: a bug in one session ends that session only
            fault = _first(group)
            code, why = int(WSCloseCode.INTERNAL_ERROR), "a fault on our side"
            _log.error("api_request_failed", request_id=None, fault=type(fault).__name__, place=__name__)
        finally:
            await self._socket.close(code=code, message=why.encode()[:120])
            bearer = self._call.bearer
            _log.info(
                "listener_left",
                key_id=bearer.key_id,
                account_id=bearer.account,
                events=self._sent,
                failures=self._failed,
                code=self._socket.close_code or code,
            )

    async def _speak(self) -> None:
        hello = await self._hello()
        try:
            types = self._types(hello.events)
            place = await self._start(hello, types)
        except Problem as problem:
            await self._send({"type": "refused", "problem": problem.show("")})
            raise _Ended(REFUSED, problem.code) from problem
        bearer = self._call.bearer
        _log.info("listener_joined", key_id=bearer.key_id, account_id=bearer.account, resumed=hello.after is not None)
        environment = self._call.tenant.environment
        await self._send({"type": "ready", "resume": self._cursors.show(place), "environment": environment})
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._write(place, types, hello.window), name="listen-write"),
                group.create_task(self._watch_key(), name="listen-key"),
            ]
            await self._read()
            for task in tasks:
                task.cancel()

    async def _hello(self) -> Hello:
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                message = await self._socket.receive()
        except TimeoutError as fault:
            raise _Ended(BAD_FRAME, "no hello came") from fault
        if message.type is not WSMsgType.TEXT:
            raise _Ended(BAD_FRAME, "say hello in text")
        return _parse(Hello, message.data)

    def _types(self, events: Sequence[str]) -> list[str]:
        """Return the wanted types; raise Problem for a name that does not exist."""
        catalogue = self._call.services.catalogue
        faults = [
            Fault("/events", "unknown_event_type", f"no such type; nearest: {', '.join(one.nearest)}", one.nearest)
            for one in catalogue.check_subscription(events)
        ]
        if faults:
            raise refused(faults)
        return list(catalogue.expand(events))

    async def _start(self, hello: Hello, types: Sequence[str]) -> EventPlace:
        if hello.after is not None:
            return EventPlace(*self._cursors.read(hello.after, 2))
        if hello.since is not None:
            return await self._feed.since(self._call.tenant, hello.since)
        if hello.replay_last:
            return await self._feed.before_last(self._call.tenant, hello.replay_last, types=types)
        return await self._feed.end(self._call.tenant)

    async def _write(self, place: EventPlace, types: list[str], window: int) -> None:
        """Send the feed from `place` on, at most `window` events without a result."""
        told = place
        while True:
            await self._until_room(window)
            found = await self._feed.after(self._call.tenant, place, types=types, limit=_STRETCH)
            for event in found:
                if event.body is not None:
                    if len(self._open) >= window:
                        break
                    await self._offer(event.place, event.event_id, event.event_type, event.body)
                    told = event.place
                place = event.place
            if not self._open and told != place:
                await self._send({"type": "at", "resume": self._cursors.show(place)})
                told = place
            if len(found) < _STRETCH:
                await asyncio.sleep(_POLL_SECONDS)

    async def _until_room(self, window: int) -> None:
        """Wait while the window is full, then until half of it is free: each look reads a stretch of events."""
        if len(self._open) < window:
            return
        while len(self._open) > window // 2:
            self._moved.clear()
            await self._moved.wait()

    async def _offer(self, place: EventPlace, event_id: bytes, event_type: str, body: bytes) -> None:
        self._sent += 1
        self._open[self._sent] = event_id
        await self._send(self._shown(place, event_id, event_type, body))

    def _shown(self, place: EventPlace, event_id: bytes, event_type: str, body: bytes) -> dict[str, Any]:
        return {
            "type": "event",
            "seq": self._sent,
            "resume": self._cursors.show(place),
            "id": show_event_id(event_id),
            "event_type": event_type,
            "body": base64.b64encode(body).decode("ascii"),
        }

    async def _read(self) -> None:
        """Take results until the client ends the session."""
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                raise _Ended(BAD_FRAME, "speak in text")
            result = _parse(Result, message.data)
            event_id = self._open.pop(result.seq, None)
            if event_id is None:
                raise _Ended(BAD_FRAME, "a result for nothing")
            self._moved.set()
            self._failed += result.status is None or not 200 <= result.status < 300
            _log.info(
                "listener_answered",
                account_id=self._call.bearer.account,
                event_id=show_event_id(event_id),
                status=result.status,
                reason=result.reason,
                duration_seconds=result.duration_ms / 1_000,
            )

    async def _watch_key(self) -> None:
        """End the session soon after its key was revoked."""
        while True:
            await asyncio.sleep(_KEY_SECONDS)
            if await self._keys.find(self._call.bearer.key_id) is None:
                raise _Ended(KEY_REVOKED, "the key was revoked")

    async def _send(self, frame: dict[str, Any]) -> None:
        async with asyncio.timeout(_SEND_SECONDS):
            await self._socket.send_str(orjson.dumps(frame).decode())


def _first(fault: BaseException) -> BaseException:
    """Return the first exception of a group, however deep."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


def _parse(model: type[Frame], text: str) -> Frame:
    try:
        return model.model_validate_json(text)
    except ValidationError as fault:
        raise _Ended(BAD_FRAME, f"not a {model.__name__.lower()}") from fault
