"""Run the benchmark and print its tables: `make bench`. Options choose parts; sizes are the README's by default."""

import argparse
import asyncio
import os
import platform
import sys

from tests.bench.drain import N_HOSTS, Drain, baseline, drain
from tests.bench.isolation import CROWDS, PER_SECOND, isolation
from tests.bench.isolation import N_HOSTS as N_CROWD
from tests.bench.lab import Lab, open_lab, sink
from tests.bench.latency import latency, percentile

CONCURRENCY = 50


def say(text: str = "") -> None:
    """Print one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def throughput(lab: Lab, n: int) -> None:
    """Drain over https and http on both loops; compare with clients that only post."""
    say(f"Drain of {n:,} events of 1 KiB, fan-out 1, {N_HOSTS} hosts on loopback, nothing else running")
    say(
        "  settings: LIMITS__HOST_RATE=100000 LIMITS__HOST_BURST=10000 LIMITS__HOST_IN_FLIGHT=3, "
        "PostgreSQL with fsync on"
    )
    say(f"  {'':<34}{'per second':>12}{'CPU-s/1,000':>13}{'vs aiohttp':>12}")
    for scheme in ("https", "http"):
        async with sink(lab.folder, n_ports=N_HOSTS, tls=scheme == "https") as to:
            clients = {
                (client, loop): baseline(lab, to, scheme, client, loop, min(n, 10_000), CONCURRENCY)
                for client in ("aiohttp", "wire")
                for loop in ("asyncio", "uvloop")
            }
        ceiling = clients["aiohttp", "asyncio"]["per_1000"]
        for (client, loop), found in clients.items():
            label = f"{scheme} bare {client} client, {loop}"
            say(
                f"  {label:<34}{found['per_second']:>12,.0f}{found['per_1000']:>13.3f}"
                f"{found['per_1000'] / ceiling:>11.2f}x"
            )
        for loop in ("asyncio", "uvloop"):
            result = await drain(lab, scheme, n, loop=loop)
            label = f"{scheme} whole daemon, {loop}"
            say(
                f"  {label:<34}{result.per_second:>12,.0f}{result.daemon_cpu:>13.3f}"
                f"{result.daemon_cpu / ceiling:>11.2f}x"
            )
            say_costs(result)


def say_costs(result: Drain) -> None:
    """Print what the other processes took and the round trips."""
    say(
        f"    beside it: Postgres {result.postgres_cpu:.3f}, broker {result.broker_cpu:.3f}, "
        f"sink {result.sink_cpu:.3f} CPU-s/1,000; {result.round_trips:.1f} round trips to Postgres per 1,000"
    )


async def latencies(lab: Lab, seconds: int) -> None:
    """Latency from the producer's send to the request received."""
    say(f"Latency at 100 events/s for {seconds} s, producer's send to request received over https, milliseconds")
    for loop in ("asyncio", "uvloop"):
        found = await latency(lab, per_second=100, seconds=seconds, loop=loop)
        shares = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
        row = "  ".join(f"{name} {percentile(found, share):.1f}" for name, share in shares)
        say(f"  {loop:<8} {row}  max {found[-1]:.1f}")


async def isolations(lab: Lab, seconds: int) -> None:
    """Latency of healthy hosts among others."""
    say(f"Healthy hosts' latency among {N_CROWD} hosts, {PER_SECOND} events/s for {seconds} s, https, milliseconds")
    base = 0.0
    for crowd in CROWDS:
        found = await isolation(lab, crowd, seconds)
        p50, p99 = percentile(found, 0.5), percentile(found, 0.99)
        base = base or p99
        say(f"  {crowd.name:<28} p50 {p50:6.1f}  p99 {p99:7.1f}  {p99 / base:5.2f}x  max {found[-1]:8.1f}")


async def memory(lab: Lab, n: int) -> None:
    """Resident memory while a backlog drains."""
    result = await drain(lab, "https", n)
    growth = (result.memory_peak - result.memory_early) / 1_048_576
    say(f"Memory while {n:,} events drain over https at {result.per_second:,.0f}/s")
    say(f"  after the first 10,000: {result.memory_early / 1_048_576:.0f} MiB; most afterwards: +{growth:.0f} MiB")


def main() -> None:
    """Parse the command line, open the lab, run the parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["throughput", "latency", "isolation", "memory"])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--backlog", type=int, default=200_000)
    arguments = parser.parse_args()
    say(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    with open_lab() as lab:
        say(f"broker: {lab.broker_name}; PostgreSQL and the broker share the cores with the daemon and the sink\n")
        if "throughput" in arguments.parts:
            asyncio.run(throughput(lab, arguments.n))
        if "latency" in arguments.parts:
            asyncio.run(latencies(lab, arguments.seconds))
        if "isolation" in arguments.parts:
            asyncio.run(isolations(lab, arguments.seconds))
        if "memory" in arguments.parts:
            asyncio.run(memory(lab, arguments.backlog))


if __name__ == "__main__":
    main()
