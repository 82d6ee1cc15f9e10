"""Every metric has a writer: one that is described, scraped and never written says that nothing ever happens."""

import ast
from collections.abc import Iterator, Sequence

import pytest

from dispatcher.telemetry.metrics import RECORD_RESULTS, TOKEN_RESULTS, catalogue
from tests.house.files import PACKAGE, python_files, strings_in, tree_of

DESCRIBED = [one.name.removeprefix("dispatcher_") for one in catalogue([])]
# Labels that no enumeration closes: whoever counts names each of them.
SPELLED = {"records": RECORD_RESULTS, "tokens": TOKEN_RESULTS}


def asked_for(tree: ast.AST) -> Iterator[str]:
    """Give the metrics that a module asks for by their names; a name that is not a literal would escape this test."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"counts", "_counts", "spread"}:
            name = node.args[0]
            assert isinstance(name, ast.Constant), ast.unparse(node)
            yield str(name.value)


WRITERS = {file: set(asked_for(tree_of(file))) for file in python_files(PACKAGE) if file.name != "metrics.py"}


@pytest.mark.parametrize("name", DESCRIBED)
def test_each_described_metric_has_a_writer(name: str) -> None:
    assert any(name in names for names in WRITERS.values())


@pytest.mark.parametrize(("name", "results"), SPELLED.items())
def test_each_spelled_out_label_has_a_writer(name: str, results: Sequence[str]) -> None:
    written = [strings_in(file) for file, names in WRITERS.items() if name in names]

    assert [result for result in results if not any(result in strings for strings in written)] == []


def test_nobody_writes_a_metric_that_is_not_described() -> None:
    assert {name for names in WRITERS.values() for name in names} <= set(DESCRIBED)
