"""The adapter over aiokafka: everything that has to be known about that library, and nothing else.

What it does to us, and what is done about it:

- It polls a partition before anybody gave it a position, and then one such partition blocks all others: positions
  are set while partitions are assigned, and a stray complaint means "again in 100 ms".
- Its reset policies skip records in silence: there is none; a position outside the log is reported by its name.
- `stop()` cancels itself while the broker is away and leaves the client running: it runs as a task of its own, with
  a bound, and the client is closed after it.
- `commit()` waits for a coordinator without limit: bounded, and only ever a copy for lag tools.
- A record above the fetch size is stepped over: reported with its offset.
- It can sit alive without its group after a broker's restart: see the watchdog in the loop.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError, RecordTooLargeError

from dispatcher.intake.positions import Partition
from dispatcher.kit import failpoints
from dispatcher.kit.supervise import finish_within, spawn
from dispatcher.model.event import Record
from dispatcher.settings import Settings

_log = structlog.get_logger("intake")

_STOP_SECONDS: Final = 5.0
_ASK_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 0.1
_EMBEDDED_SESSION_MS: Final = 2_000


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """How to reach Kafka and what to read. `topics` are names, or one pattern between slashes."""

    bootstrap_servers: str
    topics: tuple[str, ...]
    group_id: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    fetch_max_wait_ms: int = 500
    session_timeout_ms: int = 45_000
    heartbeat_interval_ms: int = 3_000

    def connection(self) -> dict[str, Any]:
        """Return the arguments that every client of this cluster takes."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol in ("SSL", "SASL_SSL"):
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
            options["ssl_context"] = context
        if self.security_protocol.startswith("SASL"):
            options |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password,
            }
        return options


def kafka_settings(settings: Settings) -> KafkaSettings:
    """Return how to reach Kafka. The embedded broker answers a join after half a session: it gets a short one."""
    kafka = settings.kafka
    password = None if kafka.sasl_password_file is None else kafka.sasl_password_file.read_text().strip()
    is_embedded = settings.sources.get("KAFKA__BOOTSTRAP_SERVERS") == "embedded"
    return KafkaSettings(
        bootstrap_servers=kafka.bootstrap_servers,
        topics=kafka.topics,
        group_id=kafka.group_id,
        security_protocol=kafka.security_protocol,
        sasl_mechanism=kafka.sasl_mechanism,
        sasl_username=kafka.sasl_username,
        sasl_password=password,
        ca_file=kafka.ca_file,
        cert_file=kafka.cert_file,
        key_file=kafka.key_file,
        fetch_max_wait_ms=kafka.fetch_max_wait_ms,
        session_timeout_ms=_EMBEDDED_SESSION_MS if is_embedded else kafka.session_timeout_ms,
        heartbeat_interval_ms=_EMBEDDED_SESSION_MS // 4 if is_embedded else min(3_000, kafka.session_timeout_ms // 3),
    )


class OutsideLog(Exception):
    """A position lies outside its partition's log; `where` maps each such partition to the position."""

    def __init__(self, where: Mapping[Partition, int]) -> None:
        super().__init__(str(dict(where)))
        self.where = dict(where)


class Oversized(Exception):
    """A record is larger than a fetch; `where` maps its partition to its offset, which was stepped over."""

    def __init__(self, where: Mapping[Partition, int]) -> None:
        super().__init__(str(dict(where)))
        self.where = dict(where)


