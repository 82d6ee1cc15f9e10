import ast

import pytest

from tests.house.files import PACKAGE, ROOT, imports_in, python_files, shown, tree_of

# Who may speak to what. Import contracts say it too; these see imports inside functions and for type checkers as well.
FENCES = {
    "aiokafka": ("dispatcher/intake/",),
    "asyncpg": ("dispatcher/ledger/",),
    "cryptography": ("dispatcher/vault.py",),
    "httptools": ("dispatcher/sending/",),
}


def test_every_package_says_what_belongs_in_it() -> None:
    without = [
        shown(file)
        for file in python_files(PACKAGE)
        if file.name == "__init__.py" and not ast.get_docstring(tree_of(file))
    ]
    unmarked = [
        shown(folder)
        for folder in {file.parent for file in python_files(PACKAGE)}
        if not (folder / "__init__.py").exists()
    ]

    assert not without
    assert not unmarked


def test_every_module_begins_with_a_docstring() -> None:
    assert [shown(f) for f in python_files(PACKAGE) if not ast.get_docstring(tree_of(f))] == []


@pytest.mark.parametrize("library", FENCES)
def test_a_library_is_spoken_to_from_one_room_only(library: str) -> None:
    outside = [
        shown(file)
        for file in python_files(PACKAGE)
        if any(name.split(".")[0] == library for name in imports_in(file))
        and not shown(file).startswith(FENCES[library])
    ]

    assert not outside


def test_what_customers_install_imports_nothing_of_ours() -> None:
    faults = [
        f"{shown(file)}: {name}"
        for file in python_files(PACKAGE / "receiver")
        for name in imports_in(file)
        if name.startswith("dispatcher") and not name.startswith("dispatcher.receiver")
    ]

    assert not faults


def test_the_product_never_imports_its_tests() -> None:
    faults = [
        shown(file) for file in python_files(PACKAGE) if any(name.split(".")[0] == "tests" for name in imports_in(file))
    ]

    assert not faults
    assert (ROOT / "tests").is_dir()
