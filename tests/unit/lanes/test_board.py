"""Who goes next: pacing, caps, fairness and bounds of the lanes, in virtual time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio

from dispatcher.kit.supervise import spawn
from dispatcher.lanes.board import Board
from dispatcher.lanes.doors import BoardLimits, Doors
from dispatcher.lanes.lane import Lane
from dispatcher.lanes.tokens import TokenDesk
from dispatcher.lanes.watch import Watch
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.endpoint import HostLimits
from dispatcher.model.outcome import OutcomeKind, Verdict, VerdictKind
from dispatcher.policy.pacing import UNVERIFIED
from tests.support.builders import a_delivery, a_settlement, an_outcome
from tests.support.tokens import MemoryTokens

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]

WIDE = HostLimits(rate=1e6, burst=1_000_000, in_flight=64)


_boards: list[Board] = []
_desks: list[asyncio.Task[None]] = []


@pytest_asyncio.fixture(autouse=True, loop_scope="function")
async def _end_attempts() -> AsyncIterator[None]:
    """Cut what still hangs at the end of a test."""
    yield
    while _boards:
        await _boards.pop().drain(0.0)
    while _desks:
        _desks.pop().cancel()


class Orders:
    """Remembers the orders that a board's watch gives."""

    def __init__(self) -> None:
        self.given: list[tuple[str, int, float | None]] = []

    def pause(self, endpoint_id: int, host_id: int, seconds: float | None) -> None:
        self.given.append(("pause", endpoint_id, seconds))

    def slow_down(self, host_id: int) -> None:
        self.given.append(("slow_down", host_id, None))

    def recovers(self, host_id: int) -> None:
        self.given.append(("recovers", host_id, None))

    def forgive(self, endpoint_id: int) -> None:
        self.given.append(("forgive", endpoint_id, None))


class World:
    """A board whose attempts last as long as the test says."""

    def __init__(self, *, limits: HostLimits = WIDE, board: BoardLimits | None = None, seconds: float = 0.1) -> None:
        self.seconds: dict[int, float] = {}
        self.default_seconds = seconds
        self.may_start = True
        self.started: list[tuple[float, Delivery]] = []
        self.settled: list[Settlement] = []
        self.running: Counter[int] = Counter()
        self.most_running: Counter[int] = Counter()
        self.orders = Orders()
        self.tokens = MemoryTokens(limits)
        self.paces: dict[int, HostLimits] = {}
        self.carry_one = self.carry
        self.desk = TokenDesk(self.tokens, on_counted=lambda *_: None)
        self.board = self.desk.lanes = Board(
            Doors(
                carry=lambda delivery: self.carry_one(delivery),  # noqa: PLW0108 - set anew by tests
                settle=self.settled.append,
                limits_of=lambda _: self.tokens.limits,
                pace_of=self.paces.get,
                may_start=lambda _: self.may_start,
            ),
            self.desk,
            Watch(self.orders),
            board or BoardLimits(in_flight=1_000, memory_bytes=1 << 28),
        )
        serving = spawn(self.desk.run(), name="desk")
        _desks.append(serving)
        _boards.append(self.board)

    async def carry(self, delivery: Delivery) -> Settlement:
        host = delivery.host_id
        self.started.append((asyncio.get_running_loop().time(), delivery))
        self.running[host] += 1
        self.most_running[host] = max(self.most_running[host], self.running[host])
        try:
            await asyncio.sleep(self.seconds.get(host, self.default_seconds))
        except asyncio.CancelledError:
            return a_settlement(delivery, attempt_no=99)
        finally:
            self.running[host] -= 1
        return a_settlement(delivery)

    def submit(self, n: int, *, host: int = 1, **changes: Any) -> list[tuple[Delivery, float] | None]:
        plain = {"host_id": host, "endpoint_id": host, "body": b"{}"}
        answers = [self.board.submit(a_delivery(**(plain | changes))) for _ in range(n)]
        self.board.start()
        return answers

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.board.run())
            yield
            task.cancel()


