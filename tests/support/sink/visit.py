"""One connection to a scripted sink: requests in, whatever the script says out."""

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Protocol

import h11
from standardwebhooks import Webhook, WebhookVerificationError

from dispatcher.kit import clock
from tests.support.sink.script import Action, Request, Signature, Step

_READ_BYTES = 65536
_HEAD_LIMIT_BYTES = 1 << 18
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Plan(Protocol):
    """What a connection asks of its sink."""

    def step_for(self, path: str) -> tuple[Step, Sequence[str]]:
        """Return the next step of a path and the secrets that may sign there."""

    def take(self, request: Request) -> None:
        """Remember a request."""

    def answer_control(self, method: str, body: bytes) -> tuple[int, bytes]:
        """Return status and JSON for a control message."""

    def next_number(self) -> int:
        """Return the number of the next request, from 1."""


class Visit:
    """A connection from its first byte to its last."""

    def __init__(
        self,
        plan: Plan,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        number: int,
        is_control: Callable[[str], bool],
    ) -> None:
        self._plan = plan
        self._reader = reader
        self._writer = writer
        self._number = number
        self._is_control = is_control
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT_BYTES)

    async def run(self) -> None:
        """Serve requests until either side has enough; the caller drops the connection."""
        while await self._serve_one():
            self._http.start_next_cycle()

    async def _serve_one(self) -> bool:
        head: h11.Request | None = None
        body = bytearray()
        try:
            while not isinstance(event := await self._next_event(), h11.EndOfMessage):
                if isinstance(event, h11.ConnectionClosed):
                    return False
                if isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
        except h11.RemoteProtocolError as fault:
            self._take_broken(head, bytes(body), str(fault))
            return False
        assert head is not None
        return await self._answer(head, bytes(body))

    async def _next_event(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_READ_BYTES))
        assert not isinstance(event, type)
        return event

    async def _answer(self, head: h11.Request, body: bytes) -> bool:
        path = head.target.decode("latin-1")
        if self._is_control(path):
            status, answer = self._plan.answer_control(head.method.decode("ascii"), body)
            return await self._send(Step(status=status, body=answer.decode()))
        step, secrets = self._plan.step_for(path)
        is_answering = step.action in (Action.ANSWER, Action.CUT, Action.DRIP)
        self._take(head, body, status=step.status if is_answering else None, secrets=secrets)
        await asyncio.sleep(step.delay_seconds)
        match step.action:
            case Action.ANSWER | Action.DRIP | Action.CUT:
                return await self._send(step)
            case Action.HANG:
                await self._reader.read()
            case Action.RESET:
                self._reset()
            case Action.RAW:
                self._writer.write(step.body.encode("latin-1"))
                await self._writer.drain()
                await self._hang_up()
            case Action.CLOSE:
                await self._hang_up()
        return False

    async def _send(self, step: Step) -> bool:
        body = step.body.encode()
        length = len(body) if step.action is not Action.CUT else max(2 * len(body), 100)
        headers = [*step.headers, ("Content-Length", str(length))]
        if step.close:
            headers.append(("Connection", "close"))
        self._write(h11.Response(status_code=step.status, headers=headers))
        if step.action is Action.CUT:
            self._write(h11.Data(data=body))
            await self._writer.drain()
            await self._hang_up()
            return False
        await self._send_body(step, body)
        self._write(h11.EndOfMessage())
        await self._writer.drain()
        if self._http.our_state is h11.MUST_CLOSE:
            await self._hang_up()
            return False
        return True

    async def _send_body(self, step: Step, body: bytes) -> None:
        if step.action is not Action.DRIP:
            self._write(h11.Data(data=body))
            return
        for at in range(len(body)):
            self._write(h11.Data(data=body[at : at + 1]))
            await self._writer.drain()
            await asyncio.sleep(step.drip_seconds)

    def _write(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        self._writer.write(self._http.send(event) or b"")

    async def _hang_up(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    def _reset(self) -> None:
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._writer.transport.abort()

    def _take(self, head: h11.Request, body: bytes, *, status: int | None, secrets: Sequence[str]) -> None:
        headers = _text_headers(head)
        self._plan.take(
            Request(
                number=self._plan.next_number(),
                at_mono=clock.mono(),
                at_unix=clock.now(),
                connection=self._number,
                method=head.method.decode("ascii"),
                path=head.target.decode("latin-1"),
                headers=headers,
                body=body,
                signature=_judge(headers, body, secrets),
                status=status,
            )
        )

    def _take_broken(self, head: h11.Request | None, body: bytes, fault: str) -> None:
        self._plan.take(
            Request(
                number=self._plan.next_number(),
                at_mono=clock.mono(),
                at_unix=clock.now(),
                connection=self._number,
                method=head.method.decode("ascii") if head else "",
                path=head.target.decode("latin-1") if head else "",
                headers=_text_headers(head) if head else (),
                body=body,
                signature="unchecked",
                status=None,
                fault=fault,
            )
        )


def _text_headers(head: h11.Request) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers.raw_items())


def _judge(headers: Sequence[tuple[str, str]], body: bytes, secrets: Sequence[str]) -> Signature:
    if not secrets:
        return "unchecked"
    return "valid" if any(_verifies(one, headers, body) for one in secrets) else "invalid"


def _verifies(secret: str, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
    try:
        Webhook(secret).verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError):
        return False
    return True
