"""Migration files run in the order of their numbers, once, wherever they come from."""

from collections import Counter

from dispatcher.ledger.migrate import migrations
from tests.house.files import PACKAGE

# Skipped once. Databases have run what follows, so what came under this number now would run behind it.
NEVER_USED = {4}


def test_no_number_is_given_twice_or_to_what_would_run_behind_its_followers() -> None:
    numbers = [one.version for one in migrations()]

    assert [number for number, n in Counter(numbers).items() if n > 1] == []
    assert not NEVER_USED & set(numbers)


def test_a_migration_bears_programs_that_there_are_or_none() -> None:
    numbers = [one.version for one in migrations()]

    assert [one.version for one in migrations() if one.bears not in numbers or one.bears > one.version] == []


def test_what_a_file_says_of_bearing_is_understood() -> None:
    files = (PACKAGE / "ledger" / "migrations").glob("*.sql")
    saying = sum(line.startswith("-- bears") for file in files for line in file.read_text("utf-8").splitlines())

    assert saying == sum(one.bears != one.version for one in migrations())
