import re
from enum import StrEnum

import pytest

from dispatcher.model.access import Role
from dispatcher.model.endpoint import EndpointStatus
from dispatcher.model.event import Environment
from dispatcher.model.outcome import VerdictKind
from tests.house.files import PACKAGE

# A parked or held delivery has no attempt: its verdict is never written beside one.
NEVER_RECORDED = {VerdictKind.PARKED, VerdictKind.HELD}


def allowed_by_database(column: str) -> set[frozenset[str]]:
    migrations = (PACKAGE / "ledger" / "migrations").glob("*.sql")
    text = "".join(file.read_text(encoding="utf-8") for file in migrations)
    return {
        frozenset(re.findall(r"'([^']*)'", listed)) for listed in re.findall(rf"CHECK \({column} IN \(([^)]*)\)", text)
    }


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("environment", set[StrEnum](Environment)),
        ("status", set[StrEnum](EndpointStatus)),
        ("role", set[StrEnum](Role)),
        ("verdict", set[StrEnum](VerdictKind) - NEVER_RECORDED),
    ],
)
def test_the_database_allows_exactly_what_the_code_knows(column: str, expected: set[StrEnum]) -> None:
    assert allowed_by_database(column) == {frozenset(one.value for one in expected)}
