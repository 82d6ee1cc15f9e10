"""What came in during an outage of minutes, sent while events go on coming, within every host's limits."""

import asyncio
import time
from dataclasses import dataclass

import asyncpg

from tests.bench.drain import add_endpoints, remove_endpoints
from tests.bench.lab import Lab, SinkProcess, sink
from tests.bench.latency import send
from tests.chaos.history import Arrival, Endpoint, History, Limit, worst_excess
from tests.support.daemon import Daemon, running

N_HOSTS = 20
PER_SECOND = 50
HOST_RATE = 12.5
"""All hosts together may get five times what comes in: once for what is fresh, four times for the backlog."""
HOST_BURST = 10
_MARGIN_SECONDS = 60.0
_LOADED_BELOW = "00000001".ljust(40, "0")
"""Events that were loaded have small ids; those that come are digests."""


@dataclass(frozen=True)
class Drained:
    """How a backlog went: its rows, seconds until none was left, the worst window of any host over its limit."""

    n_rows: int
    seconds: float
    worst_excess: float

    @property
    def times_arrival(self) -> float:
        """Return how many times faster than events come in the backlog went."""
        return self.n_rows / self.seconds / PER_SECOND


async def backlog(lab: Lab, minutes: float) -> Drained:
    """Load what comes in during `minutes`, start a daemon, go on producing, and wait until the backlog is gone."""
    n_rows = int(minutes * 60 * PER_SECOND)
    topic = "backlog"
    await lab.make_topic(topic)
    settings = lab.settings(
        topic, LIMITS__HOST_RATE=str(HOST_RATE), LIMITS__HOST_BURST=str(HOST_BURST), LIMITS__HOST_IN_FLIGHT="64"
    )
    async with sink(lab.folder, n_ports=N_HOSTS, tls=True, extra=("--arrivals",)) as to:
        ids = await add_endpoints(lab, settings, to, "https")
        await _load(lab, n_rows, minutes)
        daemon = Daemon(lab.folder, settings, name=topic)
        async with running(daemon):
            began = time.monotonic()
            coming = asyncio.get_running_loop().create_task(_go_on_producing(lab, topic))
            try:
                async with asyncio.timeout(n_rows / PER_SECOND + _MARGIN_SECONDS):
                    await _until_gone(lab)
                took = time.monotonic() - began
            finally:
                coming.cancel()
            await daemon.stop()
        found = Drained(n_rows, took, await _worst(to))
        await remove_endpoints(lab, settings, ids, "https")
        return found


async def _load(lab: Lab, n_rows: int, minutes: float) -> None:
    """Store events and waiting deliveries as a process that only ingests would have, due over the last `minutes`."""
    connection = await asyncpg.connect(lab.postgres.url)
    try:
        await connection.execute(
            "INSERT INTO event (event_day, event_id, account_id, environment, event_type, occurred_at, body)"
            " SELECT (now() AT TIME ZONE 'UTC')::date, decode(lpad(to_hex(n), 40, '0'), 'hex'), a.account_id, 'live',"
            "        'verification.completed', now(), convert_to(rpad('{}', 1024), 'UTF8')"
            " FROM (SELECT account_id FROM account LIMIT 1) a, generate_series(1, $1::int) n",
            n_rows,
        )
        await connection.execute(
            "UPDATE endpoint SET verified_at = now(), changed_at = now() WHERE status = 'enabled'",
        )
        await connection.execute(
            "INSERT INTO delivery (event_day, event_id, account_id, environment, endpoint_id, host_id, due_at)"
            " SELECT v.event_day, v.event_id, v.account_id, v.environment, e.endpoint_id, e.host_id,"
            "        now() - random() * make_interval(secs => $1)"
            " FROM (SELECT *, row_number() OVER () % $2 AS place FROM event WHERE event_id < decode($3, 'hex')) v"
            " JOIN (SELECT *, row_number() OVER (ORDER BY endpoint_id) - 1 AS place FROM endpoint"
            "       WHERE status = 'enabled') e USING (place)",
            minutes * 60.0,
            N_HOSTS,
            _LOADED_BELOW,
        )
        await connection.execute("ANALYZE delivery")
    finally:
        await connection.close()


async def _go_on_producing(lab: Lab, topic: str) -> None:
    phase = 0
    while True:
        await send(lab, topic, PER_SECOND, 10, f"live-{phase}", lambda number: number % N_HOSTS)
        phase += 1


async def _until_gone(lab: Lab) -> None:
    connection = await asyncpg.connect(lab.postgres.url)
    try:
        query = "SELECT EXISTS (SELECT FROM delivery WHERE event_id < decode($1, 'hex'))"
        while await connection.fetchval(query, _LOADED_BELOW):
            await asyncio.sleep(0.1)
    finally:
        await connection.close()


async def _worst(to: SinkProcess) -> float:
    arrivals = [Arrival(at / 1e9, f"{host}", "", 1, "", 204, "", "") for host, at in await to.ask("arrivals")]
    endpoints = tuple(Endpoint(host, f"{host}", f"{host}", ()) for host in range(N_HOSTS))
    return worst_excess(History((), endpoints, arrivals, (), {}), Limit(HOST_RATE, HOST_BURST))
