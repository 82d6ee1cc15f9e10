"""Connections above the cap: each is answered at once, whatever it was about to ask, and hung up.

A connection that is closed with something unread is reset, and its client may never see the answer. So what it asks is
read away until it hangs up, too, for a second at most.
"""

import asyncio
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, cast

import orjson

from dispatcher.api.problems import PROBLEM_TYPE, Problem, ProblemCode

_LINGER_SECONDS: Final = 1.0
_MOST_REFUSED: Final = 200
"""Connections that are being refused at a time; each takes a file descriptor for up to a second."""


class Crowd:
    """Those who are being refused, each with `headers`. Touched between awaits only."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._refused: set[_Refused] = set()

    def refusal(self) -> asyncio.Protocol:
        """Return the protocol of a connection too many: an answer, or nothing while enough others get theirs."""
        if len(self._refused) >= _MOST_REFUSED:
            return _Dropped()
        problem = Problem(ProblemCode.UNAVAILABLE, "too many connections")
        headers = {**self._headers, **problem.headers, "X-Request-Id": f"req_{secrets.token_hex(8)}"}
        return _Refused(self._refused, _written(problem, headers))

    def send_away(self) -> None:
        """Wait for none of them any longer."""
        for one in tuple(self._refused):
            one.hang_up()


class _Refused(asyncio.Protocol):
    """A connection that gets its answer; what it says is dropped."""

    def __init__(self, others: "set[_Refused]", answer: bytes) -> None:
        self._others = others
        self._answer = answer
        self._transport: asyncio.Transport
        self._ending: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer, and say that nothing more will come."""
        self._transport = cast("asyncio.Transport", transport)
        self._others.add(self)
        self._ending = asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.hang_up)
        self._transport.write(self._answer)
        self._transport.write_eof()

    def connection_lost(self, fault: Exception | None) -> None:  # noqa: ARG002 - it is over either way
        """Make room for the next."""
        self._others.discard(self)
        self._ending.cancel()

    def hang_up(self) -> None:
        """End it, read or not."""
        self._transport.abort()


class _Dropped(asyncio.Protocol):
    """A connection for whose answer there is no room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close without a word."""
        cast("asyncio.Transport", transport).abort()


def _written(problem: Problem, headers: Mapping[str, str]) -> bytes:
    """Return a refusal as it goes over the wire, for a connection that has no server behind it."""
    body = orjson.dumps(problem.show(headers["X-Request-Id"]))
    fields = {**headers, "Content-Type": PROBLEM_TYPE, "Content-Length": str(len(body)), "Connection": "close"}
    status = HTTPStatus(problem.status)
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        *(f"{name}: {value}" for name, value in fields.items()),
        "",
        "",
    ]
    return "\r\n".join(lines).encode("ascii") + body