async def test_every_submitted_delivery_is_settled_once() -> None:
    world = World()

    world.submit(200, host=1)
    world.submit(200, host=2)
    await asyncio.sleep(10)

    assert len({s.delivery.delivery_id for s in world.settled}) == 400
    assert len(world.settled) == 400
    assert (world.board.queued, world.board.in_flight, world.board.held_bytes) == (0, 0, 0)


async def test_a_host_never_has_more_in_flight_than_its_cap() -> None:
    world = World(limits=HostLimits(rate=1e6, burst=1_000_000, in_flight=3))

    world.submit(30)
    await asyncio.sleep(5)

    assert world.most_running[1] == 3
    assert len(world.settled) == 30


async def test_all_hosts_together_never_exceed_the_cap_of_the_process() -> None:
    world = World(board=BoardLimits(in_flight=10, memory_bytes=1 << 28))

    for host in range(50):
        world.submit(4, host=host)
        assert world.board.in_flight <= 10
    await asyncio.sleep(30)

    assert len(world.settled) == 200


async def test_a_host_is_paced_at_its_rate_after_its_burst() -> None:
    world = World(limits=HostLimits(rate=10.0, burst=5, in_flight=64), seconds=0.0)

    world.submit(25)
    await asyncio.sleep(10)

    times = [when for when, _ in world.started]
    assert len(times) == 25
    for first in range(25):
        for last in range(first, 25):
            assert last - first + 1 <= 5 + 10.0 * (times[last] - times[first]) + 1e-6
    # A third of a burst of five stays for tokens that are late: three at once, then ten per second.
    assert times[-1] - times[0] == pytest.approx(2.2, abs=0.15)


async def test_a_long_queue_does_not_delay_another_hosts_only_delivery() -> None:
    world = World(board=BoardLimits(in_flight=4, memory_bytes=1 << 28))

    world.submit(500, host=1)
    world.submit(1, host=2)
    await asyncio.sleep(0.15)

    assert [d.host_id for _, d in world.started].index(2) <= 8


async def test_a_hanging_host_leaves_the_others_their_turns() -> None:
    world = World(limits=HostLimits(rate=1e6, burst=1_000_000, in_flight=8))
    world.seconds[1] = 3_600.0

    world.submit(100, host=1)
    world.submit(100, host=2)
    await asyncio.sleep(5)

    assert sum(s.delivery.host_id == 2 for s in world.settled) == 100


async def test_a_full_lane_refuses_and_says_when_to_come_back() -> None:
    world = World(limits=HostLimits(rate=10.0, burst=10, in_flight=1))
    world.seconds[1] = 3_600.0

    answers = world.submit(50)

    # 10 + 2 s of tokens, and the one that started at once only after the last was offered.
    assert sum(answer is None for answer in answers) == 30
    assert all(answer[1] >= 1.0 for answer in answers if answer is not None)
    assert world.board.full_endpoints() == [1]
    assert world.board.unwilling_endpoints() == [1]


async def test_intake_waits_while_too_much_is_queued_and_goes_on_when_it_has_drained() -> None:
    world = World(board=BoardLimits(in_flight=10, memory_bytes=1 << 28, queued_high=40, queued_low=10))

    world.submit(60)
    assert not world.board.has_room()
    async with asyncio.timeout(5):
        await world.board.room()

    assert world.board.queued <= 10


async def test_intake_waits_while_bytes_are_over_the_mark() -> None:
    world = World(board=BoardLimits(in_flight=10, memory_bytes=100_000))

    world.submit(10, body=b"x" * 20_000)
    assert not world.board.has_room()
    async with asyncio.timeout(5):
        await world.board.room()

    assert world.board.held_bytes < 100_000


async def test_a_dead_hosts_backlog_does_not_keep_intake_waiting() -> None:
    world = World(board=BoardLimits(in_flight=10, memory_bytes=1 << 28, queued_high=40, queued_low=10))
    world.seconds[1] = 3_600.0

    async with world.looking():
        world.submit(100, host=1)
        assert not world.board.has_room()
        async with asyncio.timeout(2):
            await world.board.room()


