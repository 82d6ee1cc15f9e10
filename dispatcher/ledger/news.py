"""News are stored like any event, in the transaction of what they tell, with their deliveries."""

from collections.abc import Collection, Sequence
from typing import Final

from dispatcher.ledger.connections import Session
from dispatcher.model.news import Concerned, News

_MOST_PENDING: Final = 10_000
"""Pending deliveries are counted up to here: about 2 ms."""


async def read_concerned(session: Session, endpoint_ids: Collection[int]) -> dict[int, Concerned]:
    """Return what news must say about the endpoints; deleted ones are absent."""
    rows = await session.fetch("concerned", list(endpoint_ids), _MOST_PENDING)
    return {row["endpoint_id"]: Concerned(**row) for row in rows}


async def announce(session: Session, news: Sequence[News]) -> None:
    """Store news and their deliveries, due now; telling the same again changes nothing."""
    columns = [list(column) for column in zip(*(_row(one) for one in news), strict=True)]
    await session.execute("announce", *columns)


def _row(news: News) -> tuple[object, ...]:
    about = news.about
    return (
        news.event_id,
        about.account_id,
        about.environment,
        news.kind,
        about.public_id,
        about.at,
        news.body,
    )
