"""Whatever happens to hosts, endpoints, tokens and Postgres, in whatever order: nothing is lost, stuck or too fast.

Each seed is one story of its own. `make test` tells a few; `make sweep ARGS='-k test_simulation'` tells all of them.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from dispatcher.model.endpoint import HostLimits
from dispatcher.model.errors import Unavailable
from dispatcher.model.outcome import OutcomeKind
from tests.unit.lanes.lane_room import LaneRoom, Manner

# The clock moves as soon as nothing can go on: these stories are long.
pytestmark = [pytest.mark.looptime(noop_cycles=0), pytest.mark.asyncio(loop_scope="function")]

N_HOSTS = 5
N_ACTIONS = 40
LIMITS = (
    HostLimits(rate=1_000.0, burst=500, in_flight=8),
    HostLimits(rate=50.0, burst=20, in_flight=4),
    HostLimits(rate=10.0, burst=10, in_flight=1),
    HostLimits(rate=5.0, burst=2, in_flight=3),
    HostLimits(rate=2.0, burst=1, in_flight=2),
)
MANNERS = (
    Manner(),
    Manner(seconds=3.0),
    Manner(OutcomeKind.HTTP_429, 429),
    Manner(OutcomeKind.HTTP_429, 429, retry_after=b"7"),
    Manner(OutcomeKind.HTTP_5XX, 503, retry_after=b"2"),
    Manner(OutcomeKind.HTTP_5XX, 500, seconds=0.4),
    Manner(OutcomeKind.HTTP_4XX, 400),
    Manner(OutcomeKind.CONNECTION_REFUSED, None, seconds=0.0),
    Manner(OutcomeKind.TIMEOUT_RESPONSE, None, seconds=15.0),
    Manner(seconds=3_600.0),
)


class Story:
    """One random history of a room. The same seed tells the same story."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        numbers = iter(range(1, 100))
        self.host_of = {next(numbers): host for host in range(1, N_HOSTS + 1) for _ in range(self.chance.randint(1, 4))}
        limits = {host: self.chance.choice(LIMITS) for host in range(1, N_HOSTS + 1)}
        self.room = LaneRoom(self.chance, self.host_of, limits)
        for number in self.host_of:
            self._set_pace(number)
        self.told: list[str] = []
        # Named as often as it is to happen among the others.
        self.actions: list[Callable[[], None]] = [
            *[self.burst] * 8,
            *[self.manner] * 4,
            self.limits,
            self.pace,
            self.replicas,
            self.replicas,
            self.pause_host,
            self.pause_endpoint,
            self.pause_elsewhere,
            self.resume,
            self.tokens_away,
            self.host_busy,
            self.rows_away,
            self.directory_away,
            self.may_not_start,
            self.slow_answers,
        ]

    # what may happen

    def burst(self) -> None:
        for number in self.chance.sample(list(self.host_of), self.chance.randint(1, 3)):
            self.room.begin(self.room.accept(self.room.deliveries(number, self.chance.choice((1, 1, 5, 30, 80)))))

    def manner(self) -> None:
        number = self._endpoint()
        self.room.peers.manners[number] = self.chance.choice(MANNERS)

    def limits(self) -> None:
        self.room.change_limits(self._host(), self.chance.choice(LIMITS))

    def pace(self) -> None:
        self._set_pace(self._endpoint())

    def replicas(self) -> None:
        n = self.chance.randint(1, 4)
        self.room.hosts.replicas = (n, self.chance.randrange(n))

    def pause_host(self) -> None:
        self.room.board.pause_host(self._host(), self.chance.choice((0.3, 2.0, 20.0)))

    def pause_endpoint(self) -> None:
        number = self._endpoint()
        self.room.keeper.pause(number, self.host_of[number], self.chance.choice((None, 2.0, 20.0)))

    def pause_elsewhere(self) -> None:
        until = self._now() + self.chance.choice((0.5, 5.0, 40.0))
        if self.chance.random() < 0.5:
            self.room.hosts.rows[self._host()].paused_until = until
        else:
            self.room.hosts.endpoints[self._endpoint()].paused_until = until

    def resume(self) -> None:
        self.room.hosts.resume(self._host())

    def tokens_away(self) -> None:
        self.room.hosts.fault = Unavailable("away")
        self._after((0.2, 2.0, 20.0), lambda: setattr(self.room.hosts, "fault", None))

    def host_busy(self) -> None:
        host = self._host()
        self.room.hosts.busy.add(host)
        self._after((0.05, 1.0), lambda: self.room.hosts.busy.discard(host))

    def rows_away(self) -> None:
        self.room.rows.is_away = True
        self._after((0.2, 3.0), lambda: setattr(self.room.rows, "is_away", False))

    def directory_away(self) -> None:
        self.room.endpoints.is_away = True
        self._after((0.2, 3.0), lambda: setattr(self.room.endpoints, "is_away", False))

    def may_not_start(self) -> None:
        self.room.may_start = False
        self._after((0.1, 1.0, 12.0), lambda: setattr(self.room, "may_start", True))

    def slow_answers(self) -> None:
        self.room.hosts.answer_seconds = self.chance.choice((0.002, 0.03, 0.3, 8.0))
        self.room.endpoints.seconds = self.chance.choice((0.0, 0.0, 0.5))
        self._after((1.0, 16.0), lambda: setattr(self.room.hosts, "answer_seconds", 0.002))

    # how it is told

    async def run(self) -> None:
        """Let things happen for a while."""
        for _ in range(N_ACTIONS):
            action = self.chance.choice(self.actions)
            self.told.append(f"{self._now():.2f} {action.__name__}")
            action()
            await self._watch(min(12.0, self.chance.expovariate(1.0)))

    async def heal(self) -> None:
        """Let everything be well, and wait until all is done that was begun."""
        room = self.room
        room.peers.manners.clear()
        room.hosts.fault = None
        room.hosts.replicas = (1, 0)
        room.rows.is_away = room.endpoints.is_away = False
        for number in self.host_of:
            room.change_limits(self.host_of[number], LIMITS[0])
        async with asyncio.timeout(1_000):
            while room.rows.rows:
                await self._watch(2.0, step=1.0)
        await self._watch(20.0, step=1.0)

    async def _watch(self, seconds: float, step: float = 0.2) -> None:
        until = self._now() + seconds
        while (left := until - self._now()) > 0:
            await asyncio.sleep(min(step, left))
            self.room.check()

    def _after(self, seconds: tuple[float, ...], act: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(self.chance.choice(seconds), act)

    def _set_pace(self, number: int) -> None:
        target = self.room.endpoints.targets[number]
        rate = self.chance.choice((None, None, 0.5, 4.0))
        self.room.endpoints.targets[number] = replace(
            target, is_verified=self.chance.random() < 0.7, rate_limit=rate, schedule=(0.0, 1.0, 5.0, 30.0)
        )

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _host(self) -> int:
        return self.chance.randint(1, N_HOSTS)

    def _endpoint(self) -> int:
        return self.chance.choice(list(self.host_of))


@asynccontextmanager
async def telling(seed: int) -> AsyncIterator[Story]:
    """Tell a story; when it goes wrong, its last actions are printed."""
    story = Story(seed)
    try:
        yield story
    except BaseException:
        print("\n".join(story.told[-15:]))
        raise
    finally:
        await story.room.end()


SEEDS = [pytest.param(seed, marks=() if seed < 3 else pytest.mark.sweep) for seed in range(50)]


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_delivery_ends_once_whatever_happens(seed: int) -> None:
    async with telling(seed) as story:
        await story.run()
        await story.heal()

        board, desk = story.room.board, story.room.desk
        assert story.room.peers.n_sent
        assert (board.queued, board.in_flight, board.held_bytes, board.suspects_in_flight) == (0, 0, 0, 0)
        assert (board.n_lanes, desk._asking, desk._queues) == (0, {}, {})
        assert not story.room.peers.running.total()


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_stop_at_any_moment_gives_every_delivery_back(seed: int) -> None:
    async with telling(seed + 1_000) as story:
        await story.run()
        story.room.rows.is_away = False
        await story.room.stop(drain_seconds=story.chance.choice((0.0, 2.0, 30.0)))

        board = story.room.board
        assert not story.room.rows.owned
        assert (board.queued, board.in_flight, board.held_bytes, board.suspects_in_flight) == (0, 0, 0, 0)
