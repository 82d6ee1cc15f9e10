"""`dispatcher config`, run as a person runs it."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return what a sound configuration sets, its key ring written by the command itself."""
    made = config({}, "make-key-ring", str(tmp_path / "ring.json"))
    assert (made.returncode, made.stdout) == (0, "")
    return {
        "DISPATCHER_KAFKA__BOOTSTRAP_SERVERS": "kafka:9092",
        "DISPATCHER_DATABASE__URL": "postgresql://dispatcher:hunter2@db/dispatcher",
        "DISPATCHER_SECRETS__KEY_FILE": str(tmp_path / "ring.json"),
    }


def config(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command with nothing but these variables."""
    command = [sys.executable, "-m", "dispatcher", "config", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=50)


def test_a_sound_configuration_is_shown_with_its_sources_and_without_its_secrets(environ: dict[str, str]) -> None:
    checked = config(environ, "check", "-o", "json")

    rows = {row["key"]: row for row in json.loads(checked.stdout)}
    assert checked.returncode == 0
    assert rows["DISPATCHER_KAFKA__BOOTSTRAP_SERVERS"]["source"] == "env"
    assert rows["DISPATCHER_LIMITS__IN_FLIGHT"] == {
        "key": "DISPATCHER_LIMITS__IN_FLIGHT",
        "value": "1000",
        "source": "default",
    }
    assert "hunter2" not in checked.stdout + checked.stderr


def test_every_fault_is_told_and_the_exit_is_one() -> None:
    checked = config({"DISPATCHER_KAFKA__GROUPID": "x", "DISPATCHER_LIMITS__HOST_RATE": "-1"}, "check")

    assert (checked.returncode, checked.stdout) == (1, "")
    for part in ("KAFKA__GROUP_ID?", "LIMITS__HOST_RATE", "DATABASE__URL is required"):
        assert part in checked.stderr
    assert "Traceback" not in checked.stderr


def test_a_key_ring_that_cannot_be_used_fails_the_check(environ: dict[str, str]) -> None:
    Path(environ["DISPATCHER_SECRETS__KEY_FILE"]).write_text('{"primary": [], "keys": {}}')

    checked = config(environ, "check")

    assert checked.returncode == 1
    assert "the primary key" in checked.stderr
    assert "Traceback" not in checked.stderr


def test_a_key_ring_is_private_and_never_replaced(environ: dict[str, str]) -> None:
    ring = Path(environ["DISPATCHER_SECRETS__KEY_FILE"])
    before = ring.read_bytes()

    again = config({}, "make-key-ring", str(ring))

    assert again.returncode == 1
    assert "File exists" in again.stderr
    assert ring.read_bytes() == before
    assert stat.S_IMODE(ring.stat().st_mode) == 0o600
