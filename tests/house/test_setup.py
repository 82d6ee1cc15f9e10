"""Which Python the environment is made of."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.files import ROOT

_PROBES = {"slow": "*enable-optimizations*", "old": "*version_info*", "bare": "*ensurepip*"}
"""What each kind of Python fails at: the question that `.ci/setup` asks it."""


def _python(folder: Path, name: str, *, kind: str = "good") -> Path:
    """Put a Python into the path that says of itself to be of this kind, and else is the one that runs this test."""
    refuses = f'case "$*" in {_PROBES[kind]}) exit 1;; esac\n' if kind in _PROBES else ""
    quick = "" if kind == "slow" else 'case "$*" in *enable-optimizations*) exit 0;; esac\n'
    made = folder / name
    made.write_text(f'#!/bin/sh\n{refuses}{quick}exec {sys.executable} "$@"\n')
    made.chmod(0o755)
    return made


def _chosen(folder: Path, **environment: str) -> str:
    path = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", ROOT / ".ci/setup", "which", folder],
        env={**os.environ, "PYTHON": "", **environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_the_first_python_that_is_built_for_speed_is_taken(tmp_path: Path) -> None:
    _python(tmp_path, "python3.11", kind="slow")
    quick = _python(tmp_path, "python3.12")

    assert _chosen(tmp_path) == str(quick)


def test_a_python_that_is_named_is_taken_however_it_was_built(tmp_path: Path) -> None:
    _python(tmp_path, "python3.11")
    named = _python(tmp_path, "mine", kind="slow")

    assert _chosen(tmp_path, PYTHON=str(named)) == str(named)


@pytest.mark.parametrize("kind", ["old", "bare"])
def test_a_python_that_cannot_serve_is_passed_over(tmp_path: Path, kind: str) -> None:
    _python(tmp_path, "python3.11", kind=kind)
    good = _python(tmp_path, "python3.12")

    assert _chosen(tmp_path) == str(good)


def test_a_slow_python_serves_where_there_is_no_other(tmp_path: Path) -> None:
    for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3"):
        _python(tmp_path, name, kind="slow")

    assert _chosen(tmp_path) == str(tmp_path / "python3.11")
