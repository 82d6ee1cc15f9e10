"""Lists that come in pages, with `--limit` and `--all`."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from dispatcher.cli.client import Api
from dispatcher.cli.output import Form, show_page

T = TypeVar("T")

_PAGE: Final = 500


def show_list(
    api: Api, path: str, columns: Sequence[str], form: Form, *, limit: int, every: bool, **query: Any
) -> None:
    """Print a list of the API, in its order."""
    rows = api.rows(path, None if every else limit + 1, **query)
    show_page(rows, columns, form, None if every else limit)


async def collect(read: Callable[[T | None, int], Awaitable[list[T]]], *, limit: int, every: bool) -> list[T]:
    """Read a list of the ledger page by page: `read` is given the last item so far and how many to read.

    Returns one more than `limit` when there are more.
    """
    found: list[T] = []
    while True:
        wanted = _PAGE if every else min(_PAGE, limit + 1 - len(found))
        page = await read(found[-1] if found else None, wanted)
        found += page
        if len(page) < wanted or (not every and len(found) > limit):
            return found
