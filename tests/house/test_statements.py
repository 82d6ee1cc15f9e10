import ast
import re
from collections import Counter

from tests.house.files import PACKAGE, ROOT, python_files, shown, strings_in, tree_of

LEDGER = PACKAGE / "ledger"
# Links, sessions and transactions run a statement by its name, the first argument.
RUNNERS = {"fetch", "fetchrow", "fetchval", "execute", "executemany", "stream"}


def defined_statements() -> list[str]:
    names = []
    for file in sorted((LEDGER / "sql").glob("*.sql")):
        names += re.findall(r"^-- name: *(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return names


def looked_up(node: ast.AST) -> str | None:
    """Return the name in `STATEMENTS["name"]`, or in `link.fetch("name", ...)`."""
    match node:
        case ast.Subscript(value=ast.Name(id="STATEMENTS"), slice=ast.Constant(value=str(name))):
            return name
        case ast.Call(func=ast.Attribute(attr=method), args=[ast.Constant(value=str(name)), *_]):
            return name if method in RUNNERS and name.isidentifier() else None
        case _:
            return None


def test_no_statement_is_named_twice() -> None:
    assert [name for name, count in Counter(defined_statements()).items() if count > 1] == []


def test_every_statement_has_its_purpose_in_the_line_below_its_name() -> None:
    faults = []
    for file in sorted((LEDGER / "sql").glob("*.sql")):
        for part in file.read_text(encoding="utf-8").split("-- name: ")[1:]:
            name, _, rest = part.partition("\n")
            if not rest.startswith("-- "):
                faults.append(f"{shown(file)}: {name}")

    assert not faults


def test_the_version_of_an_endpoint_only_grows() -> None:
    # Entity tags are made from it, and clocks are set back.
    growing = re.compile(r"(changed_at|settings_at) = GREATEST\(now\(\), \1 \+ interval '1 microsecond'\)")
    faults = [
        f"{shown(file)}: {update}"
        for file in sorted((LEDGER / "sql").glob("*.sql"))
        for update in re.findall(r"\bUPDATE endpoint\b.*?(?=\bWHERE\b)", file.read_text(encoding="utf-8"), re.DOTALL)
        if re.search("changed_at|settings_at", growing.sub("", update))
    ]

    assert not faults


def test_every_statement_is_used() -> None:
    words = set().union(*(strings_in(file) for file in python_files(LEDGER)))

    assert [name for name in defined_statements() if name not in words] == []


def test_every_statement_that_is_used_exists() -> None:
    defined = set(defined_statements())
    files = [*python_files(PACKAGE), *python_files(ROOT / "tests" / "rooms")]
    missing = [
        f"{shown(file)}: {name}"
        for file in files
        if file.is_relative_to(LEDGER)
        for node in ast.walk(tree_of(file))
        if (name := looked_up(node)) is not None and name not in defined
    ]

    assert not missing


def test_no_sql_hides_in_python() -> None:
    # Migrations read the catalogue and take locks before statements can be trusted; nobody else writes SQL.
    sql = re.compile(r"^\s*(SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM|WITH \w+ AS)\b", re.IGNORECASE)
    faults = [
        f"{shown(file)}: {text.strip()[:40]}"
        for file in python_files(PACKAGE)
        # The receiver's inbox is a SQLite file of the customer's.
        if file.name != "migrate.py" and not {"embedded", "receiver"} & set(file.parts)
        for text in strings_in(file)
        if sql.match(text) and text.strip()[:6].isupper()
    ]

    assert not faults


def test_every_advisory_lock_has_a_number_of_its_own() -> None:
    # One is taken in one place: whoever shares a number waits for what has nothing to do with him.
    files = [*(LEDGER / "sql").glob("*.sql"), *(LEDGER / "migrations").glob("*.sql"), *python_files(PACKAGE)]
    numbers = Counter(number for file in files for number in re.findall(r"\b728113\d{3}\b", file.read_text("utf-8")))
    locks = sum(len(re.findall(r"\bpg_(?:try_)?advisory_(?:xact_)?lock\(", file.read_text("utf-8"))) for file in files)

    assert [number for number, count in numbers.items() if count > 1] == []
    assert len(numbers) == locks