async def test_nothing_starts_while_the_lease_is_in_doubt() -> None:
    world = World()
    world.may_start = False

    world.submit(10)
    await asyncio.sleep(1)
    assert world.started == []
    world.may_start = True
    await asyncio.sleep(1)

    assert len(world.settled) == 10


async def test_draining_lets_attempts_finish_and_returns_what_was_queued() -> None:
    world = World(limits=HostLimits(rate=1e6, burst=1_000_000, in_flight=5), seconds=2.0)
    world.submit(20)
    await asyncio.sleep(0.1)

    queued = await world.board.drain(10.0)

    assert len(queued) == 15
    assert len(world.settled) == 5
    assert all(s.attempt_no == 1 for s in world.settled)
    assert world.board.submit(a_delivery()) is not None


async def test_attempts_that_outlast_the_drain_are_interrupted_and_still_settled() -> None:
    world = World(seconds=3_600.0)
    world.submit(5)
    await asyncio.sleep(0.1)

    await world.board.drain(1.0)

    assert [s.attempt_no for s in world.settled] == [99] * 5


async def test_a_halted_board_starts_nothing_even_when_its_attempts_are_cut() -> None:
    world = World(limits=HostLimits(rate=1e6, burst=1_000_000, in_flight=5), seconds=3_600.0)
    world.submit(20)
    await asyncio.sleep(0.1)

    world.board.halt()
    world.board.interrupt()
    await asyncio.sleep(10)

    assert (len(world.started), len(world.settled)) == (5, 5)


async def test_a_lane_without_work_is_forgotten() -> None:
    world = World()

    async with world.looking():
        for host in range(100):
            world.submit(1, host=host)
        await asyncio.sleep(60)

        assert world.board.n_lanes == 0


async def test_endpoints_at_rest_take_no_share_of_their_hosts_lane() -> None:
    world = World(limits=HostLimits(rate=10.0, burst=100, in_flight=1), seconds=0.0)

    async with world.looking():
        for endpoint in range(60):
            world.submit(1, endpoint_id=endpoint)
        for _ in range(80):
            world.submit(1, endpoint_id=99)
            await asyncio.sleep(1)
        world.default_seconds = 3_600.0
        world.submit(50, endpoint_id=99)

        # A hundred and twenty may wait: with sixty names at the table each would be thought to have two.
        assert world.board.unwilling_endpoints() == []


async def test_an_endpoint_at_rest_is_remembered_as_long_as_its_breaker_remembers() -> None:
    world = World()

    async def fail(delivery: Delivery) -> Settlement:
        return a_settlement(delivery, outcome=an_outcome(OutcomeKind.CONNECTION_REFUSED))

    async with world.looking():
        world.carry_one = fail
        world.submit(9)
        for _ in range(9):
            await asyncio.sleep(6)
            world.submit(1, endpoint_id=2)
        assert world.orders.given == []
        world.submit(1)
        await asyncio.sleep(1)

    assert world.orders.given == [("pause", 1, None)]


async def test_new_limits_hold_from_the_next_start() -> None:
    world = World(limits=HostLimits(rate=1.0, burst=1, in_flight=1), seconds=0.0)
    world.submit(3)

    await asyncio.sleep(0.01)

    world.tokens.limits = HostLimits(rate=1e6, burst=100_000, in_flight=10)
    world.board.set_limits(1, world.tokens.limits)
    world.submit(0)
    await asyncio.sleep(1.2)

    assert len(world.settled) == 3


async def test_a_delivery_whose_attempt_falls_goes_back_and_the_lane_goes_on() -> None:
    world = World()
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    broken = a_delivery()
    sound = world.carry

    async def carry(delivery: Delivery) -> Settlement:
        if delivery is broken:
            raise ZeroDivisionError
        return await sound(delivery)

    world.carry_one = carry
    world.board.submit(broken)
    world.submit(5)
    await asyncio.sleep(1)

    verdicts = {s.delivery.delivery_id: s.verdict.kind for s in world.settled}
    assert len(verdicts) == 6
    assert verdicts[broken.delivery_id] == "parked"
    assert [type(fault) for fault in told] == [ZeroDivisionError]
    assert world.board.held_bytes == 0


