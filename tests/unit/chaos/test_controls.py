"""The list of guards is whole, and every test that it names exists."""

import ast
from pathlib import Path

import pytest

from tests.chaos.controls import ELSEWHERE, GUARDS

ROOT = Path(__file__).parents[3]
PROMISES = [f"I{number}" for number in range(1, 13)]


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_has_a_guard_with_a_control(promise: str) -> None:
    controls = [guard for guard in GUARDS.values() if promise in guard.promises]

    assert promise in ELSEWHERE or controls


@pytest.mark.parametrize("name", GUARDS)
def test_every_guard_has_a_control_of_some_kind(name: str) -> None:
    guard = GUARDS[name]

    assert set(guard.promises) <= set(PROMISES)
    assert guard.broken or guard.inline or guard.in_chaos
    assert (guard.remove is not None) == bool(guard.broken or guard.in_chaos)


@pytest.mark.parametrize("test", sorted({one for guard in GUARDS.values() for one in guard.broken + guard.inline}))
def test_every_test_that_is_named_exists(test: str) -> None:
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))

    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
