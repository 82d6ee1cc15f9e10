"""Lists that come in pages, with `--limit` and `--all`."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from dispatcher.cli.client import Api, Page
from dispatcher.cli.output import Form, show_page
from dispatcher.cli.progress import Note
from dispatcher.cli.times import parse_moment
from dispatcher.kit import clock

T = TypeVar("T")

_PAGE: Final = 500


def show_list(
    api: Api, path: str, columns: Sequence[str], form: Form, *, limit: int, every: bool, **query: Any
) -> None:
    """Print a list of the API, in its order; tells how far it has searched while it goes on from page to page."""
    with Note() as note:
        rows = _told(api.pages(path, None if every else limit + 1, **query), note)
        show_page(rows, columns, form, None if every else limit)


def _told(pages: Iterable[Page], note: Note) -> Iterator[dict[str, Any]]:
    """Give the rows of pages; the note stands while the next page is waited for, and never beside a row."""
    n_found = 0
    for page in pages:
        note.wipe()
        yield from page.rows
        n_found += len(page.rows)
        if page.is_last:
            return
        moment = None if page.searched_to is None else parse_moment(page.searched_to, clock.utcnow())
        back = "" if moment is None else f", searched back to {moment.astimezone():%Y-%m-%d %H:%M:%S}"
        note.show(f"{n_found} found{back} …")


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
