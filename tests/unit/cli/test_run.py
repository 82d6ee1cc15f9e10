"""`dispatcher run` before anything runs."""

import pytest

from tests.support.terminal import run


def test_who_has_configured_nothing_is_told_how_to_look_around() -> None:
    said = run("run", environment={})
    begun = run("run", environment={"DISPATCHER_KAFKA__BOOTSTRAP_SERVERS": "kafka:9092"})

    assert (said.code, begun.code) == (1, 1)
    assert "run --embedded --demo" in said.err
    assert "DISPATCHER_DATABASE__URL is required" in said.err
    assert "--embedded --demo" not in begun.err


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
