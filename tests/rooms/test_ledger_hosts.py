"""Tokens, pauses and slow starts on a real Postgres: what several replicas get together."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from unittest.mock import patch

import pytest

from dispatcher.kit.supervise import spawn
from dispatcher.ledger import directory
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.endpoint import HostLimits
from dispatcher.model.errors import Fenced
from dispatcher.policy.health import share_of
from dispatcher.policy.pacing import UNVERIFIED, Ask, grants_of
from tests.rooms.ledger_world import Process, World, open_ledger
from tests.support.servers import DatabaseServer

RATE, BURST = 50.0, 20
HOST_OF = "SELECT host_id FROM endpoint WHERE endpoint_id = $1"


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


async def limited_host(world: World, *, rate: float = RATE, burst: int = BURST) -> int:
    """Make a host whose tokens are granted so that `rate` and `burst` hold."""
    grants = grants_of(rate, burst)
    number = await world.host(rate=rate, burst=grants.burst)
    await world.sql.execute(
        "UPDATE host SET rate = $2, burst = $3, interval_us = $4 WHERE host_id = $1",
        number,
        rate,
        burst,
        grants.interval_us,
    )
    return number


class Timeline:
    """A host's time: the real one and what was skipped. Postgres has no clock to move: what lies ahead is moved."""

    def __init__(self, world: World, host: int) -> None:
        self._world = world
        self._host = host
        self._skipped = 0.0

    def now(self) -> float:
        return time.monotonic() + self._skipped

    async def skip(self, seconds: float) -> None:
        await self._world.sql.execute(
            "UPDATE host SET tat = tat - make_interval(secs => $2) WHERE host_id = $1", self._host, seconds
        )
        self._skipped += seconds

    async def use_greedily(self, processes: Sequence[Process], token_seconds: float) -> list[float]:
        """Take all tokens there are during 0.6 s and use each as late as it may be used; return the times of use."""
        used: list[float] = []
        for _ in range(12):
            for process in processes:
                sent = self.now()
                for grant in await process.hosts.lease([Ask(self._host, 1_000)]):
                    used += [sent + token_seconds] * grant.n
            await self.skip(0.05)
        return used


def most_over(times: Sequence[float], rate: float, burst: int) -> float:
    """Return by how many requests the worst window exceeds burst + rate * W."""
    ordered = sorted(times)
    return max(
        last - first + 1 - burst - rate * (ordered[last] - ordered[first])
        for first in range(len(ordered))
        for last in range(first, len(ordered))
    )


async def greedy_use(world: World, token_seconds: float) -> list[float]:
    line = Timeline(world, await limited_host(world))
    first, second, third = [await world.process() for _ in range(3)]
    late = await line.use_greedily([first, second], token_seconds)
    # The third one uses its tokens at once, when the late ones of the others fall due.
    return late + await line.use_greedily([third], token_seconds=0.0)


async def test_no_window_holds_more_than_the_promise_however_late_tokens_are_used(world: World) -> None:
    times = await greedy_use(world, grants_of(RATE, BURST).token_seconds)

    assert len(times) > RATE * 0.9
    assert most_over(times, RATE, BURST) <= 1e-6


async def test_tokens_that_live_too_long_would_break_the_promise(world: World) -> None:
    times = await greedy_use(world, 0.9)

    assert most_over(times, RATE, BURST) > 1


async def test_a_host_that_another_replica_is_at_is_skipped_and_not_waited_for(world: World) -> None:
    free, busy = await limited_host(world), await limited_host(world)
    process = await world.process()
    async with world.sql.transaction():
        await world.sql.execute("SELECT 1 FROM host WHERE host_id = $1 FOR UPDATE", busy)

        grants = await process.hosts.lease([Ask(free, 1), Ask(busy, 1)])

    assert [grant.number for grant in grants] == [free]


