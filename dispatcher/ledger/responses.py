"""What endpoints answered: which answers are kept, and in what form."""

from collections.abc import Sequence
from typing import Final

import orjson

from dispatcher.model.outcome import Outcome

_FIRST_FAILURE: Final = 300

Headers = Sequence[tuple[bytes, bytes]]


def is_kept(outcome: Outcome) -> bool:
    """Tell whether a response is worth a row: it has a body, or it is no success.

    The empty 2xx that nearly every request gets says nothing that its attempt does not say.
    """
    return outcome.status is not None and (outcome.body != b"" or outcome.status >= _FIRST_FAILURE)


def dump_headers(headers: Headers) -> bytes:
    """Return headers as a JSON array of [name, value]. Peers send any bytes: as Latin-1 each is one character."""
    return orjson.dumps([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])


def load_headers(stored: bytes) -> Headers:
    """Return what `dump_headers` was given."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in orjson.loads(stored)]
