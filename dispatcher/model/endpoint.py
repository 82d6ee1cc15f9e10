"""An endpoint as the sender sees it: everything one attempt needs, secrets opened."""

import datetime as dt
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class EndpointStatus(StrEnum):
    """Whether an endpoint gets requests. Paused and disabled ones hold their events. Closed."""

    ENABLED = "enabled"
    PAUSED = "paused"
    DISABLED = "disabled"
    DELETED = "deleted"


class HealthState(StrEnum):
    """What an endpoint's attempts say about it. Derived, never stored. Closed."""

    OK = "ok"
    UNVERIFIED = "unverified"
    """No 2xx so far."""
    FAILING = "failing"
    """At least three failures in a row, the first of them an hour ago or longer."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One secret. `key` is the raw HMAC key and never appears in a repr; from `end_mono` on it signs no more."""

    key_id: int
    key: bytes = field(repr=False)
    end_mono: float = math.inf


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how to send to one endpoint: the directory's answer.

    `authority` is the host (`scheme://name:port`); `path` is the request target with its query.
    `keys` are the live secrets, newest first, never empty. `headers` are the customer's own.
    `schedule` is the seconds before each attempt, the first usually 0; its length is the limit.
    """

    endpoint_id: int
    public_id: str
    account: str
    environment: str
    status: EndpointStatus
    host_id: int
    scheme: str
    hostname: str
    port: int
    path: str
    keys: tuple[SigningKey, ...]
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    schedule: tuple[float, ...]
    is_verified: bool
    rate_limit: float | None = None
    """Requests per second of its own, below the host's."""
    key_ids: tuple[int, ...] = field(init=False, repr=False)
    end_mono: float = field(init=False, repr=False)
    """When the first of its secrets ends."""

    def __post_init__(self) -> None:
        # Every attempt asks for them.
        object.__setattr__(self, "key_ids", tuple(key.key_id for key in self.keys))
        object.__setattr__(self, "end_mono", min((key.end_mono for key in self.keys), default=math.inf))

    @property
    def authority(self) -> str:
        """Return the host as rate limits know it."""
        name = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return f"{self.scheme}://{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class HostLimits:
    """What one host accepts, over all replicas: requests per second, burst, requests in flight."""

    rate: float
    burst: int
    in_flight: int


class SealedKey(NamedTuple):
    """One secret as it is stored. `expires_at` None: until another takes its place."""

    key_id: int
    sealed: bytes
    expires_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class SealedTarget:
    """One endpoint's row: where to send, how fast, and what to sign with, still sealed.

    `sealed_keys` are those in force, newest first; `schedule` is None for the environment's default. `read_at` is the
    database's time, by which secrets expire; it makes no difference between two rows.
    """

    endpoint_id: int
    public_id: str
    account: str
    environment: str
    status: EndpointStatus
    host_id: int
    url: str
    sealed_headers: bytes | None
    sealed_keys: tuple[SealedKey, ...]
    read_at: dt.datetime = field(compare=False)
    schedule: tuple[float, ...] | None
    is_verified: bool
    limits: HostLimits
    rate_limit: float | None = None
