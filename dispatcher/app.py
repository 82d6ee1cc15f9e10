"""The composition root: builds the rooms, wires their doors, owns start and stop.

Reads like the journey: Kafka records are accepted by the ledger, fresh deliveries are submitted to the lanes, the
courier carries each through one attempt, the recorder settles it; what waits in Postgres comes back through the
due-reader.

Stopping, in this order: readiness goes off; intake and the due-reader stop taking, the last accept finishes; what
is queued goes back to Postgres untried; attempts under way get their drain seconds, the rest are cut and settled
as interrupted; the recorder writes everything; the own replica row is deleted; Kafka, HTTP and connections close.
A second signal skips the drain seconds. A root task that ends by itself is a fault: everything falls, the exit is
not zero, and whoever supervises the process starts a new one.

A process has one to three roles. Without `ingest` there is no consumer; without `deliver` no lanes, no recorder, no
due-reader and no replay runner, and accepted deliveries are stored waiting for a process that delivers; without `api`
no API. Each is a replica all the same: it holds a lease, and takes over the rows of those that died.
"""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import structlog

from dispatcher.api.call import ApiServices
from dispatcher.api.server import ApiServer
from dispatcher.directory import Directory
from dispatcher.intake.consumer import kafka_settings
from dispatcher.intake.dead_letters import DeadLetters
from dispatcher.intake.decoding import Decoder, PlainMapping
from dispatcher.intake.loop import Doors as IntakeDoors
from dispatcher.intake.loop import Intake, Rules
from dispatcher.intake.producer import publish
from dispatcher.journal import Journal
from dispatcher.kit import clock, failpoints
from dispatcher.kit.stopping import StopRequest
from dispatcher.kit.supervise import finish_within, spawn
from dispatcher.lanes.board import Board
from dispatcher.lanes.courier import Courier, parked
from dispatcher.lanes.doors import BoardLimits, Doors
from dispatcher.lanes.due import DueReader
from dispatcher.lanes.keeper import HostKeeper
from dispatcher.lanes.tokens import TokenDesk
from dispatcher.lanes.watch import Watch
from dispatcher.ledger.claims import ClaimLedger
from dispatcher.ledger.connections import Links, Pool, patiently
from dispatcher.ledger.directory import DirectoryLedger
from dispatcher.ledger.hosts import HostLedger
from dispatcher.ledger.intake import IntakeLedger
from dispatcher.ledger.replay_steps import StepLedger
from dispatcher.ledger.replicas import Membership, Replica, register
from dispatcher.ledger.retention import Daily
from dispatcher.ledger.seals import SealLedger
from dispatcher.ledger.settlement import SettlementLedger
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.errors import DispatcherError, Unavailable
from dispatcher.model.outcome import VerdictKind
from dispatcher.policy.schema_files import load_event_schemas, load_publications, schema_folder
from dispatcher.recording import Recorder
from dispatcher.replays import ReplayRunner
from dispatcher.resealing import Resealer
from dispatcher.roots import count_fence, first_of, for_ever, halt_unless_done
from dispatcher.setting_values import Bind
from dispatcher.settings import EVERY_ROLE, Role, Settings
from dispatcher.shared import Services, make_services, url_rules
from dispatcher.telemetry.probes import Probes, ProbeServer
from dispatcher.trials import Trials
from dispatcher.upkeep import Books, Upkeep
from dispatcher.vault import Vault

_log = structlog.get_logger("app")
_chance = random.Random()  # noqa: S311 - spreads load, keeps no secret

_FLUSH_SECONDS: Final = 10.0
"""How long the last results may take to be written; what is left is sent again by another replica."""
_LEAVE_SECONDS: Final = 3.0
_READY_SECONDS: Final = 60.0
_JOIN_SECONDS: Final = 10.0


