"""What a sink is told to do, and what it remembers."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

Signature = Literal["valid", "invalid", "unchecked"]


class Action(StrEnum):
    """What a step does once its delay is over."""

    ANSWER = "answer"
    """Send status, headers and body."""
    HANG = "hang"
    """Say nothing until the client leaves."""
    RESET = "reset"
    """Abort the connection (RST) without an answer."""
    CLOSE = "close"
    """Close the connection (FIN) without an answer."""
    CUT = "cut"
    """Send head and half of the body, then close."""
    DRIP = "drip"
    """Send the head, then the body byte by byte, `drip_seconds` apart."""
    RAW = "raw"
    """Send `body` as it is, in place of an HTTP answer, then close."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do with one request. `close` ends the connection after the answer."""

    status: int = 200
    action: Action = Action.ANSWER
    delay_seconds: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    drip_seconds: float = 0.1
    close: bool = False

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Step":
        """Build a step from a control message; unknown names raise TypeError."""
        fields["action"] = Action(fields.get("action", "answer"))
        fields["headers"] = tuple((name, value) for name, value in fields.get("headers", ()))
        return cls(**fields)


OK = Step()


def throttled(retry_after: str) -> Step:
    """Return a step that answers 429 with Retry-After."""
    return Step(status=429, headers=(("Retry-After", retry_after),))


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came. `at_mono` is the system's monotonic clock, equal in all processes.

    `connection` numbers the connections from 1. `status` is what the script is about to answer,
    None when it does not. `fault` names a breach of HTTP; then the rest is what was read of it.
    """

    number: int
    at_mono: float
    at_unix: float
    connection: int
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    signature: Signature
    status: int | None
    fault: str = ""

    def header(self, name: str) -> str | None:
        """Return the first header of that name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def to_json(self) -> dict[str, Any]:
        """Return the log line: everything, the body as text with its SHA-256."""
        return {
            "number": self.number,
            "at_mono": self.at_mono,
            "at_unix": self.at_unix,
            "connection": self.connection,
            "method": self.method,
            "path": self.path,
            "headers": dict(self.headers),
            "body": self.body.decode("utf-8", "backslashreplace"),
            "body_sha256": hashlib.sha256(self.body).hexdigest(),
            "signature": self.signature,
            "status": self.status,
            "fault": self.fault,
        }
