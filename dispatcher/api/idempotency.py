"""Idempotency keys: the same request under the same key is done once and answered the same for a day."""

import hashlib
import re
from collections.abc import Collection
from typing import Final

import orjson

from dispatcher.api.call import Answer, NoBody, Route
from dispatcher.api.problems import Problem, ProblemCode
from dispatcher.ledger.deeds import Ask, KeptAnswer
from dispatcher.model.access import Scope

KEY_HEADER: Final = "Idempotency-Key"

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


def read_ask(route: Route, path: str, key: str | None, body: object, scopes: Collection[str]) -> Ask | None:
    """Return what a request asks to be done once, None without a key.

    `body` is the body as parsed, None where none is taken. Equal documents are equal requests, however they are spaced
    and ordered; an empty one that may be left out is none. But where an answer shows payloads, who may read them and
    who may not ask for different things.

    Raises:
        Problem: 400; the key cannot be kept.
    """
    if key is None or not route.keeps_answers:
        return None
    if not _KEY.fullmatch(key):
        raise Problem(ProblemCode.INVALID_IDEMPOTENCY_KEY, "1 to 255 visible ASCII characters")
    said = None if route.body is NoBody else body
    written = orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
    if route.shows_payloads and Scope.PAYLOADS_READ not in scopes:
        written += b"\nwithout payloads"
    return Ask(key, hashlib.sha256(f"{route.method} {path}\n".encode() + written).digest())


def repeat(kept: KeptAnswer, ask: Ask | None) -> Answer:
    """Return the kept answer once more.

    Raises:
        Problem: 409; it was given to another request.
    """
    if ask is None or kept.request_sha256 != ask.request_sha256:
        raise Problem(ProblemCode.IDEMPOTENCY_CONFLICT, "use a new key for a new request")
    return Answer(orjson.Fragment(kept.response), kept.status, {**kept.headers, "Idempotent-Replayed": "true"})
