"""Run the benchmark and print its tables: `make bench`. Options choose parts; sizes are the README's by default."""

import argparse
import asyncio
import platform

from tests.bench.lab import N_CORES, Stolen, open_lab
from tests.bench.parts import PARTS, say


def main() -> None:
    """Parse the command line, open the lab, run the parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all unless given")
    parser.add_argument(
        "--apache", action="store_true", help="use Apache Kafka (JDK and Maven), not the embedded broker"
    )
    parser.add_argument("--n", type=int, default=20_000, help="events of a drain")
    parser.add_argument("--seconds", type=int, default=20, help="of latency, isolation and api-load")
    parser.add_argument("--backlog", type=int, default=200_000, help="events of the memory part")
    parser.add_argument("--rows", type=int, default=1_000_000, help="due rows of the dead host; rows beside a takeover")
    parser.add_argument("--minutes", type=float, default=10.0, help="of arrivals in the backlog part")
    parser.add_argument("--hold", type=int, default=120, help="seconds for which the oldest snapshot is held")
    parser.add_argument("--kills", type=int, default=21, help="of the takeover part, three at a time")
    parser.add_argument("--deliveries", type=int, default=1_000_000, help="of the lists part")
    parser.add_argument(
        "--attempts", type=int, default=5_000_000, help="of the lists part, a multiple of its deliveries"
    )
    parser.add_argument("--requests", type=int, default=100, help="of each call of the lists part")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    say(f"Python {platform.python_version()}, {N_CORES} cores, {platform.machine()}")
    with open_lab(apache=arguments.apache) as lab:
        say(f"broker: {lab.broker_name}; PostgreSQL and the broker share the cores with the daemon and the sink\n")
        for name, part in PARTS.items():
            if not arguments.parts or name in arguments.parts:
                stolen = Stolen()
                asyncio.run(part(lab, arguments))
                # A figure of an hour in which much was stolen says more of the neighbours than of us.
                say(f"  of the cores' time, other machines had {stolen.share:.1%} meanwhile\n")


if __name__ == "__main__":
    main()
