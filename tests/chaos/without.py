"""Run tests on the program without one of its guards: `python -m tests.chaos.without GUARD TEST…`; they should fail."""

import sys

import pytest

from tests.chaos.controls import remove


def main() -> int:
    """Take the guard out, run the tests, return pytest's exit code: 1 is what one hopes for."""
    guard, *words = sys.argv[1:]
    remove(guard)
    return int(pytest.main(words))


if __name__ == "__main__":
    sys.exit(main())
