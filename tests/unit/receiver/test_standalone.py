"""What customers install runs on a bare Python: no package of the daemon's, nothing else of the dispatcher."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.files import PACKAGE

# Without site-packages, and refusing whatever is neither the standard library nor the kit.
BARE = """
import importlib.abc, pkgutil, sys

class Customs(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        ours = name == "dispatcher" or name.startswith("dispatcher.receiver")
        if not ours and name.split(".")[0] not in sys.stdlib_module_names:
            raise ImportError(f"not allowed: {name}")
        return None

sys.meta_path.insert(0, Customs())
sys.path.insert(0, sys.argv[1])
import dispatcher.receiver
for found in pkgutil.walk_packages(dispatcher.receiver.__path__, "dispatcher.receiver."):
    __import__(found.name)
    print(found.name)
foreign = {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - {"dispatcher", "__main__"}
assert not foreign, foreign
exec(sys.argv[2])
"""
USE = """
from dispatcher.receiver import InvalidWebhook, MemoryInbox, Reception, SqliteInbox, verify
try:
    verify({}, b"", "whsec_" + "A" * 32)
except InvalidWebhook as refused:
    assert refused.reason == "header_missing"
SqliteInbox(sys.argv[1] + "/inbox.db").claim("evt_1")
"""


def run_bare(folder: Path, use: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", "-I", "-W", "error", "-c", BARE, str(folder), use],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture(params=["installed without dependencies", "only the folder copied"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder with what a customer has."""
    shutil.copytree(PACKAGE / "receiver", tmp_path / "dispatcher" / "receiver")
    if request.param.startswith("installed"):
        shutil.copy(PACKAGE / "__init__.py", tmp_path / "dispatcher")
    return tmp_path


def test_the_kit_imports_and_works_on_a_bare_python(folder: Path) -> None:
    done = run_bare(folder, USE)

    assert done.returncode == 0, done.stderr
    assert "dispatcher.receiver.adapters" in done.stdout.split()


def test_a_bare_python_would_notice_anything_else(folder: Path) -> None:
    (folder / "dispatcher" / "receiver" / "greedy.py").write_text("import aiohttp\n", encoding="utf-8")

    done = run_bare(folder, "")

    assert "not allowed: aiohttp" in done.stderr
