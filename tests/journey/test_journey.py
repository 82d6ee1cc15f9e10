"""The story on the embedded kind of broker."""

from pathlib import Path

import pytest

from tests.journey.story import tell
from tests.journey.world import open_world
from tests.support.servers import DatabaseServer, KafkaServer, fresh_topic, migrated_database


@pytest.mark.timeout(240)
async def test_nothing_is_lost_through_a_stop_a_kill_and_a_failing_endpoint(
    postgres_server: DatabaseServer, kafka_server: KafkaServer, tmp_path: Path
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    async with (
        migrated_database(postgres_server) as url,
        open_world(tmp_path, bootstrap=kafka_server.bootstrap, database_url=url, topic=topic) as world,
    ):
        await tell(world, 2_000)
