"""Versions of what can be changed: entity tags, and the If-Match that refers to them.

A tag names the version of an endpoint's settings: what its owner set, the status too. What an answer shows beside them
is no part of it, or no tag would ever match again: its health, the first success, its secrets, and that we disabled it.
"""

import datetime as dt
import re
from typing import Final

from dispatcher.api.cursors import from_micros, to_micros
from dispatcher.api.problems import Problem, ProblemCode

_TAG: Final = re.compile(r'"([\x21\x23-\x7e]*)"')
_TAGS: Final = re.compile(r'(W/)?"[\x21\x23-\x7e]*"(?:[ \t]*,[ \t]*(W/)?"[\x21\x23-\x7e]*")*')
_MOST_TAGS: Final = 20
_VERSION: Final = re.compile(r"[0-9a-f]{1,16}")
_LATEST_MICROS: Final = to_micros(dt.datetime.max.replace(tzinfo=dt.UTC))


def show_tag(version: dt.datetime) -> str:
    """Return the entity tag of a version."""
    return f'"{to_micros(version):x}"'


def read_if_match(header: str | None) -> frozenset[dt.datetime] | None:
    """Return the versions that a client is ready to change, None when any will do (`*`, or no such header).

    Tags that are not ours, and weak ones, match nothing and are left out.

    Raises:
        Problem: 400; it is no list of entity tags.
    """
    if header is None or header.strip() == "*":
        return None
    text = header.strip(" \t")
    tags = re.findall(r'(?:W/)?"[^"]*"', text)
    if not _TAGS.fullmatch(text) or len(tags) > _MOST_TAGS:
        detail = f"If-Match is * or up to {_MOST_TAGS} entity tags, each as an ETag gave it"
        raise Problem(ProblemCode.INVALID_IF_MATCH, detail)
    found = {_read(tag) for tag in tags}
    return frozenset(version for version in found if version is not None)


def mismatch() -> Problem:
    """Return the refusal of a change to a version that is no more."""
    return Problem(ProblemCode.ETAG_MISMATCH, "read it again and see whether the change still makes sense")


def _read(tag: str) -> dt.datetime | None:
    strong = _TAG.fullmatch(tag)
    if strong is None or not _VERSION.fullmatch(strong[1]):
        return None
    micros = int(strong[1], 16)
    return from_micros(micros) if micros <= _LATEST_MICROS else None
