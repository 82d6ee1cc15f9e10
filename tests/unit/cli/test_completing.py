"""What the shell offers at the tab key."""

import subprocess
from pathlib import Path

import pytest

from dispatcher.cli.completing import event_types, subscriptions
from tests.support.daemon import clean_environment, command


def test_event_types_are_offered_with_what_they_mean() -> None:
    offered = dict(event_types("verification.c"))

    assert set(offered) == {"verification.created", "verification.completed", "verification.canceled"}
    assert all(offered.values())


def test_groups_can_be_subscribed_too() -> None:
    assert [name for name, _ in subscriptions("check")] == ["check.completed", "check.*"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("dispatcher dead", ["dead-events"]),
        ("dispatcher endpoints de", ["delete"]),
        ("dispatcher trigger check", ["check.completed"]),
        ("dispatcher endpoints show we", []),
        ("dispatcher users re", ["renew", "remove"]),
        ("dispatcher users remove usr", []),
        ("dispatcher users invite ada@example.com --role v", ["viewer"]),
    ],
)
def test_the_shell_is_answered_even_where_no_dispatcher_is_known(
    tmp_path: Path, words: str, offered: list[str]
) -> None:
    environment = {
        **clean_environment({"DATA_DIR": str(tmp_path)}),
        "XDG_CONFIG_HOME": str(tmp_path),
        "_DISPATCHER_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(command(), env=environment, capture_output=True, text=True, check=False, timeout=50)

    assert done.stdout.split() == offered
    assert "Traceback" not in done.stderr
