"""Which programs may start on which schema, and what is remembered of the migrations that ran."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from dispatcher.ledger.feeds import FeedLedger
from dispatcher.ledger.logs import EventPlace
from dispatcher.ledger.migrate import DatabaseMoved, Migration, SchemaMismatch, migrate, migrations, pending
from dispatcher.model.endpoint import EndpointStatus
from tests.rooms.holding_world import Stage, open_stage
from tests.support.servers import DatabaseServer, fresh_database, migrated_database

LAST = migrations()[-1].version
SETTINGS_VERSIONS = 17


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


async def test_what_a_newer_program_judged_stands_when_an_older_one_migrates(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE schema_migration SET bears = 1 WHERE version = 9")
    await run_newer(url, index=LAST)

    await migrate(url)

    judged = await noted(connection)
    await connection.close()
    assert judged[9] == 1


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


@pytest.mark.parametrize("first_line", ["", "-- without transaction\n"], ids=["in a transaction", "without"])
async def test_a_migration_may_take_longer_than_statements_may(
    url: str, monkeypatch: pytest.MonkeyPatch, first_line: str
) -> None:
    slow = Migration.of_file("9000_slow.sql", f"{first_line}SELECT pg_sleep(1.5)")
    shipped = [*migrations(), slow]
    monkeypatch.setattr("dispatcher.ledger.migrate.migrations", lambda: shipped)
    monkeypatch.setattr("dispatcher.ledger.connections._CLIENT_SECONDS", 1.0)

    assert await migrate(url) == [slow]


async def test_a_tag_given_before_settings_had_a_version_of_their_own_stays_good(
    postgres_server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = migrations()
    before = [one for one in shipped if one.version < SETTINGS_VERSIONS]
    endpoint = (
        "WITH h AS (INSERT INTO host (authority, interval_us, grant_burst, in_flight) VALUES ($1, 1, 1, 1) "
        "RETURNING host_id), a AS (INSERT INTO account (public_id) VALUES ($2) RETURNING account_id) "
        "INSERT INTO endpoint (public_id, account_id, environment, host_id, url, events, api_version, changed_at) "
        "SELECT $1, account_id, 'test', host_id, 'https://a/', '{*}', '1', now() + interval '1 hour' FROM h, a"
    )
    async with fresh_database(postgres_server) as url:
        monkeypatch.setattr("dispatcher.ledger.migrate.migrations", lambda: before)
        await migrate(url)
        connection = await asyncpg.connect(url)
        await connection.execute(endpoint, "we_old", "acct_old0000000")
        monkeypatch.setattr("dispatcher.ledger.migrate.migrations", lambda: shipped)
        await migrate(url)

        # As a program from before goes on doing.
        await connection.execute(endpoint, "we_new", "acct_new0000000")
        rows = await connection.fetch(
            "SELECT public_id, settings_at = changed_at AS is_kept, settings_at = created_at AS is_new FROM endpoint"
        )
        await connection.close()

    assert {tuple(row) for row in rows} == {("we_old", True, False), ("we_new", False, True)}


def test_a_file_bears_itself_alone_unless_it_says_more() -> None:
    silent = Migration.of_file("0012_rename.sql", "-- why\nSELECT 1;\n")
    mild = Migration.of_file("0012_rename.sql", "-- bears: 0009\n-- why\nSELECT 1;\n")

    assert (silent.version, silent.name, silent.bears, mild.bears) == (12, "rename", 12, 9)
    assert silent.sha256 == mild.sha256
    assert silent.sha256 != Migration.of_file("0012_rename.sql", "-- why\nSELECT 2;\n").sha256


@pytest.fixture
async def stage(url: str) -> AsyncIterator[Stage]:
    async with open_stage(url) as made:
        yield made


async def move(stage: Stage, gap: int = 5_000_000_000) -> None:
    """Let the database be one that was dumped in a cluster that had counted `gap` transactions more."""
    for column in ("event.xid", "endpoint.held_xid", "replay.at_xid", "replay.end_xid"):
        table, name = column.split(".")
        number = f"({name}::text::bigint + {gap})::text::xid8"
        await stage.world.sql.execute(f"UPDATE {table} SET {name} = {number}")
    await stage.world.sql.execute("UPDATE installation SET system_identifier = 1")


async def fed(stage: Stage, n: int) -> list[bytes]:
    """Return the ids of the account's feed in its order, once there are `n`."""
    feed = FeedLedger(stage.pool)
    async with asyncio.timeout(20):
        # Any transaction of the server that began earlier holds the feed back, autovacuum's too.
        while len(found := await feed.after(stage.tenant, EventPlace(0, 0), types=None, limit=100)) < n:
            await asyncio.sleep(0.01)
    return [one.event_id for one in found]


async def test_nothing_starts_on_a_database_from_another_cluster_before_its_order_goes_on(stage: Stage) -> None:
    await move(stage)

    with pytest.raises(DatabaseMoved, match="run `dispatcher migrate`"):
        await pending(stage.world.url)
    await migrate(stage.world.url)

    assert await pending(stage.world.url) == []


@pytest.mark.parametrize("gap", [5_000_000_000, 40, 0])
async def test_a_paused_endpoint_is_paid_in_another_cluster_what_it_was_owed_in_the_old_one(
    stage: Stage, gap: int
) -> None:
    before = await stage.accept()
    await stage.deliver_all()
    await stage.holding.hold(stage.tenant, stage.public_id, EndpointStatus.PAUSED)
    owed = await stage.accept(3)
    await move(stage, gap)

    await migrate(stage.world.url)
    await stage.accept(2)
    await stage.holding.enable(stage.tenant, stage.public_id)
    await stage.drained()

    assert (len(before), owed) == (1, [])
    assert await stage.world.value("SELECT count(*) FROM delivery") == 5 + 1
    assert await stage.world.value("SELECT count(*) FROM event") == 6


async def test_moved_again_the_feed_still_goes_on_in_the_order_of_arrival(stage: Stage) -> None:
    seen: list[bytes] = []
    for gap in (70_000, 5_000_000_000, 300):
        await stage.accept(2)
        seen = await fed(stage, len(seen) + 2)
        await move(stage, gap)
        await migrate(stage.world.url)
        assert await fed(stage, len(seen)) == seen
    await stage.accept(2)

    assert (await fed(stage, 8))[:6] == seen