class Deliverer:
    """The middle of the journey: takes deliveries that this process owns into the lanes, and out of them again.

    Owns the directory, the recorder, the board, the due-reader and the replay runner.
    """

    def __init__(self, settings: Settings, links: Links, replica: Replica, services: Services) -> None:
        results_bytes = settings.limits.memory_bytes // 4
        self.directory = Directory(
            DirectoryLedger(links.control),
            services.vault,
            schedules={"live": settings.retry.live, "test": settings.retry.test},
            default_limits=settings.limits.host_limits(),
            on_limits=lambda *limits: self.board.set_limits(*limits),  # noqa: PLW0108 - the board is made below
        )
        services.sender.may_write = replica.may_send
        self.recorder = Recorder(
            SettlementLedger(links.settlement, replica, services.delivery_ids),
            services.journal,
            most_bytes=results_bytes,
        )
        self.courier = Courier(
            sender=services.sender,
            directory=self.directory,
            meter=services.journal,
            jitter=lambda: _chance.uniform(0.9, 1.1),
        )
        hosts = HostLedger(links.hosts, replica)
        self.keeper = HostKeeper(hosts, on_limits=self.directory.adopt_limits)
        self.desk = TokenDesk(hosts, on_counted=services.journal.tokens)
        self.board = self.keeper.lanes = self.desk.lanes = Board(
            Doors(
                carry=self.courier.carry,
                settle=self._settle,
                limits_of=self.directory.limits_of,
                pace_of=self.directory.pace_of,
                may_start=lambda now: replica.may_send(now) and not self.recorder.is_behind,
            ),
            self.desk,
            Watch(self.keeper),
            BoardLimits(settings.limits.in_flight, settings.limits.memory_bytes - results_bytes),
        )
        self.claims = ClaimLedger(links.claims, replica)
        self.due = DueReader(
            self.claims,
            self.board,
            self.submit,
            learn=self._learn,
            on_adopted=services.journal.adopted,
            jitter=lambda: _chance.uniform(0.8, 1.2),
        )
        self.replays = ReplayRunner(StepLedger(links.replays), jitter=lambda: _chance.uniform(0.8, 1.2))

    async def submit(self, deliveries: Sequence[Delivery]) -> None:
        """Put deliveries into their lanes; what a lane refuses goes back to Postgres. Never loses one."""
        await self._learn(deliveries)
        now = clock.mono()
        for delivery in deliveries:
            refused = self.board.submit(delivery)
            if refused is not None:
                self.recorder.settle(parked(*refused, now))
        self.board.start()

    async def drain(self, seconds: float, stop: StopRequest) -> None:
        """Empty the lanes: queued deliveries back to Postgres, attempts under way to their end or their cut."""
        pressing = spawn(_call_when_set(stop.pressed, self.board.interrupt), name="pressed")
        try:
            queued = await self.board.drain(seconds)
        finally:
            pressing.cancel()
        now = clock.mono()
        for delivery in queued:
            self.recorder.settle(parked(delivery, 0.0, now))

    async def _learn(self, deliveries: Sequence[Delivery]) -> None:
        try:
            await self.directory.load([delivery.endpoint_id for delivery in deliveries])
        except Unavailable as fault:
            # The courier asks again for each and parks those it cannot place.
            _log.warning("directory_unavailable", reason=str(fault))

    def _settle(self, settlement: Settlement) -> None:
        delivery, kind = settlement.delivery, settlement.verdict.kind
        if kind is VerdictKind.DELIVERED:
            if self.directory.prove(delivery.endpoint_id, delivery.host_id):
                self.recorder.first_success(delivery.endpoint_id, delivery.host_id)
        elif kind is VerdictKind.GONE:
            self.directory.close(delivery.endpoint_id, delivery.host_id)
        self.recorder.settle(settlement)


