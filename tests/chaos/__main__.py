"""Break things on purpose while events flow, and judge what came of it: `make chaos`.

Every point once: a process is killed there, raises, or hangs beyond its lease. Then kills, freezes, restarts, changes
of scale and database crashes at random, on links that are spoilt all the time. The seed is printed.
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from dispatcher.kit.failpoints import Point
from tests.chaos.controls import REMOVABLE
from tests.chaos.points import Action
from tests.chaos.run import Wishes, run, targets
from tests.chaos.world import Size


def say(text: str = "") -> None:
    """Print one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def wishes_of(words: list[str] | None = None) -> tuple[Wishes, Path | None]:
    """Return what the command line asks for, and the folder to keep, if any."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="random unless given")
    parser.add_argument("--cycles", type=int, default=25, help="random cycles after the sweep")
    parser.add_argument("--sweeps", type=int, default=1, help="how often every point is swept")
    parser.add_argument("--point", action="append", type=Point, help="sweep this point only; repeatable")
    parser.add_argument("--action", action="append", type=Action, help="what happens at points; repeatable, else all")
    parser.add_argument("--seconds", type=float, default=900.0, help="start no cycle after these")
    parser.add_argument("--quiet-seconds", type=float, default=180.0, help="until nothing may be left open")
    parser.add_argument("--processes", type=int, default=3, help="at first")
    parser.add_argument("--most", type=int, default=5, help="processes at most")
    parser.add_argument("--per-second", type=float, default=25.0, help="events produced")
    parser.add_argument("--lease", type=int, default=6, help="seconds; 6 is the least that the settings allow")
    parser.add_argument("--without", choices=REMOVABLE, help="take a guard out: the run must fail")
    parser.add_argument(
        "--apache", action="store_true", help="use Apache Kafka (JDK and Maven), not the embedded broker"
    )
    parser.add_argument("--keep", type=Path, help="leave every log in this new folder")
    chosen = parser.parse_args(words)
    return (
        Wishes(
            targets=targets(chosen.point or tuple(Point), chosen.action or tuple(Action)) * chosen.sweeps,
            n_random=chosen.cycles,
            seconds=chosen.seconds,
            seed=chosen.seed,
            without=chosen.without,
            apache=chosen.apache,
            quiet_seconds=chosen.quiet_seconds,
            size=Size(chosen.processes, chosen.most, chosen.per_second, chosen.lease),
        ),
        chosen.keep,
    )


def main() -> int:
    """Run, print, and return the exit code."""
    wishes, kept = wishes_of()
    size = wishes.size
    say(
        f"seed {wishes.seed}: {size.n_processes} processes, {size.per_second:g} events/s, {size.lease_seconds} s leases"
    )
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = kept or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = asyncio.run(run(folder, wishes, say))
    say()
    for line in report.lines():
        say(line)
    say(f"  {'passed' if report.is_good else 'FAILED'}, seed {wishes.seed}")
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
