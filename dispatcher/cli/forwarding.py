"""Forwards events to a program on this machine: signed as in production, one request for each event.

An event is known here from its arrival until everything before it has a result, too; the place behind that is where
to go on after a cut. What the server then sends again is recognized: it is not forwarded a second time, only its
result is told again.
"""

import asyncio
import base64
import hmac
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import aiohttp

from dispatcher.kit import clock
from dispatcher.kit.supervise import spawn
from dispatcher.policy.signing import Signer

ANSWER_SECONDS: Final = 5.0
"""As for any endpoint: the answer's head within five seconds of the request."""

BODY_SECONDS: Final = 2.0
CONNECT_SECONDS: Final = 3.0
_MOST_KNOWN: Final = 1_024
_DRAINED_BYTES: Final = 16_384


class Answer(NamedTuple):
    """What the local program said: a status, or the reason why there is none."""

    status: int | None
    reason: str | None
    duration_ms: int


class Flood(Exception):
    """The server sent more than any window allows."""


@dataclass(slots=True)
class Known:
    """One event from its arrival until everything up to it is answered. `seq` is its number in this session, if any."""

    event_id: str
    event_type: str
    environment: str
    body: bytes
    resume: str
    seq: int | None
    answer: Answer | None = None


class Progress:
    """Which events are known, and how far all of them are answered. `resume` is where to go on, None at first."""

    def __init__(self) -> None:
        self.resume: str | None = None
        self._order: deque[Known] = deque()
        self._by_id: dict[str, Known] = {}
        # What a session that begins while an event is answered may send once more.
        self._recent: OrderedDict[str, Answer] = OrderedDict()

    def find(self, event_id: str) -> Known | None:
        """Return an event that is still known."""
        return self._by_id.get(event_id)

    def answer_of(self, event_id: str) -> Answer | None:
        """Return what an event was answered, known still or of late."""
        known = self._by_id.get(event_id)
        return self._recent.get(event_id) if known is None else known.answer

    def begin(self, event: Known) -> None:
        """Take in an event that is not known; raises Flood beyond any window."""
        if len(self._order) >= _MOST_KNOWN:
            message = "the server sends more events than it gets results for"
            raise Flood(message)
        self._order.append(event)
        self._by_id[event.event_id] = event

    def answer(self, event: Known, answer: Answer) -> None:
        """Note an answer; events with nothing unanswered before them are done with."""
        event.answer = answer
        while self._order and (found := self._order[0].answer) is not None:
            done = self._order.popleft()
            del self._by_id[done.event_id]
            self.resume = done.resume
            self._recent[done.event_id] = found
            if len(self._recent) > _MOST_KNOWN:
                self._recent.popitem(last=False)

    def move(self, resume: str) -> None:
        """Go on from a place behind which the server has nothing for us, unless something is unanswered."""
        if not self._order:
            self.resume = resume

    def cut(self) -> None:
        """Note that a session ended: the numbers it gave mean nothing in the next one."""
        for known in self._order:
            known.seq = None


class Undelivered(Exception):
    """An event did not get through; the message says why in a few words."""


class Envelope:
    """Makes the headers of requests, signed with one secret."""

    def __init__(self, key: bytes, user_agent: str) -> None:
        self._key = key
        self._signer = Signer([key])
        self._user_agent = user_agent

    def headers(self, event: Known) -> Mapping[str, str]:
        """Return the headers of a request that is sent now."""
        stamp = b"%d" % clock.now()
        signature = self._signer.sign(event.event_id.encode(), stamp, event.body)
        return {
            "content-type": "application/json",
            "user-agent": self._user_agent,
            "accept-encoding": "identity",
            "webhook-id": event.event_id,
            "webhook-timestamp": stamp.decode(),
            "webhook-signature": signature.decode(),
            "x-webhook-event": event.event_type,
            "x-webhook-delivery": self._delivery_id(event.event_id),
            "x-webhook-attempt": "1/1",
            "x-webhook-environment": event.environment,
        }

    def _delivery_id(self, event_id: str) -> str:
        """Return an id of the form that deliveries have, one per event and secret. No dispatcher knows it."""
        digest = hmac.digest(self._key, event_id.encode(), "sha256")
        return f"dlv_{base64.b32encode(digest).decode().lower()[:13]}"