async def test_a_replica_that_was_taken_over_gets_no_tokens(world: World) -> None:
    host, process = await limited_host(world), await world.process()
    await world.sql.execute("DELETE FROM replica")

    with pytest.raises(Fenced):
        await process.hosts.lease([Ask(host, 1)])
    with pytest.raises(Fenced):
        await process.hosts.lease_for_endpoints([Ask(1, 1, 1_000_000, 1)])
    assert await world.value("SELECT tat FROM host WHERE host_id = $1", host) == await world.value(
        "SELECT 'epoch'::timestamptz"
    )


async def test_the_answer_says_when_the_next_token_comes(world: World) -> None:
    host, process = await limited_host(world, rate=0.1, burst=11), await world.process()
    grants = grants_of(0.1, 11)

    (all_at_once,) = await process.hosts.lease([Ask(host, 1_000)])
    (none,) = await process.hosts.lease([Ask(host, 1)])

    assert (all_at_once.n, none.n) == (grants.burst, 0)
    assert 5 < none.next_seconds <= 10


async def test_an_endpoint_without_success_gets_one_request_per_second_over_all_replicas(world: World) -> None:
    processes = [await world.process() for _ in range(3)]
    grants = grants_of(UNVERIFIED.rate, UNVERIFIED.burst)
    ask = Ask(1, 1, grants.interval_us, grants.burst)

    began = time.monotonic()
    answers = [(await p.hosts.lease_for_endpoints([ask]))[0] for p in processes for _ in range(2)]
    ended = time.monotonic()

    assert 1 <= sum(answer.n for answer in answers) <= 1 + (ended - began)
    assert 1.0 - (ended - began) - 0.1 < answers[-1].next_seconds <= 1.1


async def paused(process: Process) -> tuple[set[int], set[int]]:
    hosts, endpoints = await process.hosts.pauses()
    return {n for n, left in hosts.items() if left > 0}, {n for n, left in endpoints.items() if left > 0}


async def test_a_hosts_only_endpoint_pauses_it_with_itself(world: World) -> None:
    account, host, process = await world.account(), await world.host(), await world.process()
    endpoint = await world.endpoint(account, host=host)

    for_endpoint, for_host = await process.hosts.pause(endpoint, host, None)

    assert for_endpoint == for_host == pytest.approx(5, rel=0.21)
    assert await paused(process) == ({host}, {endpoint})


async def test_a_host_that_the_endpoint_has_left_pauses_nothing_even_if_it_leaves_just_now(world: World) -> None:
    account, host, process = await world.account(), await world.host(), await world.process()
    endpoint = await world.endpoint(account, host=host)

    async with world.sql.transaction():
        await world.sql.execute("UPDATE endpoint SET host_id = $1", await world.host())
        pausing = asyncio.create_task(process.hosts.pause(endpoint, host, 600.0))
        await world.until_blocked(1)

    assert await pausing == (0.0, 0.0)
    assert await paused(process) == (set(), set())


async def test_one_of_several_endpoints_pauses_itself_and_only_the_third_the_host(world: World) -> None:
    account, host, process = await world.account(), await world.host(), await world.process()
    endpoints = [await world.endpoint(account, host=host) for _ in range(4)]

    seconds = [await process.hosts.pause(endpoint, host, None) for endpoint in endpoints[:3]]

    assert [for_host > 0 for _, for_host in seconds] == [False, False, True]


async def test_pauses_in_a_row_double_up_to_five_minutes_and_a_pause_under_way_stays(world: World) -> None:
    account, host, process = await world.account(), await world.host(), await world.process()
    endpoint = await world.endpoint(account, host=host)
    lengths = []
    for _ in range(9):
        lengths.append((await process.hosts.pause(endpoint, host, None))[0])
        again = await process.hosts.pause(endpoint, host, None)
        assert again[0] == pytest.approx(lengths[-1], abs=1)
        await world.sql.execute("UPDATE endpoint_pace SET paused_until = now() - interval '1 ms'")
        await world.sql.execute("UPDATE host SET paused_until = now() - interval '1 ms'")

    assert lengths == pytest.approx([5, 10, 20, 40, 80, 160, 300, 300, 300], rel=0.21)
    assert max(lengths) <= 300


