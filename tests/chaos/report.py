"""What a run of chaos came to: the table, and whether it is good."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.history import Findings, Rule
from tests.chaos.points import Action, Cycle
from tests.chaos.toxics import Harm, Link

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a run knows at its end."""

    cycles: Sequence[Cycle]
    findings: Findings
    takeovers: Sequence[float]
    exit_codes: Sequence[int]
    fallen: Sequence[str]
    seconds: float
    quiet_seconds: float = 0.0
    ends: Mapping[str, int] = field(default_factory=dict)
    harms: Sequence[Harm] = ()
    seed: int = 0
    links_pause_seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Tell whether every promise held, every point was reached and every process stopped in good order."""
        if self.findings.violations or self.fallen or any(self.exit_codes):
            return False
        return all(one.reached for one in self.cycles)

    def lines(self) -> Iterator[str]:
        """Give the table, and after it what is wrong."""
        for name, value in self._rows():
            yield f"  {name:<30}{value:>34}"
        yield from self._points()
        yield from self._toxics()
        yield from self._acts()
        yield from self._flaws()

    def _rows(self) -> Iterator[tuple[str, str]]:
        findings = self.findings
        shares = ((0.5, "p50"), (0.99, "p99"), (1.0, "max"))
        yield "seed", f"{self.seed}"
        yield "kills", f"{sum(one.n_kills for one in self.cycles):,} in {len(self.cycles):,} cycles"
        yield "cycles per minute", f"{len(self.cycles) / max(self.seconds, 1e-9) * 60:.1f}"
        yield "links spoilt", f"{len(self.harms):,}"
        yield "worst pause of the proxies", f"{self.links_pause_seconds:.2f} s"
        yield "events", f"{findings.n_events:,}"
        yield "deliveries", f"{findings.n_deliveries:,}"
        yield "lost", f"{findings.count(Rule.LOST) + findings.count(Rule.OPEN):,}"
        yield "duplicates", f"{findings.n_duplicates:,}"
        yield "bound (in flight at kills)", f"{findings.bound:,}"
        yield "sent again, answer lost", f"{findings.n_unheard:,}"
        yield (
            "takeover " + " / ".join(name for _, name in shares),
            (" / ".join(f"{percentile(self.takeovers, share):.1f}" for share, _ in shares) + " s"),
        )
        yield "time to quiesce", f"{self.quiet_seconds:.1f} s"
        yield "worst rate over b + rW", f"{findings.worst_excess:+.1f} requests"
        yield "violations", f"{len(findings.violations):,}"

    def _points(self) -> Iterator[str]:
        """Give a row for each point: what was done there, how often it was reached, what was in flight."""
        swept: dict[str, list[Cycle]] = {}
        for cycle in self.cycles:
            if cycle.target is not None:
                swept.setdefault(cycle.target.point, []).append(cycle)
        if not swept:
            return
        yield f"  {'point':<22}" + "".join(f"{action:>8}" for action in Action) + f"{'in flight':>12}{'seconds':>10}"
        for point in sorted(swept):
            done = [(one, one.target.action) for one in swept[point] if one.target is not None]
            counts = "".join(
                f"{f'{sum(c.reached for c, a in done if a is action)}/{sum(a is action for _, a in done)}':>8}"
                for action in Action
            )
            exposed = sum(one.exposed for one in swept[point])
            seconds = sum(one.seconds for one in swept[point])
            yield f"  {point:<22}{counts}{exposed:>12}{seconds:>10.1f}"

    def _toxics(self) -> Iterator[str]:
        for link in Link:
            found = Counter(harm.toxic.value for harm in self.harms if harm.link is link)
            if found:
                yield f"  links to {link:<10} " + ", ".join(f"{name} {n}" for name, n in sorted(found.items()))

    def _acts(self) -> Iterator[str]:
        acts = Counter(one.name for one in self.cycles if one.target is None)
        for title, found in (("acts", acts), ("ends", self.ends)):
            if found:
                yield f"  {title}: " + ", ".join(f"{name} {n}" for name, n in sorted(found.items()))

    def _flaws(self) -> Iterator[str]:
        violations = self.findings.violations
        for rule, n in Counter(one.rule for one in violations).items():
            yield f"  {rule}: {n}"
        for violation in violations[:_SHOWN]:
            yield f"    {violation.rule}: {violation.detail}"
        yield from (f"  {one}" for one in self.fallen)
        for cycle in self.cycles:
            if not cycle.reached:
                yield f"  not as planned: {cycle.name}"
        if any(self.exit_codes):
            yield f"  exit codes at the end: {list(self.exit_codes)}"


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that `part` of all are not above; NaN without any."""
    if not values:
        return math.nan
    return sorted(values)[math.ceil(part * len(values)) - 1]
