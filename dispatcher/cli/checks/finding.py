"""One line of `doctor`: what was looked at, how it is, and what to do."""

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """How it is. `skip`: it could not be looked at, which is no fault."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


class Finding(NamedTuple):
    """One thing that was looked at. `cure` is None where there is nothing to do."""

    check: str
    level: Level
    detail: str
    cure: str | None = None


def ok(check: str, detail: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Level.OK, detail)


def warn(check: str, detail: str, cure: str) -> Finding:
    """Return a finding that wants a look soon."""
    return Finding(check, Level.WARN, detail, cure)


def fail(check: str, detail: str, cure: str) -> Finding:
    """Return a finding that keeps the dispatcher from its work."""
    return Finding(check, Level.FAIL, detail, cure)


def skip(check: str, detail: str, cure: str | None = None) -> Finding:
    """Return that this could not be looked at."""
    return Finding(check, Level.SKIP, detail, cure)


def clock_finding(check: str, ahead_seconds: float, whose: str) -> Finding:
    """Judge how far another clock is ahead of ours. Signatures are refused at five minutes."""
    direction = "ahead of" if ahead_seconds > 0 else "behind"
    detail = f"{whose} clock is {abs(ahead_seconds):.1f} s {direction} this machine's"
    cure = "let both machines keep time by NTP: receivers refuse signatures that are five minutes off"
    if abs(ahead_seconds) < 2:
        return ok(check, detail)
    return warn(check, detail, cure) if abs(ahead_seconds) < 60 else fail(check, detail, cure)
