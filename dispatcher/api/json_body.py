"""Reading a JSON body that a stranger wrote: bounded in bytes, time, depth and surprises.

Two parsers look at it. The first is fast, refuses NaN, infinities, lone surrogates and bad UTF-8, and gives up
far below a stack's end; the second runs only on what passed and within the allowed depth, and tells duplicate
members, of which the first silently keeps the last.
"""

import asyncio
import json
from typing import Any, Final

import orjson
from aiohttp import web

from dispatcher.api.problems import Fault, Problem, ProblemCode, pointer, refused

MOST_VALUES: Final = 2_000
"""Values in one document, ten times what a sensible one holds. Unbounded, 256 KiB of `[],` held the loop for 0.3 s."""

_JSON_TYPE: Final = "application/json"
_CHARSETS: Final = frozenset({None, "utf-8", "utf8"})


# Words of the first parser, for documents that are JSON; it has no other way to say so. A test holds it to them.
_TOO_DEEP: Final = "depth limit"
_TOO_LARGE: Final = "infinity"


class _Duplicate(ValueError):
    """An object names a member twice."""


async def read_json(request: web.BaseRequest, *, max_bytes: int, max_depth: int, seconds: float) -> Any:
    """Return the parsed body.

    Raises:
        Problem: 400, 408, 413, 415 or, for a character that may not be stored, 422. After a 408 or 413 the
            connection must be closed: its rest was not read.
    """
    _check_type(request)
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(seconds):
            body = await _read(request, max_bytes)
    except TimeoutError as fault:
        detail = f"send the whole body within {seconds:g} seconds"
        raise Problem(ProblemCode.REQUEST_TIMEOUT, detail) from fault
    return parse_json(body, max_depth=max_depth)


def parse_json(body: bytes, *, max_depth: int) -> Any:
    """Return the document in `body`; errors as `read_json`."""
    try:
        first = orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        raise _unread(fault, max_depth) from fault
    faults = _look_through(first, max_depth)
    try:
        document = json.loads(body, object_pairs_hook=_members)
    except _Duplicate as fault:
        raise Problem(ProblemCode.DUPLICATE_MEMBER, "which of the two counts would be a guess") from fault
    except ValueError as fault:
        raise Problem(ProblemCode.NUMBER_OUT_OF_RANGE, "it has too many digits") from fault
    if faults:
        raise refused(faults)
    return document


def _check_type(request: web.BaseRequest) -> None:
    if request.content_type != _JSON_TYPE or (request.charset or "utf-8").lower() not in _CHARSETS:
        detail = "send it as application/json in UTF-8"
        raise Problem(ProblemCode.UNSUPPORTED_MEDIA_TYPE, detail, headers={"Accept": _JSON_TYPE})
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(ProblemCode.UNSUPPORTED_MEDIA_TYPE, "send it without compression")


async def _read(request: web.BaseRequest, max_bytes: int) -> bytes:
    pieces = []
    size = 0
    try:
        while piece := await request.content.readany():
            size += len(piece)
            if size > max_bytes:
                raise _too_large(max_bytes)
            pieces.append(piece)
    except web.RequestPayloadError as fault:
        raise Problem(ProblemCode.MALFORMED_REQUEST, "the body's framing is broken") from fault
    except ConnectionError as fault:
        raise Problem(ProblemCode.MALFORMED_REQUEST, "the connection ended within the body") from fault
    return b"".join(pieces)


def _too_large(max_bytes: int) -> Problem:
    return Problem(ProblemCode.BODY_TOO_LARGE, f"at most {max_bytes} bytes")


def _unread(fault: orjson.JSONDecodeError, max_depth: int) -> Problem:
    """Return the refusal of what the first parser does not read, some of which is JSON all the same."""
    if _TOO_DEEP in fault.msg:
        return Problem(ProblemCode.JSON_TOO_DEEP, f"at most {max_depth} levels")
    if _TOO_LARGE in fault.msg:
        return Problem(ProblemCode.NUMBER_OUT_OF_RANGE, f"the one at character {fault.pos}")
    return Problem(ProblemCode.INVALID_JSON, f"it stops being JSON at character {fault.pos}")


def _look_through(document: object, max_depth: int) -> list[Fault]:
    """Return the forbidden characters; raise Problem beyond the allowed depth or number of values."""
    faults = []
    n_values = 1
    waiting: list[tuple[object, tuple[str | int, ...]]] = [(document, ())]
    while waiting:
        value, path = waiting.pop()
        if isinstance(value, str) and "\0" in value:
            faults.append(Fault(pointer(path), "forbidden_character", "U+0000 is not allowed"))
        if not isinstance(value, dict | list):
            continue
        n_values += len(value)
        if n_values > MOST_VALUES:
            raise Problem(ProblemCode.JSON_TOO_LONG, f"at most {MOST_VALUES} values")
        if len(path) >= max_depth:
            raise Problem(ProblemCode.JSON_TOO_DEEP, f"at most {max_depth} levels")
        if isinstance(value, list):
            waiting += [(item, (*path, index)) for index, item in enumerate(value)]
            continue
        waiting += [(member, (*path, name)) for name, member in value.items()]
        if any("\0" in name for name in value):
            message = "U+0000 is not allowed in a member's name"
            faults.append(Fault(pointer(path), "forbidden_character", message))
    return faults


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Duplicate
    return members
