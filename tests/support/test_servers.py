import asyncio
from pathlib import Path

import asyncpg
import pytest

from dispatcher.embedded.postgres import EmbeddedPostgres
from tests.support.servers import (
    DatabaseServer,
    KafkaServer,
    database_url,
    fresh_database,
    fresh_topic,
    frozen,
)


async def test_a_fresh_database_is_empty_and_gone_afterwards_whoever_is_in_it(
    postgres_server: DatabaseServer,
) -> None:
    async with fresh_database(postgres_server) as url:
        visitor = await asyncpg.connect(url)
        await visitor.execute("create table left_behind ()")

    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(url)
    visitor.terminate()
    async with fresh_database(postgres_server) as other:
        connection = await asyncpg.connect(other)
        assert await connection.fetchval("select to_regclass('left_behind')") is None
        await connection.close()


async def test_a_fresh_database_can_be_a_copy(postgres_server: DatabaseServer) -> None:
    async with fresh_database(postgres_server) as original:
        connection = await asyncpg.connect(original)
        await connection.execute("create table kept as select 1 as number")
        await connection.close()

        template = original.rpartition("/")[2]
        async with fresh_database(postgres_server, template=template) as copy:
            connection = await asyncpg.connect(copy)
            assert await connection.fetchval("select number from kept") == 1
            await connection.close()


def test_another_database_of_a_server_has_the_same_address() -> None:
    server = DatabaseServer("postgresql://me:a%2Fb@127.0.0.1:5432/first?x=1")

    assert database_url(server, "other") == "postgresql://me:a%2Fb@127.0.0.1:5432/other?x=1"


async def test_a_refused_topic_fails_the_test(kafka_server: KafkaServer) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)

    with pytest.raises(AssertionError):
        await fresh_topic(kafka_server.bootstrap, name=topic)


async def test_a_frozen_server_answers_once_it_thaws(tmp_path: Path) -> None:
    server = EmbeddedPostgres.start(tmp_path, durable=False)
    connection = await asyncpg.connect(server.url)
    try:
        with frozen(server.pid):
            asked = asyncio.ensure_future(connection.fetchval("select 1"))
            done, _ = await asyncio.wait({asked}, timeout=0.1)
            assert not done
        assert await asked == 1
        await connection.close()
    finally:
        server.stop()