async def test_a_fault_after_the_settlement_settles_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

    def fall(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Watch, "note", fall)
    world.submit(1)
    await asyncio.sleep(1)

    assert [settlement.verdict.kind for settlement in world.settled] == [VerdictKind.DELIVERED]
    assert [type(fault) for fault in told] == [ZeroDivisionError]
    assert (world.board.in_flight, world.board.held_bytes) == (0, 0)


async def test_two_endpoints_of_one_host_take_turns_whatever_their_queues() -> None:
    world = World(limits=HostLimits(rate=1e6, burst=1_000_000, in_flight=1))

    world.submit(100, endpoint_id=1)
    world.submit(5, endpoint_id=2)
    await asyncio.sleep(1.2)

    order = [delivery.endpoint_id for _, delivery in world.started]
    assert order.count(2) == 5
    # The crowded one had its first turn before the other came.
    assert order.index(2) <= 2
    assert max(place for place, endpoint in enumerate(order) if endpoint == 2) <= 11


async def test_a_full_lane_gives_up_the_newest_of_whoever_holds_most() -> None:
    world = World(limits=HostLimits(rate=10.0, burst=10, in_flight=1), seconds=3_600.0)
    world.submit(30, endpoint_id=1)

    (answer,) = world.submit(1, endpoint_id=2)

    assert answer is not None
    refused, seconds = answer
    assert refused.endpoint_id == 1
    assert seconds >= 1.0
    assert world.board.full_endpoints() == [1]
    assert world.board.queued + world.board.in_flight == 30


async def test_first_attempts_and_later_ones_take_turns_within_an_endpoint() -> None:
    world = World(limits=HostLimits(rate=1e6, burst=1_000_000, in_flight=1))

    world.submit(20, attempts=3)
    world.submit(5)
    await asyncio.sleep(1.5)

    order = [delivery.attempts for _, delivery in world.started]
    assert max(place for place, attempts in enumerate(order) if attempts == 0) <= 11


async def test_later_attempts_hold_at_most_half_of_the_slots_while_first_ones_wait() -> None:
    world = World(board=BoardLimits(in_flight=10, memory_bytes=1 << 28), seconds=100.0)
    for host in range(1, 11):
        world.submit(5, host=host, attempts=1)
    await asyncio.sleep(0.1)
    assert world.board.in_flight == 10

    world = World(board=BoardLimits(in_flight=10, memory_bytes=1 << 28), seconds=100.0)
    world.may_start = False
    for host in range(1, 11):
        world.submit(5, host=host, attempts=1)
        world.submit(5, host=host + 100)
    world.may_start = True
    await asyncio.sleep(0.5)

    assert Counter(delivery.attempts > 0 for _, delivery in world.started) == {True: 5, False: 5}


async def test_hosts_that_keep_us_waiting_hold_at_most_a_quarter_of_the_slots() -> None:
    world = World(board=BoardLimits(in_flight=40, memory_bytes=1 << 28), seconds=0.05)
    dead = range(1, 31)
    for host in dead:
        world.seconds[host] = 3_600.0
    async with world.looking():
        for host in dead:
            world.submit(1, host=host)
        await asyncio.sleep(2.0)
        assert world.board.in_flight == 30
        for host in dead:
            world.submit(5, host=host)
        for host in range(101, 121):
            world.submit(50, host=host)
        await asyncio.sleep(10.0)

    assert sum(world.running[host] for host in dead) == 30
    assert sum(s.delivery.host_id > 100 for s in world.settled) == 1_000