class Daemon:
    """One replica, from its first statement to its last. `run` is the whole life; make a new one for another.

    `api_url` is None without the role `api`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        roles: Collection[Role] = EVERY_ROLE,
        stop: StopRequest,
        on_ready: Callable[["Daemon"], Awaitable[None]],
        n_dropped_lines: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._roles = frozenset(roles)
        self._n_dropped_lines = n_dropped_lines
        self._stop = stop
        self._on_ready = on_ready
        self.api_url: str | None = None
        self.metrics_url = ""
        self.journal: Journal
        self.vault: Vault

    async def run(self) -> None:
        """Start, serve until asked to stop, stop in order.

        Raises:
            DispatcherError: something needed is missing, or this replica was taken over.
        """
        async with AsyncExitStack() as stack:
            links = self._open_links(stack)
            services = await make_services(stack, self._settings, links.control)
            self.journal, self.vault = services.journal, services.vault
            # Nobody renews the lease until the rooms are open: what may take long at a start comes before it.
            replica, members = await patiently(partial(self._join, links))
            async with members.until_begun():
                deliverer = Deliverer(self._settings, links, replica, services) if Role.DELIVER in self._roles else None
                keep = self._settings.retention
                intake = None
                if Role.INGEST in self._roles:
                    dead_letters = await self._open_dead_letters(stack, services)
                    intake = self._make_intake(links, replica, services, deliverer, members, dead_letters)
                if deliverer is not None:
                    board = deliverer.board
                    links.lost = deliverer.due.answer_was_lost
                    failpoints.testify(lambda: {"exposed": len(replica.held) - board.queued})
                probes = self._make_probes(services, deliverer, replica, intake)
                await self._serve(stack, services, deliverer, probes)
                claims = ClaimLedger(links.claims, replica) if deliverer is None else deliverer.claims
                upkeep = Upkeep(
                    replica,
                    Books.of(members, claims, links.control, self._settings.database_url()),
                    services.metrics,
                    keep_days={
                        Daily.EVENT: keep.payload_days,
                        Daily.ATTEMPT: keep.attempt_days,
                        Daily.RESPONSE: keep.response_days,
                    },
                    on_announced=self.journal.announced,
                )
                resealer = Resealer(SealLedger(links.control), services.vault, services.metrics)
            await self._live(deliverer, intake, upkeep, resealer, probes)
            await patiently(members.leave, seconds=_LEAVE_SECONDS)
            _log.info("replica_left", replica=replica.replica_id)

    def _open_links(self, stack: AsyncExitStack) -> Links:
        links = Links(self._settings.database_url())
        stack.push_async_callback(links.aclose)
        return links

    async def _join(self, links: Links) -> tuple[Replica, Membership]:
        """Become a replica, and see to the days' tables; anew when that takes half a lease: nobody renews it yet."""
        pod, delivers = socket.gethostname(), Role.DELIVER in self._roles
        replica = await register(links.control, pod, self._settings.lease.seconds, delivers=delivers)
        _log.info("replica_registered", replica=replica.replica_id)
        members = Membership(links.control, replica, payload_days=self._settings.retention.payload_days)
        async with members.until_begun():
            await patiently(members.make_days, seconds=self._settings.lease.seconds / 2)
        return replica, members

    async def _open_dead_letters(self, stack: AsyncExitStack, services: Services) -> DeadLetters | None:
        topic = self._settings.kafka.dead_letter_topic
        if not topic:
            return None
        copies = DeadLetters(kafka_settings(self._settings), topic, services.journal)
        return await stack.enter_async_context(copies)

    def _make_intake(
        self,
        links: Links,
        replica: Replica,
        services: Services,
        deliverer: Deliverer | None,
        members: Membership,
        dead_letters: DeadLetters | None,
    ) -> Intake:
        settings = self._settings
        ledger = IntakeLedger(
            links.intake,
            replica,
            days=members.days,
            full_hosts=list if deliverer is None else deliverer.board.full_hosts,
            full_endpoints=list if deliverer is None else deliverer.board.full_endpoints,
            delivers=deliverer is not None,
        )
        kafka = kafka_settings(settings)
        copy = None if dead_letters is None else dead_letters.offer
        if deliverer is None:
            # Nothing that is accepted here is this process's: there is always room, and nothing to look for.
            doors = IntakeDoors(_refuse, lambda: True, _nothing, services.vault.seal, lambda: None, copy)
        else:
            doors = IntakeDoors(
                submit=deliverer.submit,
                has_room=deliverer.board.has_room,
                room=deliverer.board.room,
                seal=services.vault.seal,
                unknown_outcome=deliverer.due.answer_was_lost,
                dead_letters=copy,
            )
        plain = PlainMapping(**settings.intake.plain_json) if settings.intake.plain_json else None
        decoder = Decoder(load_event_schemas(schema_folder()), services.catalogue, plain=plain)
        return Intake(
            kafka,
            ledger,
            decoder,
            doors,
            services.journal,
            rules=Rules(
                settings.intake.unknown_account, settings.kafka.start, jitter=lambda: _chance.uniform(0.8, 1.2)
            ),
        )

    def _make_probes(
        self, services: Services, deliverer: Deliverer | None, replica: Replica, intake: Intake | None
    ) -> Probes:
        counts = services.metrics.counts
        lag = counts("loop_lag_seconds")
        probes = Probes(on_lag=lag.put)
        probes.conditions = {
            "not_stopping": lambda: not self._stop.asked.is_set(),
            "lease": lambda: replica.may_send(clock.mono()),
        }
        if intake is not None:
            probes.conditions["kafka"] = intake.joined.is_set
            probes.vitals["reading"] = lambda: not intake.is_beyond_cure
        if deliverer is not None:
            due = deliverer.due
            probes.conditions["postgres"] = lambda: clock.mono() - due.last_success < _READY_SECONDS

        def refresh() -> None:
            now = clock.mono()
            counts("log_lines_dropped").put(self._n_dropped_lines())
            counts("replica_lease_seconds").put(replica.lease_left(now))
            if deliverer is not None:
                board = deliverer.board
                counts("in_flight").put(board.in_flight)
                counts("suspects_in_flight").put(board.suspects_in_flight)
                counts("lanes").put(board.n_lanes)
                counts("hosts_paused").put(deliverer.keeper.n_paused)
                counts("lane_bytes").put(board.held_bytes + deliverer.recorder.held_bytes)
                counts("unsettled").put(deliverer.recorder.n_waiting)
                counts("oldest_throttled_age_seconds").put(board.oldest_throttled_seconds(now))

        services.metrics.before_scrape(refresh)
        return probes

    async def _serve(
        self, stack: AsyncExitStack, services: Services, deliverer: Deliverer | None, probes: Probes
    ) -> None:
        """Open the doors for people and programs: the API where this process has that role, and the probes."""
        bind, watched = self._settings.http.bind, self._settings.metrics.bind
        try:
            if Role.API in self._roles:
                api = await self._make_api(stack, services, deliverer)
                server = await stack.enter_async_context(ApiServer(_address(bind), api))
                self.api_url = server.url
            watch = ProbeServer(probes, services.registry, host=watched.host, port=watched.port)
            await stack.enter_async_context(watch)
        except OSError as fault:
            places = [_address(bind)] if Role.API in self._roles else []
            message = (
                f"cannot listen on {' and '.join([*places, _address(watched)])}: {fault.strerror or fault}; "
                "set DISPATCHER_HTTP__BIND and DISPATCHER_METRICS__BIND, port 0 takes any free one"
            )
            raise DispatcherError(message) from fault
        self.metrics_url = f"{watch.url}/metrics"

    async def _make_api(self, stack: AsyncExitStack, services: Services, deliverer: Deliverer | None) -> ApiServices:
        settings = self._settings
        pool = await patiently(partial(Pool.open, settings.database_url()))
        stack.push_async_callback(pool.aclose)
        return ApiServices(
            pool=pool,
            vault=services.vault,
            places=services.places,
            publications=load_publications(schema_folder()),
            delivery_ids=services.delivery_ids,
            n_attempts={"live": len(settings.retry.live), "test": len(settings.retry.test)},
            catalogue=services.catalogue,
            url_rules=url_rules(settings),
            host_defaults=settings.limits.host_limits(),
            resolve=services.sender.look_up,
            on_endpoint_changed=deliverer.directory.forget if deliverer is not None else lambda _: None,
            source_ips=tuple(settings.egress.source_ips),
            source_ips_change_at=settings.egress.source_ips_change_at,
            publish=partial(publish, kafka_settings(settings)) if settings.kafka.bootstrap_servers else None,
            trials=None if deliverer is None else Trials(deliverer.directory, services.sender),
            user_agent=services.sender.user_agent,
        )

    async def _until_joined(self, intake: Intake) -> None:
        """Wait until events are being read, so that "ready" means it; a Kafka that is away does not hold it up."""
        waits = {spawn(intake.joined.wait(), name="joined"), spawn(self._stop.asked.wait(), name="stop-asked")}
        await asyncio.wait(waits, timeout=_JOIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _live(
        self,
        deliverer: Deliverer | None,
        intake: Intake | None,
        upkeep: Upkeep,
        resealer: Resealer,
        probes: Probes,
    ) -> None:
        """Run every root task until asked to stop; then take the rooms down in the order of the journey."""
        eternal = [
            ("heartbeat", upkeep.keep_lease()),
            ("takeover", upkeep.take_over()),
            ("upkeep", upkeep.keep_up()),
            ("forgetting", upkeep.forget()),
            ("key-ring", resealer.run()),
            ("probes", probes.run()),
        ]
        if deliverer is not None:
            eternal += [
                ("directory", deliverer.directory.run()),
                ("board", deliverer.board.run()),
                ("tokens", deliverer.desk.run()),
                ("hosts", deliverer.keeper.run()),
                ("replays", deliverer.replays.run()),
            ]
        try:
            async with asyncio.TaskGroup() as group:
                passing = _Passing(group, deliverer, intake)
                roots = [group.create_task(for_ever(name, work), name=name) for name, work in eternal]
                for task in (*roots, *passing.tasks):
                    task.add_done_callback(partial(count_fence, self.journal))
                    if deliverer is not None:
                        task.add_done_callback(partial(halt_unless_done, deliverer.board))
                if intake is not None:
                    await self._until_joined(intake)
                await self._on_ready(self)
                await self._stop.asked.wait()
                _log.info("stop_asked")
                failpoints.reach(failpoints.Point.STOPPING)
                await passing.end(self._settings.shutdown.drain_seconds, self._stop)
                for root in roots:
                    root.cancel()
        except BaseExceptionGroup as group_fault:
            if deliverer is not None:
                deliverer.board.interrupt()
            raise first_of(group_fault) from group_fault


class _Passing:
    """The root tasks that deliveries pass through: intake, due-reader and recorder, as far as this process has them.

    They end by being told to, in the order of the journey.
    """

    def __init__(self, group: asyncio.TaskGroup, deliverer: Deliverer | None, intake: Intake | None) -> None:
        self._deliverer = deliverer
        self._intake = intake
        self._taking: list[asyncio.Task[None]] = []
        if deliverer is not None:
            self._recording = group.create_task(deliverer.recorder.run(), name="recorder")
            self._taking.append(group.create_task(deliverer.due.run(), name="due-reader"))
        if intake is not None:
            self._taking.append(group.create_task(intake.run(), name="intake"))

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Return all of them."""
        return self._taking if self._deliverer is None else [*self._taking, self._recording]

    async def end(self, drain_seconds: float, stop: StopRequest) -> None:
        """Take nothing more, empty the lanes, write every result."""
        deliverer = self._deliverer
        if self._intake is not None:
            self._intake.stop()
        if deliverer is not None:
            deliverer.due.stop()
        if self._taking:
            await asyncio.wait(self._taking)
        if deliverer is None:
            return
        await deliverer.drain(drain_seconds, stop)
        failpoints.reach(failpoints.Point.DRAINING)
        deliverer.recorder.close()
        if not await finish_within(self._recording, _FLUSH_SECONDS):
            _log.error("results_unwritten", n_settlements=deliverer.recorder.n_waiting)


def _address(bind: Bind) -> str:
    return f"[{bind.host}]:{bind.port}" if ":" in bind.host else f"{bind.host}:{bind.port}"


async def _refuse(deliveries: Sequence[Delivery]) -> None:
    if deliveries:
        message = "a process that does not deliver was given deliveries"
        raise DispatcherError(message)


async def _nothing() -> None:
    pass


async def _call_when_set(event: asyncio.Event, act: Callable[[], None]) -> None:
    await event.wait()
    act()
