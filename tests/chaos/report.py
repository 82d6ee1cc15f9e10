"""What a run of chaos came to: the table, and whether it is good."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.cycles import Cycle
from tests.chaos.history import Findings, Rule

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

    @property
    def is_good(self) -> bool:
        """Tell whether every promise held, every point was reached and every process stopped in good order."""
        if self.findings.violations or self.fallen or any(self.exit_codes):
            return False
        return all(one.reached for one in self.cycles)

    def lines(self) -> Iterator[str]:
        """Give the table, and after it what is wrong."""
        findings = self.findings
        rows = (
            ("kill cycles", f"{sum(one.n_kills for one in self.cycles):,} kills in {len(self.cycles):,} cycles"),
            ("cycles per minute", f"{len(self.cycles) / max(self.seconds, 1e-9) * 60:.1f}"),
            ("events", f"{findings.n_events:,}"),
            ("deliveries", f"{findings.n_deliveries:,}"),
            ("lost", f"{findings.count(Rule.LOST) + findings.count(Rule.OPEN):,}"),
            ("duplicates", f"{findings.n_duplicates:,}"),
            ("bound (in flight at kills)", f"{findings.bound:,}"),
            (
                "takeover p50 / p99",
                f"{percentile(self.takeovers, 0.5):.1f} s / {percentile(self.takeovers, 0.99):.1f} s",
            ),
            ("worst rate over b + rW", f"{findings.worst_excess:+.1f} requests"),
            ("violations", f"{len(findings.violations):,}"),
        )
        for name, value in rows:
            yield f"  {name:<28}{value:>28}"
        for rule, n in Counter(one.rule for one in findings.violations).items():
            yield f"  {rule}: {n}"
        for violation in findings.violations[:_SHOWN]:
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