async def test_without_the_suspect_pool_dead_hosts_would_hold_every_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lane, "look", lambda *_: None)
    world = World(board=BoardLimits(in_flight=40, memory_bytes=1 << 28), seconds=0.05)
    for host in range(1, 31):
        world.seconds[host] = 3_600.0
        world.submit(5, host=host)
    async with world.looking():
        await asyncio.sleep(2.0)
        for host in range(101, 121):
            world.submit(50, host=host)
        await asyncio.sleep(10.0)

    assert sum(s.delivery.host_id > 100 for s in world.settled) == 0


async def test_a_paused_host_gives_back_what_it_holds_and_takes_nothing_until_then() -> None:
    world = World(limits=HostLimits(rate=1e6, burst=1_000_000, in_flight=1), seconds=0.5)
    world.submit(10)
    await asyncio.sleep(0.1)

    world.board.pause_host(1, 5.0)
    refused = world.submit(1)

    assert [round(s.verdict.retry_in_seconds or 0) for s in world.settled] == [5] * 9
    assert {s.verdict.kind for s in world.settled} == {"parked"}
    assert refused[0] is not None
    assert world.board.full_hosts() == [1]
    await asyncio.sleep(6.0)
    assert world.submit(1) == [None]
    assert world.board.held_bytes > 0


async def test_a_host_that_was_found_paused_when_it_wanted_tokens_goes_on_after_the_pause() -> None:
    world = World(limits=HostLimits(rate=10.0, burst=10, in_flight=1))
    world.tokens.paused[1] = asyncio.get_running_loop().time() + 5.0

    world.submit(3)
    await asyncio.sleep(0.1)
    sent_back = [s.verdict.kind for s in world.settled]
    await asyncio.sleep(6.0)
    world.submit(3)
    await asyncio.sleep(2.0)

    assert sent_back == ["parked"] * 3
    assert len(world.started) == 3


async def test_a_lane_whose_ask_was_forgotten_goes_on_within_a_second() -> None:
    world = World(limits=HostLimits(rate=10.0, burst=10, in_flight=1))
    async with world.looking():
        world.submit(1)
        world.desk._asking.clear()
        await asyncio.sleep(1.0)

    assert len(world.started) == 1


async def test_a_paused_endpoint_leaves_its_neighbours_alone() -> None:
    world = World()
    world.board.pause_endpoint(1, 5.0)

    assert world.submit(1, endpoint_id=1)[0] is not None
    assert world.submit(1, endpoint_id=2) == [None]
    assert world.board.full_endpoints() == [1]


async def test_pauses_that_postgres_knows_are_adopted_and_ended() -> None:
    world = World()
    world.board.set_pauses({1: 60.0}, {7: 60.0})
    assert (world.board.full_hosts(), world.board.full_endpoints()) == ([1], [7])

    world.board.set_pauses({}, {})

    assert (world.board.full_hosts(), world.board.full_endpoints()) == ([], [])


async def test_a_short_pause_does_not_end_a_long_one_and_a_resume_does() -> None:
    world = World()
    world.board.pause_endpoint(1, 600.0)
    world.board.pause_endpoint(1, 5.0)

    await asyncio.sleep(10.0)
    (refused,) = world.submit(1)
    assert refused is not None
    assert refused[1] == pytest.approx(590.0)

    world.board.set_pauses({}, {})
    assert world.submit(1) == [None]


async def most_at_once_after_the_pause(world: World) -> int:
    """Offer a hundred deliveries and return how many of them are under way together before any has ended."""
    world.most_running.clear()
    world.submit(100)
    await asyncio.sleep(world.default_seconds * 0.8)
    return world.most_running[1]


async def test_after_a_pause_that_outlives_its_lane_one_request_goes_at_a_time_until_one_goes_well() -> None:
    world = World(seconds=0.5)
    async with world.looking():
        world.submit(1)
        await asyncio.sleep(1.0)
        world.board.pause_endpoint(1, 20.0)
        await asyncio.sleep(20.5)
        assert world.board.n_lanes == 0

        assert await most_at_once_after_the_pause(world) == 1
        await asyncio.sleep(1.0)
        assert world.most_running[1] > 1

    assert ("forgive", 1, None) in world.orders.given


