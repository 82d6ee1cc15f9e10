"""The story every broker has to pass: duplicates, bad records, a failing endpoint, a stop and a kill on the way."""

import asyncio
from collections import Counter
from urllib.parse import urlsplit

from dispatcher.model.ids import show_event_id
from tests.journey.world import Message, World, bodies_are_equal, successes
from tests.support.daemon import Daemon
from tests.support.sink import Sink, Step

PATHS = ("/steady", "/failing", "/quick")
Sent = tuple[str, str]
"""A path and an event's id."""
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


def messages(world: World, n: int) -> list[Message]:
    """Return `n` events, 2 % of them sent twice, and 1 % of records that are no events, mixed in."""
    made: list[Message] = []
    for number in range(n):
        made.append(world.good(number))
        if number % 50 == 49:
            made.append(made[-25])
        if number % 100 == 99:
            made.append(world.bad(n + number // 100))
    return made


async def tell(world: World, n: int) -> None:
    """Run the whole story with `n` events and check every promise at its end.

    Promises: nothing lost; no duplicate but for what was in flight at the kill; every signature verifies; the same
    bytes each time; attempt rows complete; every bad record kept; no personal data sent or stored.
    """
    first, second, third = (world.daemon(f"daemon-{number}") for number in (1, 2, 3))
    async with Sink.serving(hosts=HOSTS) as sink:
        await first.start()
        api = world.api(first)
        for path, host in zip(PATHS, HOSTS, strict=True):
            made = await api.add_endpoint(sink.url(path, host=host), ["verification.*"])
            sink.verify(path, made["secret"])
        sink.script("/failing", [Step(status=503)])
        sent = messages(world, n)
        # The kill's in-flight requests must be countable: each takes a moment.
        sink.script("/steady", [Step(delay_seconds=0.005)])
        publishing = asyncio.get_running_loop().create_task(world.publish(sent, per_second=n / 8))
        try:
            exposed = await _live_through(world, first, second, third, sink, n)
            await publishing
            await world.until_settled(n, seconds=90)
            assert await third.stop() == 0
            await _check(world, sink, sent, exposed)
        finally:
            publishing.cancel()
            for daemon in (first, second, third):
                if daemon.process is not None and daemon.process.returncode is None:
                    await daemon.kill()


async def _live_through(
    world: World, first: Daemon, second: Daemon, third: Daemon, sink: Sink, n: int
) -> Counter[Sent]:
    """Stop one daemon, kill the next, start a third; return what the kill exposed."""
    await sink.arrival(n // 3, path="/steady", seconds=60)
    before = successes(sink)
    assert await first.stop() == 0
    assert max(before.values()) == 1, "a duplicate without any fault"
    await second.start()
    assert max(successes(sink).values()) == 1, "a duplicate after a graceful stop"
    await sink.arrival(n * 2 // 3, path="/steady", seconds=60)
    assert max(successes(sink).values()) == 1, "a duplicate after a graceful stop and start"
    await second.kill()
    exposed = await _exposed(world, sink)
    sink.script("/failing", [Step()])
    await third.start()
    return exposed


async def _exposed(world: World, sink: Sink) -> Counter[Sent]:
    """Count the requests of a dead process that nothing is written of: under way, or not yet written, when it died.

    Waits for what outlives it: requests that the endpoint has yet to read, and a statement that the server runs to
    its end.
    """
    async with asyncio.timeout(30):
        while sink._visits or await world.fetch(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'dispatcher-%'"
        ):
            await asyncio.sleep(0.02)
    rows = await world.fetch(
        "SELECT e.url, a.event_id FROM attempt a JOIN endpoint e USING (endpoint_id) WHERE a.verdict <> 'interrupted'"
    )
    written = Counter((urlsplit(row["url"]).path, show_event_id(row["event_id"])) for row in rows)
    exposed = Counter((request.path, request.header("webhook-id") or "") for request in sink.requests) - written
    # What a process may have on its hands: requests under way, results that wait to be written or are just written.
    assert exposed.total() <= 64 * len(HOSTS) + 1_000 + 500
    return exposed


async def _check(world: World, sink: Sink, sent: list[Message], exposed: Counter[Sent]) -> None:
    wanted = {message.event_id for message in sent if message.event_id is not None}
    got = successes(sink)
    for path in PATHS:
        assert {event for where, event in got if where == path} == wanted, f"lost or invented at {path}"
    assert not Counter({one: count - 1 for one, count in got.items()}) - exposed, "sent twice without a fault"
    assert {request.signature for request in sink.requests} == {"valid"}
    assert bodies_are_equal(sink.requests)
    assert not any(b"CANARY" in request.body for request in sink.requests)
    await _check_database(world, sink, sent, exposed.total())


async def _check_database(world: World, sink: Sink, sent: list[Message], n_exposed: int) -> None:
    dead = await world.fetch("SELECT reason FROM dead_event")
    assert len(dead) == sum(message.event_id is None for message in sent)
    rows = await world.fetch(
        "SELECT delivery_id, array_agg(attempt_no ORDER BY attempt_no) AS numbers,"
        " count(*) FILTER (WHERE verdict = 'delivered') AS delivered FROM attempt"
        " WHERE verdict <> 'interrupted' GROUP BY delivery_id"
    )
    assert len(rows) == len(PATHS) * len({m.event_id for m in sent if m.event_id})
    for row in rows:
        assert row["delivered"] == 1
        assert list(row["numbers"]) == list(range(1, len(row["numbers"]) + 1)), "a gap or a repeat in the attempts"
    n_recorded = sum(len(row["numbers"]) for row in rows)
    n_received = len(sink.requests)
    # A request without a row was in flight, or its result unwritten, at the kill: it was sent again.
    assert n_received - n_recorded == n_exposed
    assert not Counter(row["reason"] for row in dead)["refused_by_database"]
    assert not await world.fetch("SELECT 1 FROM event WHERE position('CANARY'::bytea IN body) > 0 LIMIT 1")
    assert not await world.fetch("SELECT 1 FROM replica")