async def test_what_was_paused_together_does_not_come_back_together(world: World) -> None:
    account, process = await world.account(), await world.process()
    hosts = [await world.host() for _ in range(20)]

    seconds = [(await process.hosts.pause(await world.endpoint(account, host=host), host, None))[0] for host in hosts]

    assert max(seconds) - min(seconds) > 0.5


async def test_every_replica_is_told_for_an_hour_who_was_paused_and_has_not_answered_well_since(world: World) -> None:
    account, process = await world.account(), await world.process()
    lost, well, past = [await world.endpoint(account) for _ in range(3)]
    for endpoint in (lost, well, past):
        await process.hosts.pause(endpoint, await world.value(HOST_OF, endpoint), None)
    for table in ("host", "endpoint_pace"):
        await world.sql.execute(f"UPDATE {table} SET paused_until = now() - interval '1 minute'")
    await world.sql.execute("UPDATE host SET scaled_at = now() - interval '65 seconds', scale = 0.2")
    await world.sql.execute(
        "UPDATE endpoint_pace SET paused_until = now() - interval '2 hours' WHERE endpoint_id = $1", past
    )
    host_of = {endpoint: await world.value(HOST_OF, endpoint) for endpoint in (lost, well, past)}

    await process.hosts.recover([host_of[well]], [well])

    pauses = await (await world.process()).hosts.pauses()
    assert pauses.endpoints == {lost: pytest.approx(-60, abs=5)}
    # Not at its full rate yet, but it answers.
    assert set(pauses.hosts) == {host_of[lost], host_of[past]}
    assert await world.value("SELECT opens FROM host WHERE host_id = $1", host_of[well]) == 1
    seconds, _ = await process.hosts.pause(past, await world.value(HOST_OF, past), None)
    assert seconds == pytest.approx(5, rel=0.21)
    assert await world.value("SELECT opens FROM endpoint_pace WHERE endpoint_id = $1", past) == 1


async def test_a_pause_asked_for_is_as_long_as_asked_and_the_hosts_at_most_five_minutes(world: World) -> None:
    account, host, process = await world.account(), await world.host(), await world.process()

    seconds = await process.hosts.pause(await world.endpoint(account, host=host), host, 7_200.0)

    assert (round(seconds[0]), round(seconds[1])) == (7_200, 300)


async def end_pause(world: World) -> None:
    """Let the pause of the only host be over just now: everything that lies ahead comes nearer."""
    await world.sql.execute("UPDATE host SET tat = tat - (paused_until - now()), paused_until = now()")


async def test_after_a_pause_a_host_begins_with_one_token_at_half_its_rate(world: World) -> None:
    account, host = await world.account(), await limited_host(world, rate=0.1, burst=11)
    endpoint, process = await world.endpoint(account, host=host), await world.process()
    await process.hosts.pause(endpoint, host, 60.0)

    (during,) = await process.hosts.lease([Ask(host, 100)])
    await end_pause(world)
    (after,) = await process.hosts.lease([Ask(host, 100)])

    assert (during.n, during.paused_seconds > 0) == (0, True)
    assert (after.n, after.scale) == (1, 0.5)


async def test_without_the_delayed_arrival_a_whole_burst_would_meet_a_recovering_host(world: World) -> None:
    account, host = await world.account(), await limited_host(world, rate=0.1, burst=11)
    endpoint, process = await world.endpoint(account, host=host), await world.process()
    early, late = STATEMENTS["pause"].split("        tat = GREATEST(h.paused_until")
    with patch.dict(
        STATEMENTS, {"pause": early + "        tat = h.tat\n      FROM e\n" + late.partition("      FROM e\n")[2]}
    ):
        await process.hosts.pause(endpoint, host, 60.0)
    await end_pause(world)

    (after,) = await process.hosts.lease([Ask(host, 100)])

    assert after.n > 1