@pytest.mark.parametrize(
    ("hosts", "endpoints"), [({}, {1: 5.0}), ({1: 5.0}, {}), ({}, {1: -5.0})], ids=["endpoint", "host", "over already"]
)
async def test_a_replica_that_had_nothing_of_it_or_began_only_now_sends_one_request_at_a_time(
    hosts: dict[int, float], endpoints: dict[int, float]
) -> None:
    world = World(seconds=0.5)
    world.board.set_pauses(hosts, endpoints)
    await asyncio.sleep(5.5)
    world.board.set_pauses(dict.fromkeys(hosts, -0.5), dict.fromkeys(endpoints, -0.5))

    assert await most_at_once_after_the_pause(world) == 1


async def test_an_endpoint_that_answered_well_elsewhere_is_met_with_all_there_is() -> None:
    world = World(seconds=0.5)
    world.board.set_pauses({}, {1: 5.0})
    await asyncio.sleep(5.5)
    world.board.set_pauses({}, {})

    assert await most_at_once_after_the_pause(world) == WIDE.in_flight


async def test_an_own_pause_outlives_a_reading_that_began_before_it() -> None:
    world = World()
    world.board.pause_host(1, 60.0)

    world.board.set_pauses({}, {})
    assert world.board.full_hosts() == [1]
    await asyncio.sleep(4.0)
    world.board.set_pauses({}, {})

    assert world.board.full_hosts() == []


async def test_an_endpoint_without_success_gets_one_request_per_second_one_at_a_time() -> None:
    world = World(seconds=0.2)
    world.paces[1] = UNVERIFIED

    world.submit(5, endpoint_id=1)
    world.submit(5, endpoint_id=2)
    await asyncio.sleep(3.0)

    times = [when for when, delivery in world.started if delivery.endpoint_id == 1]
    assert len(times) == 3
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(times))
    assert sum(s.delivery.endpoint_id == 2 for s in world.settled) == 5


async def test_a_first_success_ends_the_slow_pace_at_once() -> None:
    world = World(seconds=0.2)
    world.paces[1] = UNVERIFIED
    world.submit(5, endpoint_id=1)
    await asyncio.sleep(0.1)

    world.paces.clear()
    await asyncio.sleep(0.6)

    assert len(world.settled) == 5


async def test_a_hosts_cap_is_shared_with_other_replicas() -> None:
    world = World(limits=HostLimits(rate=1e6, burst=1_000_000, in_flight=7), seconds=100.0)
    world.board.set_replicas(3, 0)

    world.submit(20, host=3)
    await asyncio.sleep(1.0)
    assert world.most_running[3] == 3

    world.board.set_replicas(1, 0)
    await asyncio.sleep(1.0)
    assert world.most_running[3] == 7


async def test_a_replica_without_a_share_sends_nothing_and_gives_everything_back() -> None:
    world = World(limits=HostLimits(rate=1e6, burst=1_000_000, in_flight=1), seconds=1.0)
    world.board.set_replicas(2, 0)

    assert world.submit(1, host=1)[0] is not None
    assert world.board.full_hosts() == [1]
    assert world.submit(1, host=2) == [None]


async def test_mostly_failing_attempts_pause_the_endpoint() -> None:
    world = World()

    async def fail(delivery: Delivery) -> Settlement:
        return a_settlement(delivery, outcome=an_outcome(OutcomeKind.CONNECTION_REFUSED))

    world.carry_one = fail
    world.submit(12)
    await asyncio.sleep(1.0)

    assert world.orders.given[0] == ("pause", 1, None)


async def test_a_host_that_asks_for_silence_gets_it_and_overload_halves_its_rate() -> None:
    world = World()

    async def refuse(delivery: Delivery) -> Settlement:
        verdict = Verdict(VerdictKind.RETRY, 1, 60.0, endpoint_pause_seconds=60.0)
        return a_settlement(delivery, outcome=an_outcome(OutcomeKind.HTTP_429, status=429), verdict=verdict)

    world.carry_one = refuse
    world.submit(1)
    await asyncio.sleep(1.0)

    assert world.orders.given == [("slow_down", 1, None), ("pause", 1, 60.0)]


