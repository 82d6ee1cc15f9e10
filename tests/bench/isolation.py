"""What healthy hosts notice of hosts that hang, fail, or have most of the traffic."""

from dataclasses import dataclass
from typing import Final

from tests.bench.drain import add_endpoints, remove_endpoints
from tests.bench.lab import Lab, sink
from tests.bench.latency import event_id, send
from tests.support.daemon import Daemon, running

N_HOSTS = 100
PER_SECOND = 200
ROUNDS: Final = 3
"""Times of each crowd, in turn: the machine's speed changes within minutes and must change all."""


@dataclass(frozen=True)
class Crowd:
    """Hosts by number: the first `hanging` never answer, the next `busy` answer 503; the last gets `heavy` per cent.

    `most` is how many times the p99 of an all-well crowd the healthy hosts' may be.
    """

    name: str
    hanging: int = 0
    busy: int = 0
    heavy: int = 0
    most: float | None = None

    @property
    def slug(self) -> str:
        """Return what tells it apart in the name of a topic."""
        return f"{self.hanging}-{self.busy}-{self.heavy}"

    def workflow(self, number: int) -> int:
        """Return the host for the n-th event."""
        if number % 100 < self.heavy:
            return N_HOSTS - 1
        # 7 and 99 have no common factor: every host in turn, and no pattern with the heavy one.
        return number * 7 % (N_HOSTS - 1)

    def is_healthy(self, host: int) -> bool:
        """Tell whether a host's latencies count: it answers well and is not the heavy one."""
        return host >= self.hanging + self.busy and host != N_HOSTS - 1


CROWDS = (
    Crowd("all well"),
    Crowd("one hangs, one answers 503", hanging=1, busy=1, most=1.2),
    Crowd("50 of 100 hang", hanging=50, most=1.5),
    Crowd("one endpoint has 90 %", heavy=90, most=1.5),
)


async def isolation(lab: Lab, seconds: int) -> dict[str, list[float]]:
    """Return the healthy hosts' latencies in each crowd in milliseconds, ascending, `seconds` of each in every round.

    At 200 events/s with default limits, each time by a daemon of its own.
    """
    found: dict[str, list[float]] = {crowd.name: [] for crowd in CROWDS}
    for turn in range(ROUNDS):
        for crowd in CROWDS:
            found[crowd.name] += await _once(lab, crowd, seconds, f"isolation-{turn}-{crowd.slug}")
    return {name: sorted(milliseconds) for name, milliseconds in found.items()}


async def _once(lab: Lab, crowd: Crowd, seconds: int, topic: str) -> list[float]:
    await lab.make_topic(topic)
    settings = lab.settings(topic, LIMITS__HOST_RATE="100", LIMITS__HOST_BURST="100", LIMITS__HOST_IN_FLIGHT="64")
    settings["LIMITS__IN_FLIGHT"] = "1000"
    extra = ("--hang", str(crowd.hanging), "--busy", str(crowd.busy))
    async with sink(lab.folder, n_ports=N_HOSTS, tls=True, times=True, extra=extra) as to:
        ids = await add_endpoints(lab, settings, to, "https")
        daemon = Daemon(lab.folder, settings, name=topic)
        async with running(daemon):
            await send(lab, topic, PER_SECOND, 3, "warm", crowd.workflow)
            sent = await send(lab, topic, PER_SECOND, seconds, "run", crowd.workflow)
            healthy = [name for n, name in enumerate(sent) if crowd.is_healthy(crowd.workflow(n))]
            await to.have({event_id(name) for name in healthy}, seconds=60)
            received = await to.ask("times")
            await daemon.stop()
        await remove_endpoints(lab, settings, ids, "https")
    return [(received[event_id(name)] - sent[name]) / 1e6 for name in healthy]
