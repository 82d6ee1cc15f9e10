"""A whole process that is taken over while it lives."""

import asyncio
from pathlib import Path

import pytest

from dispatcher.app import Daemon
from dispatcher.kit.stopping import StopRequest
from dispatcher.model.errors import Fenced
from dispatcher.settings import Role, load
from dispatcher.vault import Vault
from tests.rooms.ledger_world import open_ledger
from tests.support.servers import DatabaseServer


async def test_a_process_that_was_taken_over_counts_that_and_falls(
    postgres_server: DatabaseServer, tmp_path: Path
) -> None:
    ring = tmp_path / "ring.json"
    Vault.create_file(ring)
    async with open_ledger(postgres_server) as world:
        settings = load(
            {
                "DISPATCHER_DATABASE__URL": world.url,
                "DISPATCHER_SECRETS__KEY_FILE": str(ring),
                "DISPATCHER_METRICS__BIND": "127.0.0.1:0",
            },
            roles={Role.DELIVER},
        )

        async def take_over(_: Daemon) -> None:
            await world.sql.execute("DELETE FROM replica")

        daemon = Daemon(
            settings, roles={Role.DELIVER}, stop=StopRequest(), on_ready=take_over, n_dropped_lines=lambda: 0
        )
        with pytest.raises(Fenced):
            async with asyncio.timeout(30):
                await daemon.run()

    assert daemon.journal._metrics.counts("fenced").values == {(): 1}