async def after_a_pause(*, seconds_ago: float, **options: Any) -> World:
    """Return a world whose only endpoint answered once and was paused then, until so long ago."""
    world = World(**options)
    world.submit(1)
    await asyncio.sleep(1.0)
    world.board.pause_endpoint(1, 1.0)
    await asyncio.sleep(1.0 + seconds_ago)
    return world


async def test_after_a_pause_one_probe_at_a_time_goes_until_it_answers_well() -> None:
    world = await after_a_pause(seconds_ago=0.5, seconds=0.5)

    world.submit(6)
    await asyncio.sleep(0.4)
    assert world.most_running[1] == 1
    await asyncio.sleep(0.4)

    assert world.most_running[1] == 5
    assert world.orders.given == [("forgive", 1, None), ("recovers", 1, None)]


async def test_what_answered_another_replica_well_is_probed_no_more() -> None:
    world = await after_a_pause(seconds_ago=3.0, seconds=0.5)
    world.board.set_pauses({}, {1: -3.0})
    world.submit(6)
    await asyncio.sleep(0.1)
    assert world.most_running[1] == 1

    world.board.set_pauses({}, {})
    world.submit(6)
    await asyncio.sleep(0.1)

    assert world.most_running[1] == 12


async def test_a_probe_that_fails_pauses_again() -> None:
    world = await after_a_pause(seconds_ago=0.5)

    async def fail(delivery: Delivery) -> Settlement:
        return a_settlement(delivery, outcome=an_outcome(OutcomeKind.TIMEOUT_RESPONSE))

    world.carry_one = fail
    world.submit(1)
    await asyncio.sleep(0.1)

    assert world.orders.given == [("pause", 1, None)]


async def test_a_lane_that_loses_its_share_by_new_limits_gives_everything_back() -> None:
    world = World(limits=HostLimits(rate=1e6, burst=1_000_000, in_flight=2), seconds=1.0)
    world.board.set_replicas(2, 0)
    world.submit(5)
    await asyncio.sleep(0.1)

    world.board.set_limits(1, HostLimits(rate=1e6, burst=1_000_000, in_flight=1))

    assert [s.verdict.kind for s in world.settled] == ["parked"] * 4
    assert world.board.queued == 0


async def test_a_lane_without_a_share_is_forgotten_like_any_other() -> None:
    world = World(limits=HostLimits(rate=10.0, burst=10, in_flight=1), seconds=1.0)
    async with world.looking():
        world.submit(5)
        world.board.set_replicas(2, 0)
        await asyncio.sleep(20.0)

    assert world.board.n_lanes == 0


async def test_faster_limits_are_tried_at_once_whatever_was_said_about_the_next_token() -> None:
    world = World(limits=HostLimits(rate=0.01, burst=2, in_flight=1), seconds=1.0)
    world.submit(2)
    await asyncio.sleep(0.1)
    world.board._lanes[1].ask_at = 100.0

    world.tokens.limits = HostLimits(rate=1e6, burst=1_000_000, in_flight=1)
    world.tokens._arrival.clear()
    world.board.set_limits(1, world.tokens.limits)
    await asyncio.sleep(3.0)

    assert len(world.settled) == 2


async def test_an_answer_for_a_lane_that_was_forgotten_leaves_the_ask_of_its_successor() -> None:
    world = World(limits=HostLimits(rate=10.0, burst=10, in_flight=1))
    former = Lane(1, world.tokens.limits, 1)
    former.rate = 10.0
    world.desk.ask(former)
    await asyncio.sleep(0.0005)
    world.desk.forget(former)

    world.submit(1)
    await asyncio.sleep(0.2)

    assert len(world.started) == 1


async def test_a_drained_board_holds_no_bytes() -> None:
    world = World(limits=HostLimits(rate=1e6, burst=1_000_000, in_flight=1))
    world.submit(20)

    await world.board.drain(10.0)

    assert world.board.held_bytes == 0
