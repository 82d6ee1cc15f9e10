"""The parts of the benchmark: each measures one promise and prints a table, with a ceiling or baseline of its own."""

import sys
from argparse import Namespace
from collections.abc import Callable, Coroutine, Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from tests.bench import api_load as readers
from tests.bench import backlog as backlogs
from tests.bench import dead_host as dead_hosts
from tests.bench import isolation as crowds
from tests.bench import lists as listings
from tests.bench import snapshot as snapshots
from tests.bench import takeover as takeovers
from tests.bench.drain import N_HOSTS, Drain, baseline, drain
from tests.bench.lab import N_CORES, Lab, sink
from tests.bench.latency import latency, percentile
from tests.bench.readers import READS_PER_SECOND

CONCURRENCY = 50
_ENOUGH = 1.0


def say(text: str = "") -> None:
    """Print one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def judged(value: float, most: float, unit: str = "x") -> str:
    """Return a value beside its target, which it should not exceed."""
    return f"{value:.2f}{unit} (target at most {most:g}{unit}: {'met' if value <= most else 'MISSED'})"


def reached(value: float, least: float, unit: str = "x") -> str:
    """Return a value beside its target, which it should reach."""
    return f"{value:.2f}{unit} (target at least {least:g}{unit}: {'met' if value >= least else 'MISSED'})"


def shares(ascending: list[float]) -> str:
    """Return the usual percentiles of milliseconds."""
    p50, p99 = percentile(ascending, 0.5), percentile(ascending, 0.99)
    return f"p50 {p50:7.1f}  p99 {p99:7.1f}  max {ascending[-1]:8.1f} ms"


class Rate(NamedTuple):
    """What posting took: requests per second, CPU seconds per 1,000."""

    per_second: float
    cpu: float


async def throughput(lab: Lab, arguments: Namespace) -> None:
    """Drain over https and http on both loops; compare with clients that only post."""
    n = arguments.n
    say(f"Drain of {n:,} events of 1 KiB, fan-out 1, {N_HOSTS} hosts on loopback, nothing else running")
    say(
        "  settings: LIMITS__HOST_RATE=100000 LIMITS__HOST_BURST=100001 LIMITS__HOST_IN_FLIGHT=3, "
        "PostgreSQL with fsync on"
    )
    say(f"  {'':<38}{'per second':>12}{'vs aiohttp':>12}{'CPU-s/1,000':>13}{'vs aiohttp':>12}")
    for scheme in ("https", "http"):
        ceilings = [await ceiling(lab, scheme, n)]
        for client, loop in (("aiohttp", "uvloop"), ("wire", "asyncio"), ("wire", "uvloop")):
            say_throughput(f"{scheme} bare {client} client, {loop}", await bare(lab, scheme, client, loop, n), ceilings)
        for loop, n_processes in (("asyncio", 1), ("uvloop", 1), ("uvloop", 2)):
            result = await drain(lab, scheme, n, loop=loop, n_processes=n_processes)
            # A shared machine changes its speed within minutes: the ceiling is taken before and behind each drain.
            ceilings.append(await ceiling(lab, scheme, n))
            found = Rate(result.per_second, result.daemon_cpu)
            crew = "" if n_processes == 1 else f", {n_processes} processes"
            say_throughput(f"{scheme} whole daemon, {loop}{crew}", found, ceilings[-2:])
            say_costs(result)


async def ceiling(lab: Lab, scheme: str, n: int) -> Rate:
    """Measure and print what the others are compared with."""
    found = await bare(lab, scheme, "aiohttp", "asyncio", n)
    say_throughput(f"{scheme} bare aiohttp client, asyncio", found, [found])
    return found


async def bare(lab: Lab, scheme: str, client: str, loop: str, n: int) -> Rate:
    """Measure a client that only posts, to a sink of its own."""
    async with sink(lab.folder, n_ports=N_HOSTS, tls=scheme == "https") as to:
        found = baseline(lab, to, scheme, client, loop, min(n, 10_000), CONCURRENCY)
    return Rate(found["per_second"], found["per_1000"])


def say_throughput(label: str, found: Rate, ceilings: Sequence[Rate]) -> None:
    """Print one row; the ratios are to the means of the ceilings."""
    of_rate = found.per_second / fmean(ceiling.per_second for ceiling in ceilings)
    of_cpu = found.cpu / fmean(ceiling.cpu for ceiling in ceilings)
    say(f"  {label:<38}{found.per_second:>12,.0f}{of_rate:>11.2f}x{found.cpu:>13.3f}{of_cpu:>11.2f}x")


def say_costs(result: Drain) -> None:
    """Print what the other processes took, what the cores allow at such costs, and the round trips."""
    say(
        f"    beside it: Postgres {result.postgres_cpu:.3f}, broker {result.broker_cpu:.3f}, "
        f"sink {result.sink_cpu:.3f} CPU-s/1,000: {N_CORES} cores allow {result.allowed(N_CORES):,.0f}/s; "
        f"{result.round_trips:.1f} round trips to Postgres per 1,000; {result.stolen:.0%} of the cores' time stolen"
    )


async def scaling(lab: Lab, arguments: Namespace) -> None:
    """Drain with one process and with two, and say what limits: the cores serve everybody else, too."""
    say(f"Drain of {arguments.n:,} https deliveries by one process and by two, on {N_CORES} cores, uvloop")
    say(
        f"  {'processes':<12}{'per second':>12}{'daemons':>10}{'Postgres':>10}{'broker':>8}{'sink':>8}"
        f"{'cores allow':>13}"
    )
    found = []
    for n_processes in (1, 2):
        result = await drain(lab, "https", arguments.n, n_processes=n_processes)
        allowed = result.allowed(N_CORES)
        found.append((result.per_second, allowed))
        say(
            f"  {n_processes:<12}{result.per_second:>12,.0f}{result.daemon_cpu:>10.3f}{result.postgres_cpu:>10.3f}"
            f"{result.broker_cpu:>8.3f}{result.sink_cpu:>8.3f}{allowed:>11,.0f}/s"
        )
    (one, _), (two, allowed) = found
    say(f"  two processes against one: {reached(two / one, 1.6)}")
    say(
        f"  what is measured shares its cores with the sink and the servers: at these costs per 1,000 they allow "
        f"{allowed / one:.2f}x, of which {two / allowed:.0%} was reached"
    )


async def latencies(lab: Lab, arguments: Namespace) -> None:
    """Latency from the producer's send to the request received."""
    seconds = arguments.seconds
    say(f"Latency at 100 events/s for {seconds} s, producer's send to request received over https, milliseconds")
    for loop in ("asyncio", "uvloop"):
        found = await latency(lab, per_second=100, seconds=seconds, loop=loop)
        parts = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
        row = "  ".join(f"{name} {percentile(found, share):.1f}" for name, share in parts)
        say(f"  {loop:<8} {row}  max {found[-1]:.1f}")


