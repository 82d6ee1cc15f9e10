"""Statements that stand in functions of the database, made statements of their own, so that their plans can be read."""

import re
from typing import Final

import asyncpg

FUNCTIONS: Final = {
    "events_at": {"event_ids": "bytea[]", "accounts": "int[]", "environments": "text[]", "days": "date[]"},
    "open_deliveries": {
        "numbers": "bigint[]",
        "first_day": "date",
        "last_day": "date",
        "born_at": "timestamptz",
    },
}
"""Functions that look up events, with what they look them up by, in the order of `text_in`."""


async def text_in(sql: asyncpg.Connection, function: str) -> str:
    """Return the statement that a function answers with, with parameters of a statement's own."""
    source: str = await sql.fetchval("SELECT prosrc FROM pg_proc WHERE proname = $1", function)
    query = source.partition("RETURN QUERY")[2].partition(";")[0]
    for n, (name, kind) in enumerate(FUNCTIONS[function].items(), start=1):
        query, n_places = re.subn(rf"(?<!\.)\b{name}\b(?=[,) \n])", f"${n}::{kind}", query)
        assert n_places, name
    return query
