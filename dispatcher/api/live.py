"""`GET /v1/attempts`: attempts as they are recorded, for who watches; an answer waits for the next one if asked to."""

from typing import Annotated, Final, Literal

from pydantic import Field

from dispatcher.api.call import Answer, Call
from dispatcher.api.cursors import Cursors, from_micros, to_micros
from dispatcher.api.filters import read_types
from dispatcher.api.models import AttemptShown, Outgoing, PageQuery, Types
from dispatcher.api.problems import not_found
from dispatcher.api.shapes import show_attempt
from dispatcher.ledger.live import LiveLedger, LivePage, LivePlace

LONGEST_WAIT_SECONDS: Final = 8
"""Less than a whole request may take."""


class LiveQuery(PageQuery):
    """Attempts recorded after a place; without `after` the feed begins at its end."""

    order: Literal["asc"] = "asc"
    wait: Annotated[int, Field(ge=0, le=LONGEST_WAIT_SECONDS)] = 0
    endpoint: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    type: Types | None = None


class LiveAttemptShown(AttemptShown):
    """One HTTP request, and which endpoint it went to."""

    endpoint_id: str


class LiveAttemptList(Outgoing):
    """Attempts in the order in which they were recorded. `resume` is where to go on; `next` is null at the end."""

    data: list[LiveAttemptShown]
    next: str | None
    resume: str


async def follow_attempts(call: Call) -> Answer:
    """List attempts after a place, oldest first; at the end, wait up to `wait` seconds for one."""
    query: LiveQuery = call.query
    cursors = call.cursors("live")
    types = read_types(query.type, call.services.catalogue)
    if query.endpoint is not None and await call.logs.endpoint_number(call.tenant, query.endpoint) is None:
        raise not_found()
    ledger = LiveLedger(call.services.pool)
    place = None if query.after is None else _read(cursors, query.after)

    async def look() -> LivePage:
        nonlocal place
        page = await ledger.after(call.tenant, place, endpoint=query.endpoint, types=types, limit=query.limit)
        place = page.place
        return page

    page = await call.services.waiters.until_there(
        call.asker, look, lambda page: bool(page.attempts), seconds=query.wait
    )
    ids = call.services.delivery_ids
    shown = [{**show_attempt(one.attempt, ids), "endpoint_id": one.endpoint} for one in page.attempts]
    resume = cursors.show([*page.place[:3], to_micros(page.place.looked_at)])
    return Answer({"data": shown, "next": None if page.is_end else resume, "resume": resume})


def _read(cursors: Cursors, text: str) -> LivePlace:
    xid, delivery_id, attempt_no, micros = cursors.read(text, 4)
    return LivePlace(xid, delivery_id, attempt_no, from_micros(micros))
