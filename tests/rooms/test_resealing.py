"""Rotating the key that seals secrets at rest, while everything goes on."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import base64
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
import structlog
from prometheus_client import CollectorRegistry

from dispatcher import resealing
from dispatcher.ledger import seals
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.connections import Link
from dispatcher.ledger.seals import SealLedger
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.errors import ConfigurationError
from dispatcher.resealing import Resealer, check_ring
from dispatcher.telemetry.metrics import Metrics
from dispatcher.vault import Vault, key_id_of
from tests.rooms.test_api_harness import Seeds, ledger_template, ledger_url, pool

OLD, NEW = b"o" * 32, b"n" * 32


def write_ring(file: Path, primary: str, **keys: bytes) -> Path:
    encoded = {name: base64.b64encode(key).decode() for name, key in keys.items()}
    file.write_text(json.dumps({"primary": primary, "keys": encoded}))
    file.chmod(0o600)
    return file


@dataclass
class Room:
    """A database with sealed values, the ring that sealed them, and who renews them."""

    url: str
    sql: asyncpg.Connection
    ledger: SealLedger
    file: Path
    vault: Vault
    metrics: Metrics
    resealer: Resealer

    async def seed(self, n: int) -> None:
        """Make `n` endpoints with a secret and headers each, sealed with the primary key."""
        account = await self.sql.fetchval(
            "INSERT INTO account (public_id) VALUES ('acct_' || md5(random()::text)) RETURNING account_id"
        )
        seeds = Seeds(self.sql, Tenant(account, "test"))
        for _ in range(n):
            number = await seeds.endpoint()
            name = await self.sql.fetchval("SELECT public_id FROM endpoint WHERE endpoint_id = $1", number)
            headers = self.vault.seal(b'{"X": "1"}', f"endpoint_headers:{name}")
            await self.sql.execute("UPDATE endpoint SET sealed_headers = $2 WHERE endpoint_id = $1", number, headers)
            await self.sql.execute(
                "INSERT INTO endpoint_secret (secret_id, endpoint_id, sealed_key, last4)"
                " VALUES ($1::int, $1::int, $2, '')",
                number,
                self.vault.seal(b"key of %d" % number, f"endpoint_secret:{name}:{number}"),
            )

    async def sealed_with(self) -> set[str]:
        """Return the keys that seal something."""
        rows = await self.sql.fetch(
            "SELECT sealed_key AS sealed FROM endpoint_secret UNION ALL SELECT sealed_headers FROM endpoint"
        )
        return {key_id_of(row["sealed"]) for row in rows}

    async def bury(self, n: int, *, days_ago: int = 0) -> None:
        """Make `n` dead events, sealed with the primary key."""
        await self.sql.execute(
            "INSERT INTO dead_event (log_id, topic, part, off, reason, detail, headers, sealed_value, seen_at)"
            " SELECT 'l', 't', $3::int, n, 'not_json', '', '[]', $1, now() - $3::int * interval '1 day'"
            " FROM generate_series(1, $2) n",
            self.vault.seal(b"value", "dead_event:l:t:0:0"),
            n,
            days_ago,
        )

    def left(self) -> float:
        return self.metrics.counts("seals_under_old_keys").values[()]


@pytest.fixture
async def room(ledger_url: str, tmp_path: Path) -> AsyncIterator[Room]:
    file = write_ring(tmp_path / "ring.json", "old", old=OLD)
    vault, metrics, link = Vault.load(file), Metrics(CollectorRegistry(), []), Link(ledger_url, "control")
    sql = await asyncpg.connect(ledger_url)
    ledger = SealLedger(link)
    yield Room(ledger_url, sql, ledger, file, vault, metrics, Resealer(ledger, vault, metrics))
    await sql.close()
    await link.aclose()


async def test_everything_is_sealed_again_with_the_new_primary_and_opens(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "BATCH", 2)
    await room.seed(5)
    before = await room.sql.fetch("SELECT endpoint_id, changed_at, settings_at FROM endpoint ORDER BY 1")
    write_ring(room.file, "new", old=OLD, new=NEW)
    room.vault.refresh()

    await room.resealer.renew()

    assert await room.sealed_with() == {"new"}
    assert room.left() == 0
    assert room.metrics.counts("seals_renewed").values[()] == 10
    write_ring(room.file, "new", new=NEW)
    room.vault.refresh()
    rows = await room.sql.fetch("SELECT * FROM endpoint JOIN endpoint_secret USING (endpoint_id)")
    for row in rows:
        place = f"endpoint_secret:{row['public_id']}:{row['secret_id']}"
        assert room.vault.open(row["sealed_key"], place) == b"key of %d" % row["secret_id"]
        assert room.vault.open(row["sealed_headers"], f"endpoint_headers:{row['public_id']}") == b'{"X": "1"}'
    assert before == await room.sql.fetch("SELECT endpoint_id, changed_at, settings_at FROM endpoint ORDER BY 1")


async def test_with_one_key_nothing_is_to_do(room: Room) -> None:
    await room.seed(1)

    await room.resealer.renew()

    assert (await room.sealed_with(), room.left()) == ({"old"}, 0)


async def test_what_was_tampered_with_is_left_and_told_and_holds_up_nothing(room: Room) -> None:
    await room.seed(3)
    await room.sql.execute(
        "UPDATE endpoint_secret SET sealed_key = overlay(sealed_key PLACING 'x' FROM 30)"
        " WHERE secret_id = (SELECT min(secret_id) FROM endpoint_secret)"
    )
    write_ring(room.file, "new", old=OLD, new=NEW)
    room.vault.refresh()

    with structlog.testing.capture_logs() as lines:
        await room.resealer.renew()

    assert room.left() == 1
    assert [line["event"] for line in lines] == ["seals_broken"]


async def test_one_replica_renews_at_a_time_and_leaves_rows_that_are_being_changed(room: Room) -> None:
    await room.seed(2)
    write_ring(room.file, "new", old=OLD, new=NEW)
    room.vault.refresh()

    async with room.sql.transaction():
        await room.sql.execute("SELECT pg_advisory_xact_lock(728113003)")
        await room.resealer.renew()
    assert room.left() == 4
    async with room.sql.transaction():
        await room.sql.execute("SELECT FROM endpoint_secret ORDER BY secret_id LIMIT 1 FOR UPDATE")
        await room.resealer.renew()
    assert room.left() == 1


async def test_a_ring_that_lacks_a_key_in_use_is_refused_by_name(room: Room) -> None:
    await room.seed(1)
    await check_ring(room.ledger, room.vault)
    write_ring(room.file, "new", new=NEW)
    room.vault.refresh()

    with pytest.raises(ConfigurationError) as caught:
        await check_ring(room.ledger, room.vault)

    assert caught.value.faults == ["the key ring lacks the key old, which sealed 2 stored values: put it back"]


async def test_a_start_does_not_look_at_dead_events(room: Room) -> None:
    await room.seed(1)
    lock = await asyncpg.connect(room.url)
    async with lock.transaction():
        await lock.execute("LOCK TABLE dead_event IN ACCESS EXCLUSIVE MODE")

        await check_ring(room.ledger, room.vault)

    await lock.close()


async def test_the_key_of_a_value_is_read_without_the_value(room: Room) -> None:
    await room.sql.execute(
        "INSERT INTO dead_event (log_id, topic, part, off, reason, detail, headers, sealed_value)"
        " VALUES ('l', 't', 0, 0, 'not_json', '', '[]', $1)",
        room.vault.seal(os.urandom(4_000_000), "dead_event:l:t:0:0"),
    )

    plan = await room.sql.fetchval(
        f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {STATEMENTS['dead_seals']}", *(None,) * 5, 10
    )

    # The value lies in 500 pages.
    assert json.loads(plan)[0]["Plan"]["Shared Hit Blocks"] < 50
    assert (await room.ledger.dead_by_key(None)).by_key == {"old": 1}


async def test_dead_events_are_counted_in_stretches_the_oldest_first(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "DEAD_PAGE", 2)
    monkeypatch.setattr(resealing, "_PAGES", 1)
    await room.bury(3, days_ago=2)
    write_ring(room.file, "new", old=OLD, new=NEW)
    room.vault.refresh()
    await room.bury(2)

    seen = []
    for n in range(6):
        await room.resealer.count_dead()
        await room.resealer.renew()
        seen.append(room.left())
        if n == 2:
            await room.sql.execute("DELETE FROM dead_event WHERE off = 1")

    # Five in three stretches, then three in two.
    assert seen == [2, 3, 3, 3, 2, 2]


async def test_keys_that_dead_events_need_are_told_once(room: Room) -> None:
    await room.bury(1)
    write_ring(room.file, "new", new=NEW)
    room.vault.refresh()

    with structlog.testing.capture_logs() as lines:
        await room.resealer.count_dead()
        await room.resealer.count_dead()

    assert [(line["event"], line["key_ids"]) for line in lines] == [("dead_events_locked", ["old"])]
