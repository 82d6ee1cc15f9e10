"""One run of chaos: a world, its cycles, quiet, judgement."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from dispatcher.kit.failpoints import Point
from tests.chaos.cycles import Tormentor
from tests.chaos.history import Limit, check
from tests.chaos.points import Action, Cycle, Sweep, Target
from tests.chaos.report import Report
from tests.chaos.world import HOST_BURST, HOST_RATE, Size, chaos_world

ACTIONS: tuple[Action, ...] = tuple(Action)
HUNG: frozenset[Point] = frozenset(
    {
        Point.ACCEPT_SENT,
        Point.ATTEMPT_WRITTEN,
        Point.SETTLE_SENT,
        Point.CLAIM_SENT,
        Point.REPLAY_STEPPED,
        Point.TAKEOVER_LOCKED,
    }
)
"""Where a process hangs beyond its lease: wherever it may wake up and write, or has others wait for its locks."""


def targets(points: Sequence[Point], actions: Sequence[Action]) -> list[Target]:
    """Return every point with every action that makes sense there."""
    return [
        Target(point, action) for point in points for action in actions if action is not Action.HANG or point in HUNG
    ]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a run does: each of `targets` once, then `n_random` cycles, for at most `seconds` in all.

    `host_limit` is what any host may get from all processes together. `without` names a guard that is taken out; with
    `apache` the broker is Apache Kafka. Within `quiet_seconds` nothing may be left open: three times the minute after
    which a consumer whose group left it waiting is made anew.
    """

    targets: Sequence[Target]
    n_random: int = 20
    seconds: float = 600.0
    seed: int = 1
    host_limit: Limit = Limit(HOST_RATE, HOST_BURST)  # noqa: RUF009 - immutable
    size: Size = field(default_factory=Size)
    quiet_seconds: float = 180.0
    without: str | None = None
    apache: bool = False


async def run(folder: Path, wishes: Wishes, say: Callable[[str], None]) -> Report:
    """Do it and return what came of it."""
    chance = Random(wishes.seed)
    async with chaos_world(folder, wishes.size, wishes.seed, without=wishes.without, apache=wishes.apache) as world:
        cycles: list[Cycle] = []
        began = time.monotonic()

        def tell(cycle: Cycle) -> None:
            cycles.append(cycle)
            flaw = "" if cycle.reached else "  NOT AS PLANNED"
            say(
                f"{len(cycles):>5}  {cycle.name:<36}{cycle.seconds:>6.1f} s  in flight {cycle.exposed:>4}"
                f"  events {world.load.n_sent:>8,}{flaw}"
            )

        sweep, tormentor = Sweep(world, chance), Tormentor(world, chance, tell)
        for target in chance.sample(list(wishes.targets), len(wishes.targets)):
            if time.monotonic() - began < wishes.seconds:
                tell(await sweep.cycle(target))
        await tormentor.run(wishes.n_random, began + wishes.seconds)
        seconds = time.monotonic() - began
        await sweep.fill()
        quiet = await world.quiesce(wishes.quiet_seconds)
        exit_codes = await world.processes.end()
        history = await world.history()
        return Report(
            cycles,
            check(history, wishes.host_limit.behind(world.links.worst_pause_seconds)),
            world.takeovers.seconds,
            tuple(exit_codes),
            tuple(world.processes.fallen),
            seconds,
            quiet_seconds=quiet,
            ends=dict(world.processes.ends),
            harms=tuple(world.links.harms),
            seed=wishes.seed,
            links_pause_seconds=world.links.worst_pause_seconds,
        )
