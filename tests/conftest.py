"""What holds for every test: the shared servers, hypothesis without a stopwatch, and a tally for `make test`."""

import json
import os
import signal
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["tests.support.servers", "tests.kafka.broker"]

# Machines that run two suites at once are slow now and then; the timeout of a test is bound enough.
hypothesis.settings.register_profile("dispatcher", deadline=None, derandomize="CI" in os.environ, print_blob=True)
hypothesis.settings.load_profile("dispatcher")

# A script's background has Ctrl-C ignored, and programs inherit that; those that tests start must hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)

_COUNTED = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Leave this run's counts where `make test` adds them up; workers report to their controller."""
    folder = os.environ.get("DISPATCHER_TEST_TALLY")
    if folder is not None and not hasattr(config, "workerinput"):
        counts = {kind: len(terminalreporter.getreports(kind)) for kind in _COUNTED}
        Path(folder, f"{os.getpid()}.json").write_text(json.dumps(counts), encoding="utf-8")
