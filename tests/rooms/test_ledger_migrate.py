"""Which programs may start on which schema, and what is remembered of the migrations that ran."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from dispatcher.ledger.migrate import Migration, SchemaMismatch, migrate, migrations, pending
from tests.support.servers import DatabaseServer, fresh_database, migrated_database

LAST = migrations()[-1].version


@pytest.fixture
async def url(postgres_server: DatabaseServer) -> AsyncIterator[str]:
    async with migrated_database(postgres_server) as made:
        yield made


async def run_newer(url: str, **bears: int | None) -> None:
    """Let newer releases have run migrations of their own, each named and with what it bears."""
    connection = await asyncpg.connect(url)
    for number, (name, bear) in enumerate(bears.items(), start=LAST + 1):
        await connection.execute(
            "INSERT INTO schema_migration (version, name, sha256, bears) VALUES ($1, $2, 'x', $3)", number, name, bear
        )
    await connection.close()


async def noted(connection: asyncpg.Connection) -> dict[int, int | None]:
    """Return what the database remembers of each migration's bearing."""
    rows = await connection.fetch("SELECT version, bears FROM schema_migration")
    return {row["version"]: row["bears"] for row in rows}


async def test_a_program_starts_on_a_newer_schema_that_bears_it(url: str) -> None:
    await run_newer(url, index=LAST, column=LAST - 1)

    assert await pending(url) == []
    assert await migrate(url) == []


@pytest.mark.parametrize("bears", [None, LAST + 1, LAST + 2], ids=["of an older release", "the one before", "none"])
async def test_one_migration_that_does_not_bear_it_keeps_a_program_from_starting(url: str, bears: int | None) -> None:
    await run_newer(url, index=LAST, rename=bears, column=LAST)

    with pytest.raises(SchemaMismatch, match=rf"{LAST + 2} \(rename\), which bears no program as old as this one"):
        await pending(url)
    with pytest.raises(SchemaMismatch):
        await migrate(url)


async def test_a_database_of_a_release_that_did_not_know_of_bearing_is_read_and_brought_forward(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER TABLE schema_migration DROP COLUMN bears")

    before = await pending(url)
    await migrate(url)

    after = await noted(connection)
    await connection.close()
    assert before == []
    assert after == {one.version: one.bears for one in migrations()}


async def test_a_judgement_is_corrected_by_the_next_migrate_and_is_no_edit(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE schema_migration SET bears = 1")

    await migrate(url)

    corrected = await noted(connection)
    await connection.close()
    assert corrected == {one.version: one.bears for one in migrations()}


async def test_a_file_that_was_edited_after_it_ran_is_refused(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE schema_migration SET sha256 = 'x' WHERE version = 1")
    await connection.close()

    with pytest.raises(SchemaMismatch, match="edited after it ran"):
        await pending(url)


async def test_an_empty_database_lacks_everything(postgres_server: DatabaseServer) -> None:
    async with fresh_database(postgres_server) as url:
        assert await pending(url) == migrations()
        assert await migrate(url) == migrations()
        assert await pending(url) == []


def test_a_file_bears_itself_alone_unless_it_says_more() -> None:
    silent = Migration.of_file("0012_rename.sql", "-- why\nSELECT 1;\n")
    mild = Migration.of_file("0012_rename.sql", "-- bears: 0009\n-- why\nSELECT 1;\n")

    assert (silent.version, silent.name, silent.bears, mild.bears) == (12, "rename", 12, 9)
    assert silent.sha256 == mild.sha256
    assert silent.sha256 != Migration.of_file("0012_rename.sql", "-- why\nSELECT 2;\n").sha256
