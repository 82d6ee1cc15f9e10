"""Every SQL statement of the product, by name, read once from `sql/*.sql`.

A statement begins with a line `-- name: <name>`; the comment lines after it say its purpose, its locks and
the index it relies on.
"""

from importlib import resources
from typing import Final


def _load() -> dict[str, str]:
    statements: dict[str, str] = {}
    folder = resources.files("dispatcher.ledger") / "sql"
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".sql"):
            continue
        for part in file.read_text(encoding="utf-8").split("-- name: ")[1:]:
            name, _, text = part.partition("\n")
            if name.strip() in statements:
                message = f"the statement {name.strip()} is defined twice, the second time in {file.name}"
                raise ValueError(message)
            statements[name.strip()] = text.strip()
    return statements


STATEMENTS: Final = _load()
"""Statement text by name."""