async def test_resuming_a_host_again_and_again_gives_no_more_than_its_limits(world: World) -> None:
    host, process = await limited_host(world), await world.process()
    authority = await world.value("SELECT authority FROM host WHERE host_id = $1", host)
    granted = 0

    began = time.monotonic()
    for _ in range(10):
        (grant,) = await process.hosts.lease([Ask(host, 1_000)])
        granted += grant.n
        await world.sql.execute(STATEMENTS["resume_host"], authority)

    assert granted <= BURST + RATE * (time.monotonic() - began)


async def test_a_host_that_is_resumed_goes_on_at_its_full_rate(world: World) -> None:
    account, host = await world.account(), await limited_host(world)
    endpoint, process = await world.endpoint(account, host=host), await world.process()
    await process.hosts.pause(endpoint, host, 60.0)

    await world.sql.execute(
        STATEMENTS["resume_host"], await world.value("SELECT authority FROM host WHERE host_id = $1", host)
    )

    (grant,) = await process.hosts.lease([Ask(host, 1)])
    assert (grant.scale, grant.paused_seconds) == (1.0, 0.0)
    assert grant.next_seconds <= 1 / RATE


async def test_rates_are_halved_once_per_second_and_doubled_every_two(world: World) -> None:
    host, process = await limited_host(world), await world.process()

    async def scale() -> float:
        return float(await world.value("SELECT scale FROM host WHERE host_id = $1", host))

    await process.hosts.slow_down([host])
    await process.hosts.slow_down([host])
    assert await scale() == 0.5
    await process.hosts.recover([host], [])
    assert await scale() == 0.5
    await world.sql.execute("UPDATE host SET scaled_at = now() - interval '3 seconds'")
    await process.hosts.recover([host], [])
    assert await scale() == 1.0


async def test_after_an_outage_longer_than_the_lease_shares_do_not_exceed_the_cap_while_leases_are_renewed(
    world: World,
) -> None:
    processes = [await world.process() for _ in range(3)]
    await world.sql.execute("UPDATE replica SET lease_until = now() - interval '5 seconds'")

    shares = []
    for process in processes:
        await process.members.heartbeat()
        n, rank = await process.hosts.delivering()
        shares.append(share_of(64, n_replicas=n, rank=rank, host_id=7))

    assert sum(shares) == 64


async def test_limits_of_its_own_and_the_count_of_replicas_reach_every_replica(world: World) -> None:
    host = await limited_host(world)
    first, second = await world.process(), await world.process()
    await world.sql.execute(
        "UPDATE host SET rate = 7, burst = 9, in_flight = 3, changed_at = now() WHERE host_id = $1", host
    )

    limits = (await second.hosts.changed_limits(5.0))[host]

    assert (limits.rate, limits.burst, limits.in_flight) == (7.0, 9, 3)
    assert [await p.hosts.delivering() for p in (first, second)] == [(2, 0), (2, 1)]


async def test_configured_limits_reach_every_host_without_its_own_some_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "HOSTS_AT_ONCE", 2)
    link = (await world.process()).links["control"]
    numbers = [await world.host() for _ in range(6)]
    await world.sql.execute("UPDATE host SET has_own_limits = true WHERE host_id = $1", numbers[3])
    await link.fetch("installation")
    connection = link._connection
    assert connection is not None
    await connection.execute("SET lock_timeout = '50ms'")
    trips = link.round_trips

    async with world.sql.transaction():
        await world.sql.execute("SELECT FROM host WHERE host_id = $1 FOR UPDATE", numbers[2])
        setting = spawn(directory.DirectoryLedger(link).set_default_limits(HostLimits(7.0, 8, 9)), name="setting")
        await world.until_blocked(1)
        while not connection.is_closed():
            await asyncio.sleep(0.01)
    await setting

    rows = await world.rows("SELECT host_id, rate, burst, in_flight FROM host ORDER BY 1")
    assert [tuple(row)[1:] for row in rows if row["host_id"] != numbers[3]] == [(7.0, 8, 9)] * 5
    assert next(row["rate"] for row in rows if row["host_id"] == numbers[3]) == 100.0
    # Three pages, the look behind the last, and one page more than once.
    assert link.round_trips - trips > 4
