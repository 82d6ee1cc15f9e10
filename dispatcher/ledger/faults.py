"""What Postgres and its driver raise, in our words: away for now, a value it refuses, or a bug of ours."""

from typing import Final

import asyncpg

from dispatcher.model.errors import PoisonBatch, Unavailable

DRIVER_FAULTS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # Also what says that a server takes no writes, when a connection is opened.
    asyncpg.InternalClientError,
)

UNKNOWN_FAULTS: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""After these nobody knows what the server makes of the statement, or whether it still does."""

_POISON: Final = ("22", "23")
_PASSING: Final = ("08", "25", "40", "53", "55", "57", "58")
"""SQLSTATE classes of a server that cannot serve now: lost connection, read-only, deadlock, full, locked,
shutting down, input/output error."""

DEMOTED: Final = ("25", "57")
"""Classes after which no connection of before is worth keeping: the server became another one."""

_READ_ONLY: Final = "the database takes no writes at the moment"
_WHY: Final = {
    "25006": _READ_ONLY,
    "40001": "the database is busy with the same rows",
    "40P01": "the database is busy with the same rows",
    "53100": "the database has no disk space left",
    "53200": "the database has no memory left",
    "53300": "the database has no connection left",
    "55P03": "somebody else keeps the same rows locked",
    "57014": "the database took too long",
}


def sqlstate_of(fault: BaseException) -> str:
    """Return the SQLSTATE that the server gave, empty when it gave none."""
    return (fault.sqlstate or "") if isinstance(fault, asyncpg.PostgresError) else ""


def translate(fault: BaseException, statement: str) -> BaseException:
    """Turn a driver's exception into ours, or return it unchanged when it is a bug."""
    state = sqlstate_of(fault)
    if isinstance(fault, asyncpg.CheckViolationError) and fault.constraint_name is None:
        # No table for its day. Not the value's fault: intake asks for days that there are, and they are made again.
        return Unavailable(f"{statement}: {state} a daily table is missing", why="a table of the database is missing")
    if state[:2] in _POISON:
        return PoisonBatch(f"{statement}: {state} {type(fault).__name__}")
    if state[:2] in _PASSING:
        return Unavailable(f"{statement}: {state} {type(fault).__name__}", why=_why(fault))
    if isinstance(fault, asyncpg.PostgresError) or not isinstance(fault, DRIVER_FAULTS):
        return fault
    return Unavailable(f"{statement}: {type(fault).__name__}", why=_why(fault))


def no_connection(fault: BaseException) -> Unavailable:
    """Say that a connection could not be opened, and the driver's reason."""
    return Unavailable(f"cannot connect to Postgres: {type(fault).__name__}: {fault}", why=_why(fault))


def _why(fault: BaseException) -> str:
    """Return what a client may be told."""
    if isinstance(fault, asyncpg.TargetServerAttributeNotMatched):
        return _READ_ONLY
    if isinstance(fault, TimeoutError):
        return "the database does not answer in time"
    return _WHY.get(sqlstate_of(fault), "the database cannot be reached")
