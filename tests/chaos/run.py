"""One run of chaos: a world, its cycles, quiet, judgement."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from dispatcher.kit.failpoints import Point
from tests.chaos.cycles import Cycle, Tormentor
from tests.chaos.history import Limit, check
from tests.chaos.report import Report
from tests.chaos.world import HOST_BURST, HOST_RATE, Size, chaos_world


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a run does: each of `points` once, then `n_random` cycles, for at most `seconds` in all.

    `host_limit` is what any host may get from all processes together.
    """

    points: Sequence[Point] = tuple(Point)
    n_random: int = 20
    seconds: float = 600.0
    seed: int = 1
    host_limit: Limit = Limit(HOST_RATE, HOST_BURST)  # noqa: RUF009 - immutable
    size: Size = field(default_factory=Size)
    quiet_seconds: float = 90.0


async def run(folder: Path, wishes: Wishes, say: Callable[[str], None]) -> Report:
    """Do it and return what came of it."""
    chance = Random(wishes.seed)
    async with chaos_world(folder, wishes.size, wishes.seed) as world:
        tormentor = Tormentor(world, chance)
        cycles: list[Cycle] = []
        began = time.monotonic()

        def told(cycle: Cycle) -> None:
            cycles.append(cycle)
            flaw = "" if cycle.reached else "  NOT AS PLANNED"
            say(
                f"{len(cycles):>5}  {cycle.name:<36}{cycle.seconds:>6.1f} s  in flight {cycle.exposed:>4}"
                f"  events {world.load.n_sent:>8,}{flaw}"
            )

        for point in chance.sample(list(wishes.points), len(wishes.points)):
            if time.monotonic() - began < wishes.seconds:
                told(await tormentor.at_point(point))
        while len(cycles) < len(wishes.points) + wishes.n_random and time.monotonic() - began < wishes.seconds:
            told(await tormentor.at_random())
        seconds = time.monotonic() - began
        await tormentor.repair()
        await world.quiesce(wishes.quiet_seconds)
        exit_codes = await world.processes.end()
        history = await world.history()
        findings = check(history, wishes.host_limit)
        return Report(
            cycles,
            findings,
            world.takeovers.seconds,
            tuple(exit_codes),
            tuple(world.processes.fallen),
            seconds,
        )
