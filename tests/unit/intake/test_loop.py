"""What intake does when Postgres refuses, answers late or not at all; no Kafka, no Postgres."""

import asyncio
import traceback
from collections.abc import Collection, Mapping
from typing import Any

import orjson
import pytest

from dispatcher.intake.consumer import KafkaSettings, OutsideLog
from dispatcher.intake.decoding import Decoder
from dispatcher.intake.loop import Doors, Intake, Rules
from dispatcher.intake.positions import Partition
from dispatcher.kit import clock
from dispatcher.kit.supervise import spawn
from dispatcher.model.batch import Accepted, Batch, DeadRecord, Span
from dispatcher.model.delivery import Delivery
from dispatcher.model.errors import Unavailable
from dispatcher.model.event import Record
from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.schema_files import load_catalogue, load_event_schemas, load_example, schema_folder

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]

FOLDER = schema_folder()
DECODER = Decoder(load_event_schemas(FOLDER), Catalogue.from_document(load_catalogue(FOLDER)))
TOPIC = "verification.events.v1"
BATCH = Batch("log", (Span(TOPIC, 0, 0, 1),), (), ())


class Ledger:
    """A Postgres that does as the test says: refuses, is away, stands elsewhere, or accepts without a word."""

    def __init__(self, *, n_refusals: int = 0, n_away: int = 0, stands: int = 0, n_silent: int = 0) -> None:
        self.accepted: list[Batch] = []
        self.depths: list[int] = []
        self.n_tries = 0
        self._n_refusals = n_refusals
        self._n_away = n_away
        self._stands = stands
        self._n_silent = n_silent

    def days(self) -> Any:
        today = clock.utcnow().date()
        return today, today

    async def known_accounts(self, names: Collection[str], *, create: bool) -> frozenset[str]:
        assert create
        self._n_away -= 1
        if self._n_away >= 0:
            raise Unavailable("away")
        return frozenset(names)

    async def positions(self, log_id: str, partitions: Collection[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(partitions, self._stands)

    async def has_positions(self, log_id: str, topic: str) -> bool:
        return True

    async def open_positions(self, log_id: str, starts: Mapping[Partition, int]) -> dict[Partition, int]:
        return dict(starts)

    async def record_lost(self, log_id: str, topic: str, partition: int, from_offset: int, to_offset: int) -> None:
        raise AssertionError

    async def accept(self, batch: Batch) -> Accepted:
        self.depths.append(sum(1 for _ in traceback.walk_stack(None)))
        self.n_tries += 1
        if self.n_tries <= self._n_refusals:
            raise Unavailable("accept: 53100 DiskFullError")
        elsewhere = frozenset((one.topic, one.partition) for one in batch.spans if one.start != self._stands)
        if elsewhere:
            return Accepted(elsewhere, (), 0, 0, 0)
        self.accepted.append(batch)
        self._stands = batch.spans[0].stop
        self._n_silent -= 1
        if self._n_silent >= 0:
            raise Unavailable("no answer came")
        return Accepted(frozenset(), (), len(batch.events), 0, 0)


class Meter:
    """Hears everything, keeps what was skipped and what lay beyond its log."""

    def __init__(self) -> None:
        self.beyond_log: list[tuple[str, int, int]] = []
        self.n_skipped = 0

    def accepted(self, *_: Any) -> None: ...

    def skipped(self, n_records: int, reason: str) -> None:
        self.n_skipped += n_records

    def lost(self, *_: Any) -> None: ...

    def beyond(self, topic: str, partition: int, position: int) -> None:
        self.beyond_log.append((topic, partition, position))

    def lagged(self, *_: Any) -> None: ...


class Kafka:
    """A consumer that is only there to be sent somewhere."""

    log_id = "log"

    def __init__(self) -> None:
        self.sent_to: dict[Partition, int] = {}

    def seek(self, partition: Partition, offset: int) -> None:
        self.sent_to[partition] = offset

    async def beginnings(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        return dict.fromkeys(partitions, 0)

    async def poll(self, **_: Any) -> dict[Partition, list[Record]]:
        """Wait for the end of a rebalance that never ends."""
        await asyncio.Event().wait()
        raise AssertionError


def an_intake(ledger: Ledger, *, copies: list[tuple[Record, DeadRecord]] | None = None) -> Intake:
    async def submit(deliveries: Collection[Delivery]) -> None:
        assert not deliveries

    async def room() -> None:
        raise AssertionError

    copy = None if copies is None else copies.extend
    doors = Doors(submit, lambda: True, room, lambda value, _: value, lambda: None, copy)
    settings = KafkaSettings("localhost:1", (TOPIC,), "group")
    made = Intake(settings, ledger, DECODER, doors, Meter(), rules=Rules("create", "earliest"))
    made._places.stands[TOPIC, 0] = 0
    return made


def a_record() -> Record:
    data = orjson.loads(load_example(FOLDER, "verification.completed"))["data"]
    now = clock.utcnow().isoformat().replace("+00:00", "Z").encode()
    headers = {
        "ce_specversion": b"1.0",
        "ce_id": b"1",
        "ce_source": b"/core",
        "ce_type": b"verification.completed",
        "ce_time": now,
        "ce_subject": data["verification"]["id"].encode(),
        "ce_accountid": b"acct_5hQ2vN8rTb",
        "ce_environment": b"live",
        "content-type": b"application/json",
    }
    milliseconds = int(clock.now() * 1_000)
    return Record(TOPIC, 0, 0, milliseconds, b"key", orjson.dumps(data), tuple(headers.items()))


async def test_a_database_that_answers_and_refuses_is_asked_for_as_long_as_it_takes() -> None:
    # A disk that is full lets us read where we stand, and write nothing, for hours: no try may stand on the one before.
    ledger = Ledger(n_refusals=200)

    await an_intake(ledger)._accept(Kafka(), BATCH, {})  # type: ignore[arg-type]

    assert ledger.accepted == [BATCH]
    assert len(ledger.depths) == 201
    assert len(set(ledger.depths)) == 1


async def test_a_stop_does_not_wait_for_the_end_of_a_rebalance() -> None:
    intake = an_intake(Ledger())
    reading = spawn(intake._read_once(Kafka()), name="reading")  # type: ignore[arg-type]
    await asyncio.sleep(5)

    intake.stop()
    async with asyncio.timeout(2):
        is_to_be_made_anew = await reading

    assert not is_to_be_made_anew


async def test_a_stop_in_the_very_turn_in_which_a_poll_is_given_up_is_no_fault() -> None:
    intake, faults = an_intake(Ledger()), list[Any]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    reading = spawn(intake._read_once(Kafka()), name="reading")  # type: ignore[arg-type]
    await asyncio.sleep(0)

    loop.call_later(intake._rules.patience.stuck_seconds, intake.stop)

    assert not await reading
    assert faults == []


async def test_a_batch_that_begins_elsewhere_sends_the_consumer_to_where_its_partition_stands() -> None:
    # Another owner got further: without this every batch from now on would begin elsewhere.
    intake, kafka = an_intake(Ledger(stands=7)), Kafka()

    await intake._accept(kafka, BATCH, {})  # type: ignore[arg-type]

    assert kafka.sent_to == intake._places.stands == {(TOPIC, 0): 7}


async def test_a_position_beyond_the_end_of_its_log_is_told_and_the_log_read_from_its_beginning() -> None:
    intake, kafka = an_intake(Ledger()), Kafka()

    await intake._places.come_back_in(kafka, OutsideLog({(TOPIC, 0): 100}))  # type: ignore[arg-type]

    assert intake._meter.beyond_log == [(TOPIC, 0, 100)]  # type: ignore[attr-defined]
    assert kafka.sent_to == {(TOPIC, 0): 0}


async def test_a_stop_ends_the_tries() -> None:
    ledger = Ledger(n_refusals=1_000_000)
    intake = an_intake(ledger)
    accepting = spawn(intake._accept(Kafka(), BATCH, {}), name="accepting")  # type: ignore[arg-type]
    await asyncio.sleep(10)

    intake.stop()
    async with asyncio.timeout(1):
        await accepting

    assert ledger.accepted == []


@pytest.mark.parametrize(
    ("ledger", "n_copies"),
    [
        (Ledger(), 1),
        (Ledger(n_refusals=2), 1),
        (Ledger(n_silent=1), 1),
        (Ledger(stands=7), 0),
        (Ledger(n_refusals=1_000_000), 0),
    ],
    ids=["accepted", "at the third try", "without an answer", "read by another owner", "stopped before"],
)
async def test_what_is_accepted_is_copied_and_counted_once_and_nothing_else(ledger: Ledger, n_copies: int) -> None:
    copies: list[tuple[Record, DeadRecord]] = []
    intake = an_intake(ledger, copies=copies)
    bad = a_record()._replace(value=b"{not json")
    other = a_record()._replace(offset=1, headers=(*bad.headers[:3], ("ce_type", b"other.type"), *bad.headers[4:]))
    asyncio.get_running_loop().call_later(60, intake.stop)

    await intake._take(Kafka(), {(TOPIC, 0): [bad, other]})  # type: ignore[arg-type]

    assert [record for record, _ in copies] == [bad] * n_copies
    assert intake._meter.n_skipped == n_copies  # type: ignore[attr-defined]


@pytest.mark.parametrize("n_away", [0, 3])
async def test_events_wait_until_postgres_knows_their_accounts(n_away: int) -> None:
    ledger = Ledger(n_away=n_away)

    await an_intake(ledger)._take(Kafka(), {(TOPIC, 0): [a_record()]})  # type: ignore[arg-type]

    assert [len(batch.events) for batch in ledger.accepted] == [1]


async def test_a_stop_while_accounts_cannot_be_read_moves_no_position() -> None:
    # Whoever is not known was never asked for: taken for unknown, its events would be skipped for good.
    ledger = Ledger(n_away=1_000_000)
    intake = an_intake(ledger)
    taking = spawn(intake._take(Kafka(), {(TOPIC, 0): [a_record()]}), name="taking")  # type: ignore[arg-type]
    await asyncio.sleep(3)

    intake.stop()
    await taking

    assert ledger.n_tries == 0