class Consumer:
    """One member of the group. `assigned` is awaited with every new assignment, and must place the partitions.

    Use `start`, then `poll` in a loop, at last `stop`. One task only, but for `assigned`, which the library calls.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        assigned: Callable[[list[Partition]], Awaitable[None]],
        revoked: Callable[[], None],
    ) -> None:
        self.log_id = ""
        """The cluster's id: positions belong to a log, and another cluster under the same name is another log."""
        self.log_changed = False
        """The cluster behind the address became another one: nothing read from now on belongs to `log_id`."""
        self._consumer = AIOKafkaConsumer(
            **settings.connection(),
            group_id=settings.group_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
            rebalance_timeout_ms=15_000,
            max_poll_interval_ms=3_600_000,
            fetch_max_wait_ms=settings.fetch_max_wait_ms,
            max_partition_fetch_bytes=262_144,
            fetch_max_bytes=8_388_608,
            metadata_max_age_ms=15_000,
        )
        self._is_sure = False
        self._listener = _Listener(assigned, revoked)
        self._watch_log()
        first = settings.topics[0]
        self._names = () if first.startswith("/") else settings.topics
        if self._names:
            self._consumer.subscribe(list(self._names), listener=self._listener)
        else:
            self._consumer.subscribe(pattern=first[1:-1], listener=self._listener)

    def _watch_log(self) -> None:
        """Learn the cluster's id from every metadata answer; the library itself throws it away."""
        client = self._consumer._client  # noqa: SLF001 - there is no public way to it
        update, closed = client.cluster.update_metadata, client._on_connection_closed  # noqa: SLF001 - the same

        def observed(metadata: Any) -> None:
            found = getattr(metadata, "cluster_id", None)
            if found:
                self.log_changed = self.log_changed or bool(self.log_id and found != self.log_id)
                self.log_id = self.log_id or found
                self._is_sure = True
            update(metadata)

        def lost(connection: Any, reason: Any) -> None:
            self._is_sure = False
            closed(connection, reason)

        client.cluster.update_metadata = observed
        client._on_connection_closed = lost  # noqa: SLF001 - the same

    async def is_same_log(self) -> bool:
        """Tell whether the cluster is surely the one of `log_id`; after a lost connection that means to ask it.

        Whoever answers under the old address may be another cluster, and the library reads on there as if nothing had
        happened. False also while nobody answers.
        """
        if not self._is_sure:
            try:
                async with asyncio.timeout(_ASK_SECONDS):
                    await self._consumer._client.force_metadata_update()  # noqa: SLF001 - see _watch_log
            except (KafkaError, TimeoutError):
                return False
        return self._is_sure and not self.log_changed

    async def start(self) -> None:
        """Connect and join; raises KafkaError or OSError while no broker lets us in."""
        await self._consumer.start()

    async def poll(self, *, milliseconds: int, most: int) -> dict[Partition, list[Record]]:
        """Return the next records by partition, in order, empty when there are none in time.

        Raises:
            OutsideLog: positions that the broker does not have (any more, or yet).
            Oversized: a record that does not fit a fetch.
            KafkaError: anything else; try again or start anew.
        """
        await failpoints.park(failpoints.Point.POLL)
        try:
            found = await self._consumer.getmany(timeout_ms=milliseconds, max_records=most)
        except NoOffsetForPartitionError:
            await asyncio.sleep(_AGAIN_SECONDS)
            return {}
        except OffsetOutOfRangeError as fault:
            raise OutsideLog({tuple(tp): offset for tp, offset in fault.args[0].items()}) from fault
        except RecordTooLargeError as fault:
            raise Oversized(_oversized(fault)) from fault
        return {tuple(tp): [_record(one) for one in records] for tp, records in found.items() if records}

    async def poll_one(self, partition: Partition) -> tuple[Record | None, int]:
        """Return the next record of one partition and its offset; None for a record the library cannot read.

        For the slow path after `poll` failed on what a record holds. Raises TimeoutError when nothing comes.
        """
        tp = TopicPartition(*partition)
        async with asyncio.timeout(_ASK_SECONDS):
            try:
                record = _record(await self._consumer.getone(tp))
            except (UnicodeDecodeError, ValueError, AssertionError):
                offset = await self._consumer.position(tp)
                self.seek(partition, offset + 1)
                return None, offset
        return record, record.offset

    def has_topics(self) -> bool:
        """Tell whether every topic that is named exists, or any that fits the pattern."""
        cluster = self._consumer._client.cluster  # noqa: SLF001 - see _watch_log
        names = self._names or self._consumer.subscription()
        return bool(names) and all(cluster.partitions_for_topic(name) for name in names)

    def partitions(self, topic: str) -> list[Partition]:
        """Return the partitions of a topic, whoever's they are, as the cluster last told; none of an unknown one."""
        known = self._consumer._client.cluster.partitions_for_topic(topic)  # noqa: SLF001 - see _watch_log
        return [(topic, number) for number in known or ()]

    def is_member(self) -> bool:
        """Tell whether the group counts us among its members, with partitions or without."""
        coordinator = self._consumer._coordinator  # noqa: SLF001 - there is no public way to it
        return bool(coordinator is not None and coordinator.generation > 0)

    def assignment(self) -> list[Partition]:
        """Return the partitions that are ours now."""
        return [tuple(tp) for tp in self._consumer.assignment()]

    def seek(self, partition: Partition, offset: int) -> None:
        """Read a partition from `offset` on. A partition that is no longer ours is left alone."""
        tp = TopicPartition(*partition)
        if tp in self._consumer.assignment():
            self._consumer.seek(tp, offset)

    def highwater(self, partition: Partition) -> int | None:
        """Return the end of a partition as the last fetch saw it; None before the first."""
        tp = TopicPartition(*partition)
        if tp not in self._consumer.assignment():
            return None
        end: int | None = self._consumer.highwater(tp)
        return end

    def read_to(self, partition: Partition) -> int | None:
        """Return how far a partition was read, markers of transactions included; None while it has no place."""
        tp = TopicPartition(*partition)
        if tp not in self._consumer.assignment():
            return None
        # The public way to it waits for a position, and so would the loop.
        state = self._consumer._subscription.subscription.assignment.state_value(tp)  # noqa: SLF001
        return state.position if state.has_valid_position else None

    async def committed(self, partition: Partition) -> int | None:
        """Return the group's own committed offset, None when there is none or the broker does not say in time."""
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                offset: int | None = await self._consumer.committed(TopicPartition(*partition))
        except (KafkaError, TimeoutError):
            return None
        return offset

    async def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return how far each partition was read, markers of transactions included; all of them must be placed.

        TimeoutError when one is not, or is no longer ours.
        """
        async with asyncio.timeout(_ASK_SECONDS):
            return {p: await self._consumer.position(TopicPartition(*p)) for p in partitions}

    async def beginnings(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return where each partition's log begins; KafkaError or TimeoutError when the broker does not say."""
        async with asyncio.timeout(_ASK_SECONDS):
            found = await self._consumer.beginning_offsets([TopicPartition(*p) for p in partitions])
        return {tuple(tp): offset for tp, offset in found.items()}

    async def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return where each partition's log ends; KafkaError or TimeoutError when the broker does not say."""
        async with asyncio.timeout(_ASK_SECONDS):
            found = await self._consumer.end_offsets([TopicPartition(*p) for p in partitions])
        return {tuple(tp): offset for tp, offset in found.items()}

    async def copy_positions(self) -> None:
        """Commit our positions to Kafka as a copy for lag tools; a failure is nobody's loss.

        The library's own position is copied, not the last record's: it also counts transaction markers.
        """
        if not self._is_sure or self.log_changed:
            return
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await self._consumer.commit()
            failpoints.reach(failpoints.Point.KAFKA_COMMITTED)
        except (KafkaError, TimeoutError, ValueError) as fault:
            _log.debug("position_copy_failed", reason=type(fault).__name__)

    async def stop(self) -> None:
        """Leave the group and close, within five seconds whatever the broker does."""
        task = spawn(_quietly(self._consumer.stop()), name="consumer-stop")
        await finish_within(task, _STOP_SECONDS)
        task = spawn(_quietly(self._consumer._client.close()), name="client-close")  # noqa: SLF001 - see _watch_log
        await finish_within(task, _STOP_SECONDS)


async def _quietly(work: Awaitable[Any]) -> None:
    try:
        await work
    except asyncio.CancelledError:
        # The library cancels a task it awaits itself; only a cancel of ours may pass.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
    except (KafkaError, OSError) as fault:
        _log.warning("consumer_stop_failed", reason=type(fault).__name__)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # the library is untyped
    def __init__(self, assigned: Callable[[list[Partition]], Awaitable[None]], revoked: Callable[[], None]) -> None:
        self._assigned = assigned
        self._revoked = revoked

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self._revoked()
        if revoked:
            # The first join revokes nothing.
            failpoints.reach(failpoints.Point.PARTITIONS_REVOKED)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        # The library logs and swallows what is raised here; the loop places what is left without a position.
        await self._assigned([tuple(tp) for tp in assigned])


def _record(found: ConsumerRecord) -> Record:
    return Record(
        found.topic, found.partition, found.offset, found.timestamp, found.key, found.value, tuple(found.headers)
    )


def _oversized(fault: RecordTooLargeError) -> dict[Partition, int]:
    """Read partition and offset off the error's arguments: a format, the partition, the offset, the fetch size."""
    return {tuple(fault.args[1]): fault.args[2]} if len(fault.args) > 2 else {}
