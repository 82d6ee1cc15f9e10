"""Facts about asyncpg that the ledger builds on: an upgrade that changes one fails here."""

import asyncpg
import pytest
from asyncpg.protocol import protocol

import dispatcher.ledger.connections  # noqa: F401 - it tells the driver what an array is
from tests.support.servers import DatabaseServer, fresh_database


def test_the_driver_looks_elements_up_under_the_name_that_we_set() -> None:
    assert vars(protocol)["IterableABC"] is list


async def test_arrays_are_encoded_as_ever(postgres_server: DatabaseServer) -> None:
    async with fresh_database(postgres_server) as url:
        connection = await asyncpg.connect(url)
        try:
            row = await connection.fetchrow(
                "SELECT $1::bigint[], $2::text[], $3::bytea[], $4::int[], $5::timestamptz[], $6::text[]",
                [1, None, -(2**63)],
                ["a", "", None, "[1]"],
                [b"", b"\x00", None],
                [],
                [None],
                [["a", "b"], ["c", "d"]],
            )
            for no_list in ({1, 2}, (1, 2)):
                with pytest.raises(asyncpg.DataError, match="sized iterable"):
                    await connection.fetchval("SELECT $1::bigint[]", no_list)
        finally:
            connection.terminate()

    assert row is not None
    assert list(row) == [
        [1, None, -(2**63)],
        ["a", "", None, "[1]"],
        [b"", b"\x00", None],
        [],
        [None],
        [["a", "b"], ["c", "d"]],
    ]