class Post:
    """Sends events to one URL."""

    def __init__(self, session: aiohttp.ClientSession, url: str, envelope: Envelope) -> None:
        self._session = session
        self._url = url
        self._envelope = envelope

    async def __call__(self, event: Known) -> int:
        """Return the status: the head decides, as in production, whatever becomes of the body."""
        headers = self._envelope.headers(event)
        timeout = aiohttp.ClientTimeout(connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS)
        async with asyncio.timeout(CONNECT_SECONDS + ANSWER_SECONDS):
            response = await self._session.post(
                self._url, data=event.body, headers=headers, allow_redirects=False, timeout=timeout
            )
        try:
            await _drain(response)
        finally:
            # Goes back to the pool when it was read to its end before.
            response.close()
        return response.status


class Forwarder:
    """Hands on events by `deliver`. `on_answer` is told every answer, `is_again` for what a key repeats."""

    def __init__(
        self, deliver: Callable[[Known], Awaitable[int]], *, on_answer: Callable[[Known, Answer, bool], None]
    ) -> None:
        self.last: Known | None = None
        self._deliver = deliver
        self._on_answer = on_answer

    async def forward(self, event: Known, *, again: bool = False) -> Answer:
        """Hand on one event and return what came of it; never raises but for cancel."""
        # From now on, not from the answer: who has the program stopped at a breakpoint may repeat it, too.
        self.last = event
        started = clock.mono()
        status = reason = None
        try:
            status = await self._deliver(event)
        except TimeoutError:
            reason = "timeout"
        except Undelivered as fault:
            reason = str(fault)
        except aiohttp.ClientConnectorError as fault:
            reason = fault.strerror or "connection failed"
        except (aiohttp.ClientError, OSError, ValueError) as fault:
            reason = type(fault).__name__
        answer = Answer(status, reason, int((clock.mono() - started) * 1_000))
        self._on_answer(event, answer, again)
        return answer


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read so much of a body that the connection may serve again; a stall or a cut is no fault of the head."""
    left = _DRAINED_BYTES
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(BODY_SECONDS):
            while left > 0 and (piece := await response.content.read(left)):
                left -= len(piece)


Send = Callable[[Mapping[str, Any]], None]


class Relay:
    """Between a session and the forwarder: outlives sessions, so that a cut interrupts no request."""

    def __init__(self, forwarder: Forwarder) -> None:
        self.progress: Final = Progress()
        self.environment = ""
        self.n_repeated = 0
        self._forwarder = forwarder
        self._send: Send | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    def join(self, send: Send) -> None:
        """Begin a session; `send` queues a frame for it."""
        self._send = send

    def cut(self) -> None:
        """End the session; what is under way goes on, and is told in the next one."""
        self._send = None
        self.progress.cut()

    def take(self, frame: Mapping[str, Any]) -> None:
        """Take an event: forward it, or tell its answer again.

        Raises:
            Flood: more than any window allows.
            LookupError, ValueError: no proper frame.
        """
        event_id, seq = frame["id"], frame["seq"]
        known = self.progress.find(event_id)
        answer = self.progress.answer_of(event_id)
        if known is None and answer is None:
            body = base64.b64decode(frame["body"], validate=True)
            known = Known(event_id, frame["event_type"], self.environment, body, frame["resume"], seq)
            self.progress.begin(known)
            self._start(self._carry(known))
            return
        self.n_repeated += 1
        if known is not None:
            known.seq = seq
        if answer is not None:
            self._tell(seq, answer)

    def repeat_last(self) -> None:
        """Forward the last event once more, with its id and a fresh signature."""
        last = self._forwarder.last
        if last is not None:
            self._start(self._again(last))

    async def aclose(self) -> None:
        """Cut what is under way."""
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = spawn(work, name="forward")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _carry(self, known: Known) -> None:
        answer = await self._forwarder.forward(known)
        self.progress.answer(known, answer)
        self._tell(known.seq, answer)

    async def _again(self, known: Known) -> None:
        await self._forwarder.forward(known, again=True)

    def _tell(self, seq: int | None, answer: Answer) -> None:
        if self._send is not None and seq is not None:
            self._send({"type": "result", "seq": seq, **_told(answer)})


def _told(answer: Answer) -> dict[str, Any]:
    told: dict[str, Any] = {"duration_ms": answer.duration_ms}
    if answer.status is not None:
        told["status"] = answer.status
    if answer.reason is not None:
        told["reason"] = answer.reason[:100]
    return told
