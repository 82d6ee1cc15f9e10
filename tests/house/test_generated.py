import pytest

from dispatcher.telemetry.metrics import catalogue
from tests.house import generated
from tests.house.closing import closing_line
from tests.house.generated import SETTINGS_BEGIN, SETTINGS_END


def test_the_catalogue_of_metrics_names_each_once_with_all_its_labels() -> None:
    listed = generated.metrics_yaml()

    for one in catalogue(["verification.created"]):
        assert listed.count(f"name: {one.name}{'_total' * (one.kind == 'counter')}\n") == 1


def test_only_what_stands_between_the_marks_is_generated() -> None:
    page = f"before\n{SETTINGS_BEGIN}\nold\n{SETTINGS_END}\nafter\n"

    renewed = generated.readme(page)

    assert renewed.startswith(f"before\n{SETTINGS_BEGIN}\n\n| key |")
    assert renewed.endswith(f"|\n\n{SETTINGS_END}\nafter\n")
    assert generated.readme(renewed) == renewed
    assert generated.readme("no marks") == "no marks"


def test_what_is_generated_is_what_its_source_says() -> None:
    missing = {file.name for file in generated.generated_files() if not file.exists()}

    assert [name for name in generated.stale_files() if name.rsplit("/")[-1] not in missing] == []


@pytest.mark.parametrize(
    ("tallies", "expected"),
    [
        ([], " no tests ran in 0s (0:00 min) "),
        (
            [{"passed": 3, "failed": 1}, {"passed": 4, "skipped": 2, "failed": 0}],
            " 1 failed, 7 passed, 2 skipped in 0s (0:00 min) ",
        ),
    ],
)
def test_the_closing_line_adds_up_every_run(tallies: list[dict[str, int]], expected: str) -> None:
    assert closing_line(tallies, 0).strip("=") == expected
