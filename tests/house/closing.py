"""Adds up the tallies of several runs of pytest and prints one closing line, as pytest would."""

import json
import sys
from collections import Counter
from pathlib import Path


def closing_line(tallies: list[dict[str, int]], seconds: int) -> str:
    """Return the line: failures first, then passes, then the rest; kinds that did not occur are left out."""
    total: Counter[str] = Counter()
    for tally in tallies:
        total.update(tally)
    order = ("failed", "passed", "skipped", "xfailed", "xpassed", "error")
    parts = [f"{total[kind]} {kind}" for kind in order if total[kind]]
    text = ", ".join(parts) or "no tests ran"
    return f" {text} in {seconds}s ({seconds // 60}:{seconds % 60:02d} min) ".center(80, "=")


def main() -> None:
    """Run as `python -m tests.house.closing FOLDER SECONDS`."""
    folder, seconds = Path(sys.argv[1]), int(sys.argv[2])
    tallies = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")]
    print(closing_line(tallies, seconds))


if __name__ == "__main__":
    main()
