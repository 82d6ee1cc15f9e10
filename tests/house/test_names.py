import re
from pathlib import Path

import pytest

from tests.house.files import PACKAGE, ROOT, python_files, shown

# They say nothing about the journey: a noun of it, or a verb for the effect, does.
BANNED = {
    "handler",
    "handlers",
    "helper",
    "helpers",
    "manager",
    "managers",
    "misc",
    "processor",
    "processors",
    "service",
    "util",
    "utils",
}


def words(name: str) -> set[str]:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return {word for word in parted.lower().split("_") if word}


DEFINED = re.compile(r"^\s*(?:class|def|async def) (\w+)", re.MULTILINE)


def defined_names(file: Path) -> list[str]:
    return [file.stem, file.parent.name, *DEFINED.findall(file.read_text(encoding="utf-8"))]


def test_no_module_class_or_function_has_a_name_that_says_nothing() -> None:
    faults = [
        f"{shown(file)}: {name}"
        for file in [*python_files(PACKAGE), *python_files(ROOT / "tests")]
        for name in defined_names(file)
        if words(name) & BANNED
    ]

    assert not faults


@pytest.mark.parametrize(
    ("name", "expected"),
    [("_EventHandler", {"event", "handler"}), ("run_http_util", {"run", "http", "util"})],
)
def test_names_are_split_into_words(name: str, expected: set[str]) -> None:
    assert words(name) == expected
