"""Pages of the lists whose rows are numbered as they were made: the last one first."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from dispatcher.api.call import Answer, Call

Row = TypeVar("Row")


async def list_numbered(
    call: Call,
    name: str,
    read: Callable[..., Awaitable[Sequence[Row]]],
    number: Callable[[Row], int],
    show: Callable[[Row], Any],
) -> Answer:
    """Answer with the page that the query asks for; its cursors are of the caller's list `name`.

    `read(below=…, limit=…)` gives rows, newest first, with numbers below `below` unless that is None.
    """
    cursors, limit = call.cursors(name), call.query.limit
    below = None
    if call.query.after is not None:
        (below,) = cursors.read(call.query.after, 1)
    found = await read(below=below, limit=limit + 1)
    page = found[:limit]
    following = cursors.show([number(page[-1])]) if len(found) > limit else None
    return Answer({"data": [show(one) for one in page], "next": following})
