"""`dispatcher run` before anything runs."""

from pathlib import Path

import pytest

from tests.support.terminal import run

pytestmark = pytest.mark.usefixtures("own_logs")


def test_who_has_configured_nothing_is_told_how_to_look_around() -> None:
    said = run("run", environment={})
    begun = run("run", environment={"DISPATCHER_KAFKA__BOOTSTRAP_SERVERS": "kafka:9092"})

    assert (said.code, begun.code) == (1, 1)
    assert "run --embedded --demo" in said.err
    assert "DISPATCHER_DATABASE__URL is required" in said.err
    assert "--embedded --demo" not in begun.err


def test_a_data_folder_that_cannot_be_one_is_told_in_words(tmp_path: Path) -> None:
    taken = tmp_path / "data"
    taken.touch()

    said = run("run", "--embedded", environment={"DISPATCHER_DATA_DIR": str(taken)})

    assert (said.code, said.err) == (1, f"Error: {taken}: File exists\n")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("--demo", "--demo"),
        ("--embedded --demo --processes 2", "--demo"),
        ("--loop twisted", "--loop"),
        ("--roles cook", "--roles"),
        ("--roles api --processes 2", "--processes"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words: str, option: str) -> None:
    said = run("run", *words.split(), environment={})

    assert said.code == 2
    assert f"Invalid value for {option}" in said.err
