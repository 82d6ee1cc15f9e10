"""Intake in this process, between a real broker and a real Postgres."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from dispatcher.intake.consumer import KafkaSettings
from dispatcher.intake.dead_letters import Letter
from dispatcher.intake.decoding import Decoder
from dispatcher.intake.loop import Doors, Intake, Rules
from dispatcher.intake.watchdog import Patience
from dispatcher.kit.supervise import spawn
from dispatcher.model.delivery import Delivery
from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.schema_files import load_catalogue, load_event_schemas, schema_folder
from tests.rooms.ledger_world import World

FOLDER = schema_folder()
DECODER = Decoder(load_event_schemas(FOLDER), Catalogue.from_document(load_catalogue(FOLDER)))


@dataclass
class Meter:
    """Counts what intake tells."""

    n_lost: int = 0
    beyond_log: list[Any] = field(default_factory=list)
    n_skipped: int = 0
    copies: Counter[str] = field(default_factory=Counter)
    lags: dict[Any, int | None] = field(default_factory=dict)

    def accepted(self, *_: Any) -> None:
        """Hear of a batch; the database knows better."""

    def skipped(self, n_records: int, reason: str) -> None:
        """Count what is not for us."""
        assert reason
        self.n_skipped += n_records

    def lost(self, topic: str, partition: int, from_offset: int, to_offset: int) -> None:
        """Count what was deleted before it was read."""
        assert topic
        assert partition >= 0
        self.n_lost += to_offset - from_offset

    def beyond(self, topic: str, partition: int, position: int) -> None:
        """Keep which positions lay beyond their log."""
        self.beyond_log.append((topic, partition, position))

    def lagged(self, lags: Mapping[Any, int | None]) -> None:
        """Keep the last word."""
        self.lags = dict(lags)

    def copied(self, n_records: int, result: str) -> None:
        """Count copies of dead records, by what became of them."""
        self.copies[result] += n_records

    async def until_lag(self, lag: int) -> None:
        """Return when the lags of all partitions come to `lag`, each of them known."""
        async with asyncio.timeout(60):
            while not self.lags or None in self.lags.values() or sum(filter(None, self.lags.values())) != lag:
                await asyncio.sleep(0.02)


class Room:
    """The room of the lanes: there until it is taken away."""

    def __init__(self) -> None:
        self.is_there = asyncio.Event()
        self.is_there.set()
        self.is_awaited = asyncio.Event()

    async def wait(self) -> None:
        """Return when there is room again."""
        self.is_awaited.set()
        await self.is_there.wait()

    async def take_away(self) -> None:
        """Return when intake reads no more for lack of it."""
        self.is_awaited.clear()
        self.is_there.clear()
        await self.is_awaited.wait()


@asynccontextmanager
async def reading(
    world: World,
    bootstrap: str,
    topic: str,
    *,
    patience: Patience | None = None,
    session_ms: int = 1_000,
    room: Room | None = None,
    copy: Callable[[Sequence[Letter]], None] | None = None,
) -> AsyncIterator[tuple[Intake, Meter]]:
    """Run intake on one topic; at the end it is told to stop, and must."""
    process = await world.process()
    meter = Meter()

    async def submit(_: Sequence[Delivery]) -> None:
        """Take deliveries and let them lie."""

    room = room or Room()
    intake = Intake(
        KafkaSettings(
            bootstrap,
            (topic,),
            f"group-{topic}",
            fetch_max_wait_ms=10,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 4,
        ),
        process.intake,
        DECODER,
        Doors(submit, room.is_there.is_set, room.wait, lambda value, _: value, lambda: None, copy),
        meter,
        rules=Rules("create", "earliest", patience or Patience()),
    )
    running = spawn(intake.run(), name="intake")
    try:
        yield intake, meter
    finally:
        intake.stop()
        async with asyncio.timeout(30):
            await running