async def isolation(lab: Lab, arguments: Namespace) -> None:
    """Latency of healthy hosts among others."""
    seconds = max(1, arguments.seconds // crowds.ROUNDS)
    say(
        f"Healthy hosts' latency among {crowds.N_HOSTS} hosts, {crowds.PER_SECOND} events/s, https, in turn, "
        f"{crowds.ROUNDS} times {seconds} s of each; p99 against that of a crowd that is all well"
    )
    found = await crowds.isolation(lab, seconds)
    base = percentile(found[crowds.CROWDS[0].name], 0.99)
    for crowd in crowds.CROWDS:
        ratio = "" if crowd.most is None else judged(percentile(found[crowd.name], 0.99) / base, crowd.most)
        say(f"  {crowd.name:<28} {shares(found[crowd.name])}  {ratio}")


async def memory(lab: Lab, arguments: Namespace) -> None:
    """Resident memory while a backlog drains."""
    n = arguments.backlog
    result = await drain(lab, "https", n)
    growth = (result.memory_peak - result.memory_early) / 1_048_576
    say(f"Memory while {n:,} events drain over https at {result.per_second:,.0f}/s")
    say(f"  after the first 10,000: {result.memory_early / 1_048_576:.0f} MiB; most afterwards: +{growth:.0f} MiB")


async def dead_host(lab: Lab, arguments: Namespace) -> None:
    """Claims beside a dead host's backlog."""
    say(
        f"Claims of {dead_hosts.N_OTHERS} hosts, a row each, 40 hosts per claim as the daemon claims, "
        f"beside {arguments.rows:,} due rows of one dead host"
    )
    for name, found in (await dead_hosts.dead_host(lab, arguments.rows)).items():
        say(
            f"  {name:<16} {shares(found.claims)}  {found.rows_each:.0f} rows each;"
            f"  backlog look {shares(found.backlogs)}"
        )
        if name != "nothing else":
            say(f"    p99 {judged(percentile(found.claims, 0.99), 50, ' ms')}")


async def backlog(lab: Lab, arguments: Namespace) -> None:
    """A backlog of minutes."""
    found = await backlogs.backlog(lab, arguments.minutes)
    permitted = N_HOSTS * backlogs.HOST_RATE / backlogs.PER_SECOND - 1
    say(
        f"Backlog of {arguments.minutes:g} minutes at {backlogs.PER_SECOND}/s ({found.n_rows:,} rows) while events go "
        f"on coming, {N_HOSTS} hosts of {backlogs.HOST_RATE:g}/s"
    )
    say(
        f"  gone after {found.seconds:.1f} s, at {reached(found.times_arrival, 3)} the rate of arrival; "
        f"limits permit {permitted:g}x"
    )
    say(f"  worst window of any host over its limit: {judged(found.worst_excess, 0, ' requests')}")


async def snapshot(lab: Lab, arguments: Namespace) -> None:
    """Claims while nothing dead can be cleaned away; the same without the floor as control."""
    say(
        f"Claims at {snapshots.PER_SECOND:,} deliveries/s, one in five retried, while a transaction holds the oldest "
        f"snapshot for {arguments.hold} s"
    )
    for name, has_floor in (("as it is", True), ("control: without the floor", False)):
        course = await snapshots.snapshot(lab, arguments.hold, has_floor=has_floor)
        first, last = course.quarter(0), course.quarter(3)
        say(f"  {name}: {course.per_second:,.0f}/s settled, {course.n_dead:,} dead rows at the end")
        say(f"    first quarter {shares(first)}")
        say(f"    last quarter  {shares(last)}")
        say(f"    looks for backlogs {shares(sorted(course.backlogs))}")
        if has_floor:
            say(f"    p99 of the last quarter {judged(percentile(last, 0.99), 50, ' ms')}")


async def takeover(lab: Lab, arguments: Namespace) -> None:
    """A dead process's rows: how long until it is found out, how long until they are free."""
    for n_waiting in (0, arguments.rows):
        took = await takeovers.moving(lab, n_waiting)
        say(f"Takeover of {takeovers.N_OWNED:,} rows beside {n_waiting:,} others: {judged(took, _ENOUGH, ' s')}")
    found = await takeovers.finding_out(lab, arguments.kills)
    p50, p99 = percentile(found, 0.5), percentile(found, 0.99)
    say(f"From kill -9 to the takeover, {takeovers.LEASE_SECONDS} s leases, {len(found)} kills")
    say(f"  p50 {p50:.1f} s, max {found[-1]:.1f} s, p99 {judged(p99, 20, ' s')}")


async def lists(lab: Lab, arguments: Namespace) -> None:
    """Every list call with every filter, on a month of logs."""
    archive, found = await listings.lists(
        lab, n_deliveries=arguments.deliveries, n_attempts=arguments.attempts, n_requests=arguments.requests
    )
    say(
        f"List calls over HTTP, {arguments.requests} requests each, one at a time, on {archive.n_attempts:,} attempts "
        f"of {archive.n_deliveries:,} deliveries to 50 endpoints in 30 days"
    )
    for name, listing in found.items():
        p99 = percentile(listing.milliseconds, 0.99)
        say(
            f"  {name:<50} {listing.n_rows:>4} rows  p50 {percentile(listing.milliseconds, 0.5):6.1f}  "
            f"p99 {judged(p99, listings.TARGET_MS, ' ms')}"
        )


async def api_load(lab: Lab, arguments: Namespace) -> None:
    """Delivery latency while the API is read from."""
    seconds = arguments.seconds
    say(
        f"Latency at {readers.PER_SECOND} events/s over https, without and with {READS_PER_SECOND} API requests/s "
        f"(mixed reads), in turn, {readers.ROUNDS} times {max(1, seconds // readers.ROUNDS)} s of each, uvloop"
    )
    for name, processes in readers.LAYOUTS:
        quiet, read = await readers.api_load(lab, processes, seconds)
        say(f"  {name}")
        say(f"    quiet      {shares(quiet.milliseconds)}")
        say(f"    with reads {shares(read.milliseconds)}")
        for share_name, share in (("p50", 0.5), ("p99", 0.99)):
            ratio = percentile(read.milliseconds, share) / percentile(quiet.milliseconds, share)
            say(f"    {share_name} {judged(ratio, 1.2)}")
        used = ", ".join(f"{who} {used:.2f}" for who, used in read.more_per_answer(quiet).items())
        say(f"    CPU-ms per API request: {used}")
        say(f"    {read.answers:,} answers, {read.refused} of them no 200; {read.late} not asked for in time")


PARTS: Final[Mapping[str, Callable[[Lab, Namespace], Coroutine[Any, Any, None]]]] = MappingProxyType(
    {
        "throughput": throughput,
        "scaling": scaling,
        "latency": latencies,
        "isolation": isolation,
        "memory": memory,
        "dead-host": dead_host,
        "backlog": backlog,
        "snapshot": snapshot,
        "takeover": takeover,
        "lists": lists,
        "api-load": api_load,
    }
)
"""In the order in which they run."""
