import ast
from pathlib import Path

from tests.house.files import PACKAGE, ROOT, functions_in, python_files, shown

MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 500


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body or function.end_lineno is None:
        return 0
    return function.end_lineno - body[0].lineno + 1


def module_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def test_no_function_is_longer_than_a_screen() -> None:
    sizes = sorted(
        (
            (body_lines(function), f"{shown(file)}: {function.name}")
            for file in [*python_files(PACKAGE), *python_files(ROOT / "tests")]
            for function in functions_in(file)
        ),
        reverse=True,
    )

    # A look, for whoever runs this with -s or sees it fail.
    print("\nlargest functions:", *(f"{lines:4} {name}" for lines, name in sizes[:10]), sep="\n  ")
    assert [name for lines, name in sizes if lines > MAX_FUNCTION_LINES] == []


def test_no_module_has_outgrown_its_noun() -> None:
    sizes = sorted(((module_lines(file), shown(file)) for file in python_files(PACKAGE)), reverse=True)

    print("\nlargest modules:", *(f"{lines:4} {name}" for lines, name in sizes[:10]), sep="\n  ")
    assert [name for lines, name in sizes if lines > MAX_MODULE_LINES] == []
